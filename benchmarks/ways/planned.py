"""A small whole study in a process of its own: the memory that was planned, and what it took."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.synthetic import FIVE, roster, synthesize
from fedmedlora.study.run import start_study
from fedmedlora.study.study_file import parse_study
from fedmedlora.testing.tiny import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Sizes:
    """What all studies have in common."""

    model: str
    threads: int
    num_notes: int
    max_tokens: int
    seed: int


class PlannedStudy:
    """Runs one study; its process's highest memory is then that of the study.

    On Linux the highest memory is forgotten when the plan is made, which knows what came before:
    loading a model may take more than the study, and would hide how far the plan of it is off.
    """

    def run(
        self, sizes: Sizes, num_sites: int, settings: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """The memory plan that the run wrote down; whether the peak before it is forgotten."""
        forgotten = []
        with tempfile.TemporaryDirectory() as place:
            config = parse_study(_study(Path(place), sizes, num_sites, settings), "benchmark")
            done = start_study(
                config,
                Path(place) / "runs",
                SilentObserver(),
                started=lambda _: forgotten.append(_forget_peak()),
            )
            return done.read_json("environment.json")["memory_plan"], forgotten == [True]


def _forget_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def _study(
    folder: Path, sizes: Sizes, num_sites: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One round at so many artificial hospitals, tested on a held-out one."""
    synthesize(folder / "notes", num_sites=max(len(FIVE), num_sites + 2), num_notes=sizes.num_notes)
    train = [hospital for hospital in roster() if hospital.role == "train"][:num_sites]
    cohort = next(hospital for hospital in roster() if hospital.role != "train")
    model = sizes.model if sizes.model != "tiny" else str(write_tiny_model(folder / "model"))
    study: dict[str, Any] = {
        "name": "memory",
        "seed": sizes.seed,
        "data": {"root": str(folder / "notes"), "artificial": True},
        "model": {"base": model, "device": "cpu", "threads": sizes.threads},
        "training": {"max_tokens": sizes.max_tokens, "max_validation_tokens": 500},
        "federation": {"rounds": 1},
        "arms": {"zero_shot": False, "single_site": False, "centralized": False},
        "evaluation": {"max_characters": 600, "draws": 100},
        "sites": [{"name": site.name, "corpus": site.name} for site in train],
        "cohorts": [{"name": cohort.name, "corpus": cohort.name}],
        "strategies": [{"name": "fedavg"}],
    }
    for key, value in settings.items():
        part, _, name = key.partition(".")
        if name:
            study.setdefault(part, {})[name] = value
        else:
            study[part] = value
    return study
