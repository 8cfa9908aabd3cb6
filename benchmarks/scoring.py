"""`evaluate`, `corpus summarize` and `--help` as a user runs them: seconds and the highest memory.

Each command is a process of its own, the interpreter and all imports included. The notes are those
of two artificial hospitals with short notes; the predictions are the gold annotations with seeded
mistakes. One thread works, and seconds are those of the processor, so that others on the machine do
not count; the record has those of the clock, too.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.targets import Measured
from benchmarks.harness.timing import ratio
from fedmedlora.core.document import Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.synthetic import generate_site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmedlora.core.document import Document, Entity

_COMMAND = """
import sys, time
from pathlib import Path
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
code = run_app(app, sys.argv[2:])
status = Path("/proc/self/status").read_text().split()
peak = int(status[status.index("VmHWM:") + 1]) * 1024
Path(sys.argv[1]).write_text(f"{time.process_time()} {peak}")
sys.exit(code)
"""
_IMPORTS = """
import sys, time, typer, rich
from pathlib import Path
Path(sys.argv[1]).write_text(f"{time.process_time()} 0")
"""
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


@dataclass(frozen=True, slots=True)
class Config:
    """Which notes, and how often."""

    eye_notes: int = 17_800
    """One-liners of an eye clinic."""
    triage_notes: int = 2_200
    """Notes of some lines each; together they make 25 MB."""
    repetitions: int = 3
    help_repetitions: int = 9
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "eye_notes": 20,
    "triage_notes": 4,
    "repetitions": 1,
    "help_repetitions": 2,
}


@dataclass(frozen=True, slots=True)
class _Run:
    """One process: seconds of the processor and of the clock, and its highest resident memory."""

    processor: float
    clock: float
    peak_bytes: int


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module.

    Raises:
        ConfigError: A command failed, or this system does not tell a process's memory.
    """
    if not Path("/proc/self/status").exists():
        raise ConfigError("scoring: expected /proc/self/status, which tells memory. Use Linux.")
    load = f"{os.getloadavg()[0]:.1f}"  # what others did just before
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gold = generate_site("elm-eye", config.eye_notes, config.seed)
        gold += generate_site("dogwood-triage", config.triage_notes, config.seed)
        files = {side: folder / f"{side}.jsonl" for side in ("gold", "predicted", "other")}
        write_jsonl(files["gold"], gold)
        rng = random.Random(config.seed)
        for side in ("predicted", "other"):
            write_jsonl(files[side], (_with_mistakes(document, rng) for document in gold))
        num_notes, size = len(gold), files["gold"].stat().st_size / 1e6
        del gold
        say(f"{size:.1f} MB of gold notes")
        evaluate = ["evaluate", "--gold", str(files["gold"]), "--predicted"]
        commands = {
            "evaluate --json": [*evaluate, str(files["predicted"]), "--json"],
            "evaluate --against": [
                *evaluate, str(files["predicted"]), "--against", str(files["other"]), "--json"
            ],
            "corpus summarize": ["corpus", "summarize", str(files["gold"])],
        }  # fmt: skip
        taken: dict[str, list[_Run]] = {command: [] for command in commands}
        for _ in range(config.repetitions):
            for command, arguments in commands.items():
                taken[command].append(_process(_COMMAND, arguments, folder))
                say(f"{command}: {taken[command][-1].processor:.1f} s")
        helped = [
            (_process(_COMMAND, ["--help"], folder), _process(_IMPORTS, [], folder))
            for _ in range(config.help_repetitions)
        ]
    seconds = {command: [r.processor for r in runs] for command, runs in taken.items()}
    peaks = {command: [r.peak_bytes / 1e6 for r in runs] for command, runs in taken.items()}
    return {
        "setting": {"notes": num_notes, "load_average_before": load},
        "targets": {
            "T23-evaluate": _median(seconds["evaluate --json"]),
            "T23-evaluate-memory": _median(peaks["evaluate --json"]),
            "T23-summarize": _median(seconds["corpus summarize"]),
            "T23-summarize-memory": _median(peaks["corpus summarize"]),
            "T11-help": ratio(
                [ours.processor for ours, _ in helped], [theirs.processor for _, theirs in helped]
            ),
        },
        "tables": [
            {
                "title": f"{num_notes:,} notes, {size:.0f} MB of gold and as much predicted",
                "columns": ["command", "seconds", "seconds by the clock", "peak memory, MB"],
                "rows": [
                    [
                        command,
                        statistics.median(seconds[command]),
                        statistics.median(r.clock for r in runs),
                        statistics.median(peaks[command]),
                    ]
                    for command, runs in taken.items()
                ],
                "note": "Processes of their own, all imports included, in one thread. Intervals "
                "are of 10,000 draws. Seconds are those of the processor but where the clock is "
                "named; MB are 1,000,000 bytes, and memory is the highest resident set.",
            }
        ],
    }


def _process(code: str, arguments: Sequence[str], folder: Path) -> _Run:
    """What the code took in a new interpreter; what it prints is dropped."""
    told = folder / "taken.txt"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(told), *arguments],
        env=os.environ | _ONE_THREAD,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    clock = time.perf_counter() - started
    if done.returncode:
        raise ConfigError(f"scoring: {' '.join(arguments[:1])} ended with {done.returncode}.")
    processor, peak = told.read_text("utf-8").split()
    return _Run(float(processor), clock, int(peak))


def _median(values: Sequence[float]) -> Measured:
    return Measured(statistics.median(values), values)


def _with_mistakes(document: Document, rng: random.Random) -> Document:
    """The note as a fair system would mark it: mentions missed, cut short or named wrongly."""
    labels = sorted({entity.label for entity in document.entities})
    mentions: list[Entity] = []
    for entity in document.entities:
        chance = rng.random()
        if chance < 0.08:
            continue
        if chance < 0.16 and len(entity.cover) > 2:
            entity = replace(entity, spans=(Span(entity.start + 1, entity.end),))
        elif chance < 0.22:
            entity = replace(entity, label=rng.choice(labels))
        mentions.append(replace(entity, score=round(rng.random(), 3)))
    ids = {entity.id for entity in mentions}
    kept = [
        link
        for link in document.relations
        if link.head in ids and link.tail in ids and rng.random() < 0.9
    ]
    return document.with_entities(mentions, kept)
