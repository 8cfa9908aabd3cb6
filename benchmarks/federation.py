"""Many sites on one machine: peak memory with fifty, and what a round costs beside training.

Everything is as in a study: the sites share one base model, every message becomes bytes and back,
updates wait on disk for the merge, each site's update is kept for a resumed run, rounds are saved.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.harness.targets import Measured
from benchmarks.harness.timing import ratio
from benchmarks.harness.workers import worker
from benchmarks.ways.simulation import Simulation
from benchmarks.ways.trainers import Precision, Setup
from fedmedlora.models.dtype import choose_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.harness.workers import Answer, Inline, Worker
    from benchmarks.ways.simulation import Rounds


@dataclass(frozen=True, slots=True)
class Config:
    """What is simulated, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 2
    own_processes: bool = True
    """Without, memory is that of all runs together: for tests."""
    sites: int = 50
    """Against one."""
    notes_per_site: int = 3
    """Few: the largest step of one site is then smaller than the largest of fifty, which makes the
    comparison harder than it is for hospitals."""
    memory_rounds: int = 1
    memory_steps: int | None = None
    """Optimiser steps a site where memory is measured; none: all its notes."""
    repetitions: int = 5
    overhead_sites: int = 2
    overhead_rounds: int = 5
    local_seconds: float = 40.0
    """So long every site is meant to train in a round where overhead is measured. Ten more than are
    asked for, as the number of steps is judged by two of them."""
    batch_tokens: int = 512
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "dtype": "float32",
    "threads": 1,
    "own_processes": False,
    "sites": 3,
    "notes_per_site": 1,
    "repetitions": 2,
    "overhead_rounds": 2,
    "local_seconds": 0.1,
    "rank": 2,
    "alpha": 4.0,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    bench = _Bench(config, say)
    bench.memory()
    bench.overhead()
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
        self.targets: dict[str, Measured] = {}
        self.measurements: dict[str, list[float]] = {}
        self.tables: list[dict[str, Any]] = []

    def memory(self) -> None:
        """T6: each measurement in a process of its own, with one site and with many in turns."""
        config = self.config
        peaks: dict[int, list[float]] = {1: [], config.sites: []}
        loaded: dict[int, list[float]] = {1: [], config.sites: []}
        rounds: dict[int, Rounds] = {}
        for _ in range(config.repetitions):
            for num_sites, found in peaks.items():
                with self._start(num_sites) as simulation:
                    answer = simulation.ask("run", config.memory_rounds, config.memory_steps)
                loaded[num_sites].append(simulation.made.peak_memory_bytes)
                found.append(answer.peak_memory_bytes)
                rounds[num_sites] = answer.value
                self.say(f"sites: {num_sites}, peak {found[-1] / 2**20:.0f} MiB")
        self.targets["T6"] = ratio(peaks[config.sites], peaks[1])
        self.measurements["peak bytes"] = [*peaks[1], *peaks[config.sites]]
        adapter = rounds[1].adapter_bytes / 2**20
        rows = [
            [
                num_sites,
                rounds[num_sites].num_examples,
                statistics.median(loaded[num_sites]) / 2**20,
                statistics.median(found) / 2**20,
                num_sites * adapter,
            ]
            for num_sites, found in peaks.items()
        ]
        self._table(
            "Peak memory by number of simulated sites",
            ["sites", "examples", "before round 1, MiB", "peak, MiB", "all updates, MiB"],
            rows,
            f"Medians of {config.repetitions} processes each, libraries and base model included. "
            "All updates is what the round's updates take in float32: they wait on disk.",
        )

    def overhead(self) -> None:
        """T7: what a round takes beyond the seconds that its sites say they trained."""
        config = self.config
        with self._start(config.overhead_sites) as simulation:
            simulation.ask("run", 1, 1)  # a first call pays for set-up
            trial: Rounds = simulation.ask("run", 1, 2).value
            step_seconds = statistics.mean(trial.rounds[0].site_seconds) / 2
            steps = max(1, math.ceil(config.local_seconds / step_seconds))
            self.say(f"{config.overhead_rounds} rounds of {steps} steps at every site")
            answer: Answer = simulation.ask("run", config.overhead_rounds, steps)
        found: Rounds = answer.value
        local = [sum(each.site_seconds) for each in found.rounds]
        beyond = [each.seconds - sum(each.site_seconds) for each in found.rounds]
        shares = [100 * more / trained for more, trained in zip(beyond, local, strict=True)]
        self.targets["T7"] = Measured(statistics.median(shares), shares)
        self.measurements |= {"round seconds": [each.seconds for each in found.rounds]}
        self.measurements |= {"local seconds": local}
        count = len(found.rounds) * config.overhead_sites
        total = sum(local)
        parts = {part: taken for part, taken in found.parts.items() if part != "local training"}
        parts["all else"] = sum(beyond) - sum(parts.values())
        rows = [
            [part, parts[part] / count, 100 * parts[part] / total]
            for part in sorted(parts, key=lambda part: -parts[part])
        ]
        least = min(min(each.site_seconds) for each in found.rounds)
        self._table(
            "Where a round's time goes beside local training",
            ["part", "seconds a site and round", "% of local training"],
            rows,
            f"{len(found.rounds)} rounds, {config.overhead_sites} sites, {steps} steps a site, at "
            f"least {least:.1f} s of local training each; adapters of "
            f"{found.adapter_bytes / 2**20:.0f} MiB. Each part is without the others inside it.",
        )

    def results(self) -> dict[str, Any]:
        """All figures, plain."""
        return {
            "targets": self.targets,
            "setting": {
                "dtype": self.precision,
                "float32_kernel": self.setup.kernel,
                "device": self.config.device,
                "strategy": "fedavg",
                "notes_per_site": self.config.notes_per_site,
                "batch_tokens": self.config.batch_tokens,
            },
            "measurements": self.measurements,
            "tables": self.tables,
        }

    def _start(self, num_sites: int) -> Worker | Inline:
        config = self.config
        return worker(
            config.own_processes,
            Simulation,
            self.setup,
            self.precision,
            num_sites,
            config.notes_per_site,
            config.batch_tokens,
        )

    def _table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
    ) -> None:
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        self.tables.append(table | {"note": note})
