"""One finished run of a tiny study, made once through the command line and read by many tests."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.testing.studies import write_tiny_study


@dataclass(frozen=True)
class Called:
    """What one invocation of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> Path:
        """The run directory, as scripts find it."""
        return Path(self.out.splitlines()[-1])


Call = Callable[..., Called]


def _call(*arguments: object) -> Called:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app(app, [str(argument) for argument in arguments])
    return Called(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def call() -> Call:
    """Runs `fedmedlora` in this process."""
    return _call


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file with its notes and its base model."""
    return write_tiny_study(tmp_path_factory.mktemp("study"))


@dataclass(frozen=True)
class Finished:
    """The run directory and what the command printed."""

    called: Called
    path: Path

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text("utf-8"))

    def json_lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.path / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def finished(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny study, run to its end. Tests must not write into it."""
    called = _call("study", "run", study, "--out", tmp_path_factory.mktemp("runs"))
    assert called.code == 0, called.err
    return Finished(called, called.run)


TIME_FIELDS = ("site_seconds", "elapsed_seconds")


def _essence(run: Path, files: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in files:
        name = path.relative_to(run).as_posix()
        if name == "rounds.jsonl":
            rounds = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            found[name] = [
                {key: value for key, value in record.items() if key not in TIME_FIELDS}
                for record in rounds
            ]
        elif path.name == "round.json":
            found[name] = json.loads(path.read_text("utf-8"))["memory"]
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="session")
def essence() -> Callable[[Path], dict[str, Any]]:
    """All results of a run by file, without what depends on time and place."""

    def of(run: Path) -> dict[str, Any]:
        results = [run / "scores.json", run / "rounds.jsonl"]
        for folder in ("adapters", "predictions"):
            results += [path for path in (run / folder).rglob("*") if path.is_file()]
        return _essence(run, results)

    return of
