"""A tiny study on disk, and ways to look into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.records import SilentObserver
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.run import start_study
from fedmedlora.study.study_file import load_study
from fedmedlora.testing.studies import write_tiny_study

# Two sites and a cohort; tests switch arms on that they need.
SMALL = (
    'sites=[{name="alder-icu", corpus="alder-icu"}, {name="birch-clinic", corpus="birch-clinic"}]',
    'cohorts=[{name="elm-eye", corpus="elm-eye"}]',
    'strategies=[{name="fedavg"}]',
    "arms.zero_shot=false",
    "arms.single_site=false",
    "arms.centralized=false",
    "evaluation.max_characters=160",
    "training.max_tokens=800",
)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file that tests must not change."""
    return write_tiny_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def small(tiny_study: Path) -> Callable[..., StudyConfig]:
    """The small study with further overrides."""
    return lambda *overrides: load_study(tiny_study, [*SMALL, *overrides])


@pytest.fixture(scope="session")
def prepared(tiny_study: Path) -> Prepared:
    """The whole tiny study, ready to run."""
    return prepare(resolve(load_study(tiny_study), SilentObserver()), SilentObserver())


@pytest.fixture
def run(tmp_path: Path) -> Callable[[StudyConfig], Path]:
    """Runs a study; gives its directory."""
    return lambda config: start_study(config, tmp_path / "runs", SilentObserver()).path


def _scores(path: Path) -> Any:
    return json.loads((path / "scores.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def scores() -> Callable[[Path], Any]:
    """What a run's `scores.json` holds."""
    return _scores


@pytest.fixture
def bare_study(tmp_path: Path, tiny_study: Path) -> Path:
    """A folder of the test's own with the hospitals and the study file; the model is shared."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "study.toml").write_text(tiny_study.read_text("utf-8"), "utf-8")
    for path in (tiny_study.parent / "hospitals").rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(tiny_study.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folder / "study.toml"
