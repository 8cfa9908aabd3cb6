"""Merging many sites' adapters of a large model by products: time, memory, and other ways to do it.

The adapters are random numbers of the right shapes: what is timed does not depend on their values.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.targets import Measured
from benchmarks.harness.workers import worker
from benchmarks.run import CACHE
from benchmarks.ways.merging import DENSE, OURS, WAYS, Merger, ModelShape, Sample, make_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True)
class Config:
    """What is merged, how often. The shape is that of Llama-3.1-8B."""

    layers: int = 32
    hidden: int = 4096
    kv: int = 1024
    mlp: int = 14336
    sites: int = 10
    rank: int = 16
    threads: int = 2
    own_processes: bool = True
    """Without, memory is that of everything together: for tests."""
    repetitions: int = 5
    sample_layers: int = 2
    """So many layers are merged in every way; a dense SVD takes minutes a layer."""
    sweep_layers: int = 4
    sweep_sites: tuple[int, ...] = (3, 10, 20, 50)
    sweep_ranks: tuple[int, ...] = (4, 16, 64)
    sweep_hidden: tuple[int, ...] = (2048, 4096, 8192)
    """Other shapes: kv a quarter of it, mlp 3.5 times as much."""


QUICK: Mapping[str, Any] = {
    "layers": 2,
    "hidden": 32,
    "kv": 8,
    "mlp": 112,
    "sites": 3,
    "rank": 2,
    "threads": 1,
    "own_processes": False,
    "repetitions": 2,
    "sample_layers": 1,
    "sweep_layers": 1,
    "sweep_sites": (2, 3),
    "sweep_ranks": (1, 2),
    "sweep_hidden": (16, 32),
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    torch.set_num_threads(config.threads)
    CACHE.mkdir(exist_ok=True)
    bench = _Bench(config, say)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        shape = ModelShape(config.hidden, config.kv, config.mlp)
        made = make_folders(Path(folder), shape, config.layers, config.sites, config.rank)
        say(f"{config.sites} adapters written")
        bench.whole(made, Path(folder) / "merged")
        bench.against(made)
    bench.sweeps()
    return bench.results()


class _Bench:
    """The steps of the benchmark, in order, and what they found."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.targets: dict[str, Measured] = {}
        self.tables: list[dict[str, Any]] = []

    def whole(self, folders: Sequence[Path], out: Path) -> None:
        """T8: a round's merge from file to file, its memory, and the merge alone."""
        config = self.config
        parts: list[dict[str, float]] = []
        with worker(config.own_processes, Merger, folders, config.threads) as ours:
            base = ours.made.peak_memory_bytes
            for _ in range(config.repetitions):
                answer = ours.ask("file_to_file", out)
                parts.append(answer.value)
                self.say(f"file to file: {sum(answer.value.values()):.1f} s")
            peak = answer.peak_memory_bytes
        with worker(config.own_processes, Merger, folders, config.threads) as ours:
            alone = [ours.ask("memory_to_memory").value for _ in range(config.repetitions)]
        self.targets["T8"] = _median([sum(each.values()) for each in parts])
        self.targets["T8-alone"] = _median(alone)
        self.targets["T8-memory"] = Measured(peak / GIB, [peak / GIB])
        rows = [[part, statistics.median(each[part] for each in parts)] for part in parts[0]]
        self._table(
            "Where the time from file to file goes",
            ["part", "seconds"],
            rows,
            f"Medians of {config.repetitions}. {config.sites} adapters of "
            f"{sum(f.stat().st_size for f in folders[1].iterdir()) / MIB:.0f} MiB; the process "
            f"holds {base / MIB:.0f} MiB before it begins.",
        )

    def against(self, folders: Sequence[Path]) -> None:
        """T8: the same modules merged in every way, in turns."""
        config = self.config
        seconds: dict[str, dict[str, float]] = {}
        apart: dict[str, list[float]] = {}
        with worker(
            config.own_processes, Sample, folders, config.sample_layers, config.threads
        ) as sample:
            modules: list[str] = sample.ask("modules").value
            sample.ask("merge", OURS, modules[0])  # a first call pays for set-up
            for module in modules:
                for way in (OURS, *WAYS):
                    taken, distance = sample.ask("merge", way, module).value
                    seconds.setdefault(way, {})[module] = taken
                    apart.setdefault(way, []).append(distance)
                self.say(f"{module}: dense {seconds[DENSE][module]:.1f} s")
        factor = config.layers / config.sample_layers
        totals = {way: sum(each.values()) for way, each in seconds.items()}
        ratios = [seconds[DENSE][module] / seconds[OURS][module] for module in modules]
        self.targets["T8-dense"] = Measured(totals[DENSE] / totals[OURS], ratios)
        rows = [
            [way, totals[way] * factor, totals[way] / totals[OURS], max(apart[way])]
            for way in sorted(totals, key=totals.__getitem__)
        ]
        self._table(
            "Ways to merge",
            ["way", "seconds, whole model", "times ours", "distance from our product"],
            rows,
            f"Measured on the {len(modules)} modules of {config.sample_layers} layers, in turns, "
            f"one at a time; the whole model is that times {factor:g}, as all layers are alike. "
            "The distance is the largest of a module, by the norm of our product; all results are "
            "rounded to bfloat16. The mean of factors is another adapter. HLoRA's way is written "
            "from its description, not run from NVFlare. The measurements behind the ratio are "
            "those of single modules; its value is that of their sums.",
        )

    def sweeps(self) -> None:
        """Time and memory over sites, rank and shape, on some layers."""
        config = self.config
        base = replace(config, layers=config.sweep_layers)
        cases = [replace(base, sites=sites) for sites in config.sweep_sites]
        cases += [replace(base, rank=rank) for rank in config.sweep_ranks]
        cases += [
            replace(base, hidden=hidden, kv=hidden // 4, mlp=hidden * 7 // 2)
            for hidden in config.sweep_hidden
        ]
        rows = [self._sweep(case) for case in dict.fromkeys(cases)]
        self._table(
            "Time and memory over sites, rank and shape",
            ["sites", "rank", "hidden", "file to file, s", "merge, s", "peak, MiB"],
            rows,
            f"{config.sweep_layers} layers; medians of 3. Memory grows with the largest module of "
            "all sites, and with the result.",
        )

    def results(self) -> dict[str, Any]:
        """All figures, plain."""
        config = self.config
        return {
            "targets": self.targets,
            "setting": {
                "sites": config.sites,
                "layers": config.layers,
                "hidden": config.hidden,
                "kv": config.kv,
                "mlp": config.mlp,
                "rank": config.rank,
                "dtype": "bfloat16",
            },
            "tables": self.tables,
        }

    def _sweep(self, case: Config) -> list[Any]:
        shape = ModelShape(case.hidden, case.kv, case.mlp)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = make_folders(Path(folder), shape, case.layers, case.sites, case.rank)
            with worker(case.own_processes, Merger, made, case.threads) as ours:
                answers = [ours.ask("file_to_file", Path(folder) / "merged") for _ in range(3)]
        self.say(f"sites {case.sites}, rank {case.rank}, hidden {case.hidden}")
        return [
            case.sites,
            case.rank,
            case.hidden,
            statistics.median(sum(answer.value.values()) for answer in answers),
            statistics.median(answer.value["merging"] for answer in answers),
            answers[-1].peak_memory_bytes / MIB,
        ]

    def _table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str
    ) -> None:
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        self.tables.append(table | {"note": note})


def _median(measurements: list[float]) -> Measured:
    return Measured(statistics.median(measurements), measurements)
