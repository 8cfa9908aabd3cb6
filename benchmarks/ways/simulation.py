"""A federation on one machine, as a study runs it: sites, wire, kept updates, merging, rounds."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ways.parts import timed_parts
from benchmarks.ways.trainers import Setup, base_model, first_adapter
from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.aggregation import fedavg
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.synthetic import FIVE, generate_site
from fedmedlora.federation import in_process, loop
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.federation.spool import Spool
from fedmedlora.models.lora import LoRAModel
from fedmedlora.prompts.registry import get_format
from fedmedlora.runs import atomic
from fedmedlora.study import reuse
from fedmedlora.study.reuse import ReusingSite
from fedmedlora.training.batches import encode_example, render_documents, thin_negatives
from fedmedlora.training.local import LocalSettings
from fedmedlora.training.site import LocalSite, TaskData

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.ways.parts import Place
    from benchmarks.ways.trainers import Precision
    from fedmedlora.core.records import RoundRecord
    from fedmedlora.models.load import BaseModel

_WINDOW_TOKENS = 96  # as a study has it, like the share of windows without entities
_NEGATIVES = 0.3

# Where the callers look, so that the same function counts for the side that calls it.
PARTS: Mapping[str, Sequence[Place]] = {
    "local training": [(LocalSite, "handle")],
    "wire: messages to bytes": [(in_process, "encode")],
    "wire: bytes to messages": [(in_process, "decode")],
    "kept update: request to its digest": [(ReusingSite, "handle")],
    "kept update: to bytes": [(reuse, "encode")],
    "waiting update: written": [(Spool, "keep")],
    "waiting updates: read": [(Spool, "read")],
    "merging: screening": [(fedavg, "screen")],
    "merging: mean": [(fedavg, "mean_of_factors")],
    "record: norms of the changes": [(loop, "change_norm")],
    "files written": [(atomic, "write_file"), (atomic, "write_folder")],
    "disk caches flushed": [(os, "fsync")],
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round: all of it, and what the sites said they trained, in seconds."""

    seconds: float
    site_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Some rounds, and the seconds of all of them by part."""

    rounds: tuple[Round, ...]
    parts: Mapping[str, float]
    num_examples: int
    adapter_bytes: int


class Simulation:
    """Sites with notes of their own, that share one base model, in folders that then go.

    A site holds no validation notes, as the loss on them is no part of training.
    """

    def __init__(
        self,
        setup: Setup,
        precision: Precision,
        num_sites: int,
        notes_per_site: int,
        batch_tokens: int,
    ) -> None:
        base = base_model(setup, precision, setup.kernel)
        self._adapter = first_adapter(base, setup)
        model = LoRAModel(base, self._adapter.spec)
        settings = LocalSettings(setup.learning_rate, epochs=1.0, batch_tokens=batch_tokens)
        self._seed = setup.seed
        self._sites = {
            name: LocalSite(name, model, {"entities": data}, settings, SilentObserver())
            for name, data in _notes_of(base, num_sites, notes_per_site, setup.seed).items()
        }

    def run(self, num_rounds: int, steps: int | None) -> Rounds:
        """So many rounds of `fedavg`, with so many optimiser steps at every site; none: a pass."""
        folder, clock = _scratch(), _Clock()
        with tempfile.TemporaryDirectory(dir=folder) as place, timed_parts(PARTS) as parts:
            work = Path(place) / "work"
            sites = {name: ReusingSite(site, work) for name, site in self._sites.items()}
            outcome = run_rounds(
                arm="fedavg",
                strategy=FedAvg(),
                runtime=InProcessRuntime(sites, work=work),
                sites=sites,
                num_rounds=num_rounds,
                adapter=self._adapter,
                plan=LocalPlan(0, steps=steps),
                seed=self._seed,
                checkpoint=Checkpoint(Path(place) / "adapters"),
                observer=clock,
            )
            found = tuple(
                Round(seconds, tuple(record.site_seconds.values()))
                for seconds, record in zip(clock.seconds, outcome.records, strict=True)
            )
        num_examples = sum(len(site.data["entities"].train) for site in self._sites.values())
        return Rounds(found, dict(parts), num_examples, self._adapter.num_bytes)


class _Clock(SilentObserver):
    """Seconds of each round to where it is saved, which its own record cannot know."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def round_ended(self, record: RoundRecord) -> None:  # noqa: ARG002  # the observer's signature
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def _notes_of(
    base: BaseModel, num_sites: int, notes_per_site: int, seed: int
) -> dict[str, TaskData]:
    """Examples by site; every site's notes are its own, in the manner of one of five hospitals."""
    tags = get_format("compact")
    labels = tuple(default_schema().entity_labels)
    found = {}
    for number in range(num_sites):
        hospital = FIVE[number % len(FIVE)].name
        notes = generate_site(hospital, notes_per_site, seed + number)
        rendered = render_documents(
            notes, tags, base.tokenizer, labels, window_tokens=_WINDOW_TOKENS
        )
        kept = thin_negatives(rendered, keep=_NEGATIVES, seed=seed)
        examples = tuple(encode_example(example, base.tokenizer) for example in kept)
        found[f"site-{number:03d}"] = TaskData(examples, (), len(notes))
    return found


def _scratch() -> Path:
    """A folder on the disk that results lie on: the system's own may be memory."""
    from benchmarks.ways.models import CACHE

    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE
