"""How much memory a study will take at its peak.

What the process holds already is read off: interpreter, base model, notes. What training and
extraction add is found with a ghost of the model (`models/live_bytes.py`) on the study's own
longest passes. Two things no shape tells: the holes between the tensors, as the C library cannot
fill all of them, and the programs that oneDNN writes for each new shape. Their constants were
fitted to some settings of SmolLM2-135M on glibc 2.36; `benchmarks/memory.py` says to which, and how
far the plan is off with those and with others. On a GPU neither is there; plans for GPUs are
untested.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.seeds import derive_seed
from fedmedlora.runs.machine_memory import (
    free_bytes,
    peak_bytes,
    release_free_memory,
    resident_bytes,
    unread_bytes_of,
)
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.decoding_memory import DecodingMemory
from fedmedlora.training.pass_memory import PassMemory, PassMeter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedmedlora.aggregation import StrategyConfig
    from fedmedlora.study.prepare import Prepared
    from fedmedlora.training.batches import EncodedExample
    from fedmedlora.training.local import LocalSettings

# Holes in the heap, by bytes of a number: of so many of the largest tensors, and a share of all.
_HOLES = {2: (2, 0.11), 4: (6, 0.2)}
# That oneDNN keeps for ever for each shape of a product; and how many lengths the passes have that
# extract.
_PROGRAM_BYTES, _LENGTHS_OF_EXTRACTION = 280_000, 40
# Beside the slopes: AdamW's two averages, the round's adapter, what came and what goes back. After
# a round: its outcome, what the model holds, and pages of the file that updates waited in.
_ADAPTERS, _ADAPTERS_KEPT = 5, 4
_LEAST_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on the device that computes.

    Attributes:
        device: `cpu` (resident memory of the process) or `cuda` (what torch has allocated).
        resident: Held before the first step: base model, notes, libraries.
        so_far: The most that was held until then; loading a model may take more than using it.
        training: More than `resident`, at the peak of a site's training.
        extraction: More than `resident`, at the peak of extraction with a merged model.
        judging: More than `resident`, where losses on held-out and server notes are taken.
        programs: What oneDNN keeps of all of these for ever, on top of everything.
        workers: Processes that train beside this one, each with a base model of its own.
        limit: What this process can have; None if unknown.
    """

    device: str
    resident: int
    so_far: int
    training: int
    extraction: int
    judging: int
    programs: int
    workers: int
    limit: int | None

    @property
    def peak(self) -> int:
        """Of the whole study, its beginning included."""
        return max(self.so_far, self.needed)

    @property
    def needed(self) -> int:
        """The most that it will hold from now on."""
        here = max(self.extraction, self.judging, 0 if self.workers else self.training)
        there = self.workers * (self.always + max(self.training, self.judging))
        return self.always + here + there

    @property
    def always(self) -> int:
        """Held by each process all the time."""
        return self.resident + self.programs

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = {"training": self.training, "judging losses": self.judging}
        parts |= {"extraction": self.extraction}
        told = ", ".join(f"{what} {gigabytes(size)}" for what, size in parts.items() if size)
        there = f" of {gigabytes(self.limit)}" if self.limit is not None else ""
        beside = f", {self.workers} workers with their own" if self.workers else ""
        return (
            f"memory: about {gigabytes(self.peak)}{there} at the peak (base model, notes "
            f"and libraries {gigabytes(self.resident)}; on top of it {told or 'nothing'}{beside})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, `needed` and `peak` among them."""
        return asdict(self) | {"needed": self.needed, "peak": self.peak}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MemoryPlan:
        """The plan that `to_json` wrote."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})


def plan_memory(prepared: Prepared) -> MemoryPlan:
    """The peak memory of a study that is about to begin; nothing of it is computed."""
    return Planner(prepared).plan(prepared.settings, prepared.config.evaluation.batch_size)


class Planner:
    """Plans of one study under different settings."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._meter = PassMeter(prepared.model)
        self._device = prepared.base.device
        self._decoding = DecodingMemory(prepared)
        self._decoded: dict[int, tuple[int, PassMemory]] = {}
        self._trained: dict[LocalSettings, tuple[tuple[int, int], tuple[int, int]]] = {}
        self._resident, self._limit = _held(self._device)

    def plan(self, settings: LocalSettings, batch_size: int) -> MemoryPlan:
        """With these settings; all else is the study's."""
        if settings not in self._trained:
            self._trained[settings] = self._training(settings), self._judging(settings)
        (training, trained_products), (judging, judged_products) = self._trained[settings]
        if batch_size not in self._decoded:
            self._decoded[batch_size] = self._decoding.at_peak(batch_size)
        lasting, decoding = self._decoded[batch_size]
        kept = _ADAPTERS_KEPT * self._prepared.initial.num_bytes if training else 0
        num_products = trained_products + judged_products
        num_products += decoding.num_products * _LENGTHS_OF_EXTRACTION
        return MemoryPlan(
            device=self._device.type,
            resident=self._resident,
            so_far=peak_bytes() if self._device.type == "cpu" else self._resident,
            training=training,
            extraction=lasting + kept + self._with_holes(decoding) if lasting else 0,
            judging=judging + kept if judging else 0,
            programs=num_products * _PROGRAM_BYTES if self._device.type == "cpu" else 0,
            workers=int(self._config.federation.processes),
            limit=self._limit,
        )

    def cheaper(self, plan: MemoryPlan) -> Iterator[tuple[dict[str, object], MemoryPlan]]:
        """Settings that need less, those first that cost the least time, and their plans."""
        settings, batch_size = self._prepared.settings, self._config.evaluation.batch_size
        always: dict[str, object] = {}
        while _extraction_is_too_large(plan):
            if batch_size == 1:
                return
            batch_size //= 2
            always["evaluation.batch_size"] = batch_size
            plan = self.plan(settings, batch_size)
        yield always, plan
        longest = settings.micro_batch_tokens or self._meter.num_tokens(self._longest(settings)[0])
        for recompute in sorted({settings.recompute_layers, True}):
            changes = dict(always)
            if recompute != settings.recompute_layers:
                changes["training.recompute_layers"] = "true"
                yield changes, self.plan(replace(settings, recompute_layers=True), batch_size)
            micro = longest // 2
            while micro >= _LEAST_MICRO_BATCH:
                smaller = replace(settings, recompute_layers=recompute, micro_batch_tokens=micro)
                found = self.plan(smaller, batch_size)
                yield changes | {"training.micro_batch_tokens": micro}, found
                micro //= 2

    def _training(self, settings: LocalSettings) -> tuple[int, int]:
        """Bytes at the peak, and products of different shape."""
        if not any(arm.strategy for arm in arms_of(self._config)):
            return 0, 0
        longest, num_lengths = self._longest(settings)
        recompute = settings.recompute_layers
        found = self._meter.training(longest, recompute=recompute)
        adapters = _ADAPTERS * self._prepared.initial.num_bytes
        return adapters + self._with_holes(found), found.num_products * num_lengths

    def _judging(self, settings: LocalSettings) -> tuple[int, int]:
        """Losses on held-out notes and on those of the server, and the slopes of its weights."""
        held_out = [
            example
            for tasks in self._prepared.data.values()
            for data in tasks.values()
            for example in data.validation
        ]
        tokens = settings.reading_tokens
        some = self._meter.largest_reading(held_out, tokens)
        read = self._meter.reading(some)
        found = self._with_holes(read)
        num_products = read.num_products * len(self._prepared.notes.sites)
        notes = self._prepared.server_notes
        if notes is not None and any(_learns(arm.strategy) for arm in arms_of(self._config)):
            rank = self._prepared.initial.spec.rank * len(self._prepared.notes.sites)
            meter = PassMeter(self._prepared.model, rank)
            slopes = meter.training(meter.largest_reading(notes.examples, tokens), recompute=False)
            found = max(found, self._with_holes(slopes))
            num_products += slopes.num_products
        return found, num_products

    def _longest(self, settings: LocalSettings) -> tuple[list[EncodedExample], int]:
        """The longest pass of any client, and how many lengths passes have."""
        data, rounds = self._prepared.data, range(1, self._config.federation.rounds + 1)
        longest: list[list[EncodedExample]] = []
        lengths: set[int] = set()
        parts = (part for arm in arms_of(self._config) for part in arm.client_tasks.items())
        for client, tasks in dict.fromkeys(parts):
            examples = [example for task in tasks for example in data[client][task].train]
            seeds = [derive_seed(self._config.seed, "site", client, number) for number in rounds]
            longest.append(self._meter.largest_pass(examples, settings, seeds))
            lengths |= self._meter.lengths(examples, settings, seeds[0])
        return max(longest, key=self._meter.num_tokens), len(lengths)

    def _with_holes(self, found: PassMemory) -> int:
        if self._device.type != "cpu":
            return found.live_bytes
        of_largest, of_all = _HOLES[min(4, self._prepared.base.output_weight.element_size())]
        return int(found.live_bytes * (1 + of_all) + found.largest_bytes * of_largest)


def _held(device: torch.device) -> tuple[int, int | None]:
    """Bytes held now, those of mapped weights that are still to be read among them; the limit."""
    release_free_memory()
    if device.type == "cuda":
        held, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return held, reserved + torch.cuda.mem_get_info(device)[0]
    free, held = free_bytes(), resident_bytes()
    unread = unread_bytes_of(".safetensors")
    return held + unread, None if free is None else held + unread + free


def _extraction_is_too_large(plan: MemoryPlan) -> bool:
    """Whether no change of training alone can make it fit."""
    needed = plan.always * (1 + plan.workers) + plan.extraction
    return plan.limit is not None and needed > plan.limit


def _learns(strategy: StrategyConfig | None) -> bool:
    return getattr(strategy, "mode", None) in ("auto", "learned")


def gigabytes(size: int) -> str:
    """A size for people."""
    if size < 1e8:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"
