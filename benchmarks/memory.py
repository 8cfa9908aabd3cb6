"""The memory plan of a study against the memory that the study takes, over many settings.

Each study is small in time but not in memory: the passes are those of a long one. It runs in a
process of its own, and the operating system tells the most that this process ever held.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.harness.targets import Measured
from benchmarks.harness.workers import worker
from benchmarks.ways.planned import PlannedStudy, Sizes
from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Case:
    """One study.

    Attributes:
        settings: That differ from a study's defaults, by their key in a study file.
        num_sites: That train.
        fitted: Whether the plan's constants were fitted to this one, among others.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    num_sites: int = 3
    fitted: bool = False


def _settings(dtype: str, batch_tokens: int, **training: Any) -> dict[str, Any]:
    found = {"model.dtype": dtype, "training.batch_tokens": batch_tokens}
    return found | {f"training.{key}": value for key, value in training.items()}


_BF16, _F32 = "bfloat16", "float32"
_RELATIONS = {"tasks": ["entities", "relations"]}
_LEARNED = {
    # Few steps: each takes the same memory.
    "strategies": [{"name": "fedmedlora-plus", "mode": "learned", "tuning": {"learned_steps": 3}}],
    "server_notes": {"notes_per_site": 2, "max_tokens": 3000},
}
# These were looked at when the plan's constants were chosen.
_FITTED: dict[str, dict[str, Any]] = {
    "bfloat16, steps of 320": _settings(_BF16, 320),
    "bfloat16, steps of 512": _settings(_BF16, 512),
    "bfloat16, steps of 1,024": _settings(_BF16, 1024),
    "bfloat16, steps of 2,048": _settings(_BF16, 2048),
    "bfloat16, steps of 2,048 in passes of 512": _settings(_BF16, 2048, micro_batch_tokens=512),
    "bfloat16, steps of 1,024, layers recomputed": _settings(_BF16, 1024, recompute_layers=True),
    "bfloat16, steps of 2,048, layers recomputed": _settings(_BF16, 2048, recompute_layers=True),
    "float32, steps of 256": _settings(_F32, 256),
    "float32, steps of 512": _settings(_F32, 512),
    "float32, steps of 1,024": _settings(_F32, 1024),
    "float32, steps of 1,024 in passes of 384": _settings(_F32, 1024, micro_batch_tokens=384),
    "float32, steps of 512, layers recomputed": _settings(_F32, 512, recompute_layers=True),
}
_UNSEEN: dict[str, Case] = {
    "defaults": Case(),
    "float32, oneDNN's kernel": Case(_settings(_F32, 512) | {"model.kernel": "onednn"}),
    "float32, steps of 768, layers recomputed": Case(_settings(_F32, 768, recompute_layers=True)),
    "html prompt": Case(_settings(_BF16, 512) | {"prompt.format": "html"}),
    "html prompt, float32, steps of 1,024 in passes of 1,024": Case(
        _settings(_F32, 1024, micro_batch_tokens=1024) | {"prompt.format": "html"}
    ),
    "12 sites": Case(_settings(_BF16, 512, max_tokens=1000), num_sites=12),
    "all arms": Case(
        _settings(_BF16, 512, max_tokens=1000)
        | {"arms.zero_shot": True, "arms.single_site": True, "arms.centralized": True}
    ),
    "two tasks": Case(_settings(_BF16, 768) | _RELATIONS),
    "two tasks, float32": Case(_settings(_F32, 512) | _RELATIONS),
    "learned weights": Case(_settings(_BF16, 512) | _LEARNED),
    "learned weights, float32, 6 sites": Case(
        _settings(_F32, 256, max_tokens=1000) | _LEARNED, num_sites=6
    ),
    "rank 64": Case(_settings(_BF16, 512) | {"lora.rank": 64}),
    "windows of 256 tokens, 8 side by side": Case(
        _settings(_BF16, 768) | {"prompt.window_tokens": 256, "evaluation.batch_size": 8}
    ),
}
CASES = {name: Case(settings, fitted=True) for name, settings in _FITTED.items()} | _UNSEEN
_PARTS = {
    "so_far": "setting up",
    "resident": "held before",
    "programs": "programs",
    "training": "training",
    "judging": "judging",
    "extraction": "extraction",
}


@dataclass(frozen=True, slots=True)
class Config:
    """Which studies, and how large."""

    model: str = "smollm2-135m"
    """A base model as a study names it, or `tiny`: random, for tests."""
    threads: int = 1
    own_processes: bool = True
    """Without, memory is that of all runs together: for tests."""
    cases: tuple[str, ...] = tuple(CASES)
    num_notes: int = 12
    max_tokens: int = 1500
    """Of training, a site."""
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "threads": 1,
    "own_processes": False,
    "cases": ["float32, steps of 256", "learned weights"],
    "num_notes": 4,
    "max_tokens": 600,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """The plan and the memory taken of every study.

    Raises:
        ConfigError: There is no such study.
    """
    if unknown := sorted(set(config.cases) - set(CASES)):
        raise ConfigError(f"--set cases: unknown {', '.join(unknown)}; see benchmarks/memory.py.")
    sizes = Sizes(config.model, config.threads, config.num_notes, config.max_tokens, config.seed)
    rows, errors, unseen = [], [], []
    for name in config.cases:
        case = CASES[name]
        with worker(config.own_processes, PlannedStudy) as study:
            answer = study.ask("run", sizes, case.num_sites, dict(case.settings))
        plan, forgotten = answer.value
        planned, taken = plan["needed" if forgotten else "peak"], answer.peak_memory_bytes
        error = 100 * (planned / taken - 1)
        say(f"{name}: planned {planned / 1e6:.0f} MB, took {taken / 1e6:.0f} ({error:+.1f} %)")
        errors.append(abs(error))
        unseen += [] if case.fitted else [abs(error)]
        parts = [plan[part] / 1e6 for part in _PARTS]
        fitted = "yes" if case.fitted else "no"
        rows.append([name, fitted, *parts, planned / 1e6, taken / 1e6, error])
    shown = [*_PARTS.values(), "planned", "taken"]
    return {
        "targets": {
            name: Measured(max(found), found)
            for name, found in (("memory-plan", errors), ("memory-plan-unseen", unseen))
            if found
        },
        "setting": {"device": "cpu", "model": config.model},
        "tables": [
            {
                "title": "Peak memory of a study, planned and taken",
                "columns": ["study", "fitted to", *(f"{part}, MB" for part in shown), "error, %"],
                "rows": rows,
                "note": "Resident memory of the whole process from the moment of the plan on, the "
                "highest that the kernel saw. Held before and programs count for all parts; the "
                "largest of training, judging and extraction comes on top. Fitted to: whether the "
                "plan's constants were fitted to this study, among others.",
            }
        ],
    }
