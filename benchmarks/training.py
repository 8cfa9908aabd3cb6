"""Local training: examples a second, ours against TRL's SFTTrainer and a plain loop with peft.

All ways take the same optimiser steps over the same ready-made token ids, from the same weights and
the same adapter. Each lives in a process of its own, so that its peak memory is its own, and their
repetitions take turns. TRL first searches its best setting. That all do the same work is shown by
their losses, step by step in float32.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.harness.targets import Measured
from benchmarks.harness.timing import ratio
from benchmarks.harness.workers import worker
from benchmarks.ways.lessons import (
    PROMPTS,
    PromptName,
    few,
    make_lessons,
    sentence_examples,
    window_examples,
)
from benchmarks.ways.trainers import Ours, PlainPeft, Precision, Setting, Setup, base_model
from benchmarks.ways.trl_trainer import Trl
from fedmedlora.models.dtype import choose_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.harness.workers import Answer, Inline, Worker
    from benchmarks.ways.lessons import Lessons
    from fedmedlora.training.batches import EncodedExample

OURS, TRL, PLAIN = "ours", "TRL SFTTrainer", "plain peft"


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared, on what, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Ours and the plain loop; `auto`: bfloat16 where its products are clearly faster here. TRL
    searches its own."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 2
    own_processes: bool = True
    """Without, memory is that of all ways together: for tests."""
    prompt: PromptName = "html"
    examples: int = 8
    steps: int = 1
    """Optimiser steps that the examples make: the effective batch is `examples / steps`."""
    max_source_tokens: int = 96
    repetitions: int = 5
    search_examples: int = 4
    """One optimiser step with so many examples tries a setting of TRL."""
    parts: tuple[int, ...] = (2, 4)
    """Passes a step that TRL may try."""
    curve_examples: int = 12
    curve_steps: int = 6
    scaling_examples: int = 4
    window_tokens: tuple[int, ...] = (32, 96, 256)
    batch_sizes: tuple[int, ...] = (1, 2, 16)
    shapes: tuple[tuple[int, int], ...] = ((192, 8), (384, 16))
    """Hidden size and layers of smaller random models."""
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "dtype": "float32",
    "threads": 1,
    "own_processes": False,
    "examples": 4,
    "max_source_tokens": 24,
    "repetitions": 2,
    "search_examples": 2,
    "parts": (2,),
    "curve_examples": 6,
    "curve_steps": 3,
    "scaling_examples": 2,
    "window_tokens": (32,),
    "batch_sizes": (2,),
    "shapes": ((192, 1),),
    "rank": 2,
    "alpha": 4.0,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    bench = _Bench(config, say)
    bench.search()
    bench.side_by_side()
    bench.curves()
    bench.scaling()
    return bench.results()


class _Bench:
    """The steps of the benchmark, in order, and what they found."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        torch.set_num_threads(config.threads)
        choice = choose_dtype(config.device)
        say(choice.reason)
        name = choice.name if config.dtype == "auto" else config.dtype
        self.precision: Precision = "bfloat16" if name == "bfloat16" else "float32"
        self.setup = Setup(
            config.model,
            config.device,
            config.threads,
            config.rank,
            config.alpha,
            config.learning_rate,
            config.seed,
            choice.kernel,
        )
        self.tokenizer = base_model(self.setup, self.precision).tokenizer
        self.lessons = make_lessons(self._examples(config.examples), config.steps, config.seed)
        self.best: dict[str, Setting] = {
            OURS: Setting(self.precision),
            PLAIN: Setting(self.precision),
            TRL: Setting(self.precision),
        }
        self.targets: dict[str, Measured] = {}
        self.measurements: dict[str, list[float]] = {}
        self.tables: list[dict[str, Any]] = []

    def search(self) -> None:
        """TRL's best setting: number type first, then padding, then passes a step."""
        lessons = few(self.lessons, self.config.search_examples)
        rows: list[list[Any]] = []
        speeds: dict[Setting, float] = {}
        with self._start(TRL) as peer:
            _train(peer, few(self.lessons, 1), self.best[TRL])  # a first call pays for set-up

            def tried(settings: Sequence[Setting]) -> Setting:
                for setting in settings:
                    seconds = _train(peer, lessons, setting).seconds
                    speeds[setting] = len(lessons.examples) / seconds
                    rows.append([str(setting), len(lessons.examples), seconds, speeds[setting]])
                    self.say(f"{TRL}, {setting}: {speeds[setting]:.2f} examples/s")
                return max(speeds, key=lambda setting: speeds[setting])

            kinds: tuple[Precision, ...] = ("float32", "bfloat16", "autocast")
            best = tried([Setting(kind) for kind in kinds])
            best = tried([replace(best, padding_free=True)])
            fitting = [n for n in self.config.parts if n <= _smallest_step(lessons)]
            self.best[TRL] = tried([replace(best, parts=parts) for parts in fitting])
        columns = ["setting", "examples", "seconds", "examples/s"]
        note = "One optimiser step, examples of middle length. Adapters are float32 in all."
        self._table("Search for TRL's best setting", columns, rows, note)

    def side_by_side(self) -> None:
        """T4 or T5, T15 and the memory of each way."""
        lessons, config = self.lessons, self.config
        self.best[TRL] = _fitting(self.best[TRL], lessons)
        self.say(f"{len(lessons.examples)} examples, {config.repetitions} times each way")
        workers = {name: self._start(name) for name in (TRL, PLAIN, OURS)}
        try:
            for name, way in workers.items():
                _train(way, few(lessons, 1), replace(self.best[name], parts=1))
            answers: dict[str, list[Answer]] = {name: [] for name in workers}
            for _ in range(config.repetitions):
                for name, way in workers.items():
                    answers[name].append(_train(way, lessons, self.best[name]))
        finally:
            for way in workers.values():
                way.close()
        taken = {name: [answer.seconds for answer in found] for name, found in answers.items()}
        self.measurements |= taken
        self.targets["T4" if config.device == "cpu" else "T5"] = ratio(taken[TRL], taken[OURS])
        if config.device == "cpu":
            self.targets["T15"] = ratio(taken[PLAIN], taken[OURS])
        rows, memory = [], []
        for name, seconds in taken.items():
            median = statistics.median(seconds)
            self.say(f"{name}, median {median:.2f} s")
            rows.append(
                [
                    name,
                    str(self.best[name]),
                    len(lessons.examples) / median,
                    lessons.num_tokens / median,
                    lessons.num_completion_tokens / median,
                    answers[name][-1].value[-1],
                ]
            )
            loaded, peak = (
                workers[name].made.peak_memory_bytes,
                max(answer.peak_memory_bytes for answer in answers[name]),
            )
            memory.append([name, str(self.best[name]), loaded / 2**20, peak / 2**20])
        self._table(
            f"Training on {len(lessons.examples)} examples, {config.prompt} prompt",
            ["way", "setting", "examples/s", "useful tokens/s", "answer tokens/s", "last loss"],
            rows,
            f"{_described(lessons)}. Useful tokens are those of prompts and answers, each example "
            "once, whatever a way computes for them.",
        )
        where = "its own process" if config.own_processes else "one process for all"
        self._table(
            "Peak memory",
            ["way", "setting", "model loaded, MiB", "trained, MiB"],
            memory,
            f"Highest resident memory of {where}, libraries included, of the runs above.",
        )

    def curves(self) -> None:
        """Losses over each other, step by step in float32."""
        config = self.config
        examples = self._examples(config.curve_examples)
        lessons = make_lessons(examples, config.curve_steps, config.seed)
        self.say(f"losses of {len(lessons.steps)} steps in float32")
        exact = Setting("float32")
        losses: dict[str, list[float]] = {}
        for name in (OURS, TRL):
            with self._start(name, precision="float32") as way:
                losses[name] = _train(way, lessons, exact).value
        apart = [
            100 * abs(ours - theirs) / theirs
            for ours, theirs in zip(losses[OURS], losses[TRL], strict=True)
        ]
        self.targets["T4-loss"] = Measured(max(apart), apart)
        rows = [
            [step, len(lessons.steps[step - 1]), *pair, apart[step - 1]]
            for step, pair in enumerate(zip(losses[OURS], losses[TRL], strict=True), start=1)
        ]
        self._table(
            "Losses in float32, step by step",
            ["step", "examples", OURS, TRL, "apart, %"],
            rows,
            f"{_described(lessons)}. Same steps, same rates, same first adapter.",
        )

    def scaling(self) -> None:
        """How speed depends on the prompt, the examples, the batch and the model."""
        config = self.config
        count, seed = config.scaling_examples, config.seed
        groups: dict[str, Lessons] = {}
        for prompt in PROMPTS:
            examples = self._examples(count, prompt)
            groups[f"prompt: {prompt}"] = make_lessons(examples, 1, seed)
        for size in config.window_tokens:
            found = window_examples(self.tokenizer, size, count, seed)
            groups[f"compact, windows of {size} tokens"] = make_lessons(found, 1, seed)
        for size in config.batch_sizes:
            total = max(size, count)
            found = self._examples(total)
            groups[f"effective batch {size}"] = make_lessons(found, -(-total // size), seed)
        rows: list[list[Any]] = []
        with self._start(OURS) as ours, self._start(TRL) as peer:
            for way, name in ((ours, OURS), (peer, TRL)):
                _train(way, few(self.lessons, 1), replace(self.best[name], parts=1))
            for title, lessons in groups.items():
                rows.append(self._pair(title, lessons, ours, peer))
        for hidden, layers in config.shapes:
            setup = replace(self.setup, shape=(hidden, layers))
            title = f"random model, {hidden} wide, {layers} layers"
            with self._start(OURS, setup) as ours, self._start(TRL, setup) as peer:
                for way, name in ((ours, OURS), (peer, TRL)):
                    _train(way, few(self.lessons, 1), replace(self.best[name], parts=1))
                rows.append(self._pair(title, self.lessons, ours, peer))
        columns = ["what", "examples", "a step", "shared tokens", "own tokens"]
        columns += ["ours, examples/s", "ours, tokens/s", "TRL, tokens/s", "ratio"]
        self._table(
            "How speed depends on the work",
            columns,
            rows,
            "One measurement each. Shared tokens are those of the instruction, own tokens the "
            "rest, both for each example. Where nothing else is said: sentences with the "
            f"{config.prompt} prompt.",
        )

    def results(self) -> dict[str, Any]:
        """All figures, plain."""
        return {
            "targets": self.targets,
            "setting": {
                "dtype": self.precision,
                "float32_kernel": self.setup.kernel,
                "device": self.config.device,
                "prompt": self.config.prompt,
                "trl": version("trl"),
                "examples": len(self.lessons.examples),
                "useful_tokens": self.lessons.num_tokens,
            },
            "measurements_seconds": self.measurements,
            "tables": self.tables,
        }

    def _examples(self, count: int, prompt: PromptName | None = None) -> list[EncodedExample]:
        config = self.config
        return sentence_examples(
            self.tokenizer, prompt or config.prompt, count, config.seed, config.max_source_tokens
        )

    def _start(
        self, name: str, setup: Setup | None = None, precision: Precision | None = None
    ) -> Worker | Inline:
        setup, precision = setup or self.setup, precision or self.precision
        if name == TRL:
            return worker(self.config.own_processes, Trl, setup)
        make = Ours if name == OURS else PlainPeft
        return worker(self.config.own_processes, make, setup, precision)

    def _pair(
        self, title: str, lessons: Lessons, ours: Worker | Inline, peer: Worker | Inline
    ) -> list[Any]:
        """A row with both ways' speed."""
        seconds = {
            OURS: _train(ours, lessons, self.best[OURS]).seconds,
            TRL: _train(peer, lessons, _fitting(self.best[TRL], lessons)).seconds,
        }
        count = len(lessons.examples)
        speedup = seconds[TRL] / seconds[OURS]
        self.say(f"{title}: {count / seconds[OURS]:.2f} examples/s, {speedup:.2f} times TRL")
        shared = sum(example.num_shared_tokens for example in lessons.examples) / count
        return [
            title,
            count,
            lessons.examples_a_step,
            shared,
            lessons.num_tokens / count - shared,
            count / seconds[OURS],
            lessons.num_tokens / seconds[OURS],
            lessons.num_tokens / seconds[TRL],
            speedup,
        ]

    def _table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
    ) -> None:
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        self.tables.append(table | {"note": note})


def _train(way: Worker | Inline, lessons: Lessons, setting: Setting) -> Answer:
    way.ask("prepare", lessons, setting)
    return way.ask("train", lessons, setting)


def _smallest_step(lessons: Lessons) -> int:
    return min(map(len, lessons.steps))


def _fitting(setting: Setting, lessons: Lessons) -> Setting:
    """The setting, with no more passes a step than its examples allow."""
    return replace(setting, parts=min(setting.parts, _smallest_step(lessons)))


def _described(lessons: Lessons) -> str:
    longest = max(len(example.token_ids) for example in lessons.examples)
    return (
        f"{len(lessons.examples)} examples in {len(lessons.steps)} steps, {lessons.num_tokens} "
        f"tokens, the longest example {longest}"
    )
