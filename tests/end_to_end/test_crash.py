"""A study that is killed and resumed ends with the bits of one that was not."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.records import SilentObserver
from fedmedlora.runs.audit import verify
from fedmedlora.runs.lock import exclusive
from fedmedlora.study.run import resume_study, start_study
from fedmedlora.study.study_file import load_study
from fedmedlora.testing.tiny import write_tiny_model

Essence = Callable[[Path], dict[str, Any]]

# Two sites and a cohort: one arm of each kind, two rounds each, in about a second.
SMALL = [
    'sites=[{name="alder-icu", corpus="alder-icu"}, {name="birch-clinic", corpus="birch-clinic"}]',
    'cohorts=[{name="elm-eye", corpus="elm-eye"}]',
    'strategies=[{name="fedmedlora-plus", mode="reference"}]',
    "evaluation.max_characters=160",
    "training.max_tokens=800",
]


def run_small(study: Path, out: Path, *more: str) -> Path:
    return start_study(load_study(study, [*SMALL, *more]), out, SilentObserver()).path


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return run_small(study, tmp_path_factory.mktemp("whole"))


def runs_in(out: Path) -> list[Path]:
    """Directories with a configuration: a study that was killed before left no run."""
    return sorted(path.parent for path in out.glob("*/config.json"))


@pytest.mark.parametrize(
    "num_moments", [3, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_kill_9_at_random_moments_of_run_and_resume_costs_no_bit(
    study: Path,
    whole: Path,
    essence: Essence,
    tmp_path: Path,
    num_moments: int,
    num_steps,
    killed_at,
) -> None:
    expected = essence(whole)
    last = num_steps(lambda: run_small(study, tmp_path / "counted"))
    rng = random.Random(num_moments)
    num_killed = 0
    for moment in range(num_moments):
        out = tmp_path / str(moment)
        # Spread over the whole run: one in each of so many equal parts.
        step, calls = 1 + int((moment + rng.random()) / num_moments * last), rng.randint(0, 400)
        num_killed += killed_at(step, calls, lambda out=out: run_small(study, out))
        history = f"killed {calls} calls after step {step} of {last}"
        for run in runs_in(out) or [run_small(study, out)]:
            step, calls = rng.randint(1, last // 2), rng.randint(0, 400)
            num_killed += killed_at(
                step, calls, lambda run=run: resume_study(run, SilentObserver())
            )
            history += f", again {calls} calls after step {step}"
            before = {p: p.read_bytes() for p in run.glob("adapters/**/round-*/*.safetensors")}
            resume_study(run, SilentObserver())
            assert all(path.read_bytes() == data for path, data in before.items()), history
            assert essence(run) == expected, history
            assert not [p for p in run.rglob(".*") if p.name != ".lock"]
            assert verify(run / "audit.jsonl").num_entries > 0
    assert num_killed >= num_moments - 1


class Killer(SilentObserver):
    """Raises what no code may swallow at the n-th thing that it is told."""

    class Killed(BaseException):
        pass

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.told = 0

    def _tell(self) -> None:
        self.told += 1
        if self.told == self.moment:
            raise self.Killed

    def stage(self, *_: Any) -> None:
        self._tell()

    def advance(self, *_: Any, **__: Any) -> None:
        self._tell()

    def expect(self, *_: Any) -> None:
        """Estimates come between the moments."""

    def message(self, *_: Any) -> None:
        self._tell()

    def round_ended(self, *_: Any) -> None:
        self._tell()


def num_rounds_in(run: Path) -> int:
    path = run / "rounds.jsonl"
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


def test_a_run_stopped_again_and_again_never_loses_a_round_and_ends_the_same(
    study: Path, whole: Path, essence: Essence, tmp_path: Path
) -> None:
    places: list[Path] = []
    with pytest.raises(Killer.Killed):
        start_study(load_study(study, SMALL), tmp_path, Killer(8), places.append)
    (run,) = places
    rounds = [num_rounds_in(run)]
    for attempt in range(100):
        try:
            resume_study(run, Killer(6 + 5 * attempt))
            break
        except Killer.Killed:
            rounds.append(num_rounds_in(run))

    assert rounds == sorted(rounds)
    assert len(set(rounds)) > 3
    assert essence(run) == essence(whole)


# Real Ctrl-C ---------------------------------------------------------------------------------


# The process gets the signal in the first step of training after the fourth arm has begun.
INTERRUPTED = """
import os
import signal

# A shell without job control hands down an ignored Ctrl-C; a terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)

from fedmedlora.cli.app import main
from fedmedlora.cli.progress import ConsoleObserver

message, advance = ConsoleObserver.message, ConsoleObserver.advance
arms = []

def told(self, text):
    message(self, text)
    arms.extend([text] if text.startswith("arm ") else [])

def advanced(self, *amount, **figures):
    if len(arms) == 4:
        os.kill(os.getpid(), signal.SIGINT)
    advance(self, *amount, **figures)
    if len(arms) == 4:
        message(self, "went on")

ConsoleObserver.message, ConsoleObserver.advance = told, advanced
main()
"""


@pytest.fixture
def stopped(study: Path, tmp_path: Path) -> tuple[Path, int, str]:
    """A study stopped by Ctrl-C in its fourth arm: run directory, exit code, stderr."""
    out = tmp_path / "runs with a space"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "study", "run", str(study), "--out", str(out)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout == ""
    (run,) = runs_in(out)
    return run, done.returncode, done.stderr


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(
    stopped: tuple[Path, int, str], finished, call, essence: Essence
) -> None:
    run, code, shown = stopped

    assert code == 130
    assert "arm 4 of 7" in shown
    assert "went on" not in shown
    assert "Traceback" not in shown
    hint = re.search(r"To go on: fedmedlora (study resume .*)", shown)
    assert hint is not None
    assert hint[1] == f"study resume '{run}'"
    assert not (run / "scores.json").exists()

    resumed = call("study", "resume", run)

    assert resumed.code == 0, resumed.err
    assert essence(run) == essence(finished.path)
    assert (run / "report.html").exists()


# Runs that cannot be resumed -----------------------------------------------------------------


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / whole.name)


@pytest.fixture
def half(copied: Path) -> Path:
    """A run that lacks the second round of its federated arm, and all that comes after."""
    shutil.rmtree(copied / "adapters" / "round-002")
    (copied / "scores.json").unlink()
    for path in copied.glob("predictions/fedmedlora-plus*"):
        path.unlink()
    return copied


def refused(called: Any, run: Path, *words: str, code: int = 1) -> None:
    """The command failed with one clear line, and nothing else was said."""
    assert called.code == code
    assert called.out == ""
    errors = [line for line in called.err.splitlines() if line.startswith("error: ")]
    assert errors
    for word in (str(run), *words):
        assert any(word in line for line in errors), called.err
    assert "Traceback" not in called.err


def test_half_a_run_is_finished_with_the_same_bits(half, whole, call, essence) -> None:
    assert call("study", "resume", half).code == 0
    assert essence(half) == essence(whole)


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path, call) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        called = call("study", "resume", folder)
        refused(called, folder, "not a run directory", "expected config.json")
        assert "To go on" not in called.err


def test_a_run_in_use_is_left_alone(half: Path, call, essence: Essence) -> None:
    before = {p: p.read_bytes() for p in half.rglob("*") if p.is_file() and p.name != ".lock"}
    with exclusive(half):
        called = call("study", "resume", half)

    refused(called, half, "another process is working on this run")
    assert "loading the base model" not in called.err
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.fixture(scope="module")
def elsewhere(
    study: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Callable[[], Path]]:
    """A run with notes and base model of its own, and what brings these back as they were."""
    folder = tmp_path_factory.mktemp("elsewhere") / "study"

    def restore() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(study.parent, folder)

    run = run_small(restore() / "study.toml", folder.parent, f"model.base={folder / 'model'}")
    shutil.rmtree(run / "adapters" / "round-002")
    (run / "scores.json").unlink()
    return run, restore


@pytest.fixture
def moved(elsewhere: tuple[Path, Callable[[], Path]], tmp_path: Path) -> tuple[Path, Path]:
    """Half a run that a test may change, and the folder with its notes and its base model."""
    run, restore = elsewhere
    return shutil.copytree(run, tmp_path / run.name), restore()


def fingerprints(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.glob("adapters/**/*") if path.is_file()}


@pytest.mark.parametrize("change", ["note", "card", "patient", "model"])
def test_changed_notes_and_another_base_model_are_noticed(
    moved: tuple[Path, Path], change: str, call
) -> None:
    run, folder = moved
    corpus = folder / "hospitals" / "alder-icu"
    notes = corpus / "documents.jsonl"
    if change == "model":
        write_tiny_model(folder / "model", seed=1)
    elif change == "card":
        card = corpus / "corpus.toml"
        card.write_text(card.read_text("utf-8").replace('"test", ', ""), "utf-8")
    else:
        first, *others = notes.read_text("utf-8").split("\n")
        note = json.loads(first)
        if change == "note":
            note["text"] += " Seen again."
        else:
            note["metadata"]["patient_id"] = "another"
        notes.write_text("\n".join([json.dumps(note), *others]), "utf-8")
    before = fingerprints(run)

    called = call("study", "resume", run)

    what = "base model" if change == "model" else "notes"
    refused(called, run, f"the {what} changed after the run was started")
    assert fingerprints(run) == before


def test_notes_that_are_gone_are_named(moved: tuple[Path, Path], call) -> None:
    run, folder = moved
    shutil.rmtree(folder / "hospitals" / "elm-eye")

    refused(call("study", "resume", run), folder / "hospitals" / "elm-eye", "not found", code=2)


def test_a_base_model_that_is_gone_is_named(moved: tuple[Path, Path], call) -> None:
    run, folder = moved
    shutil.rmtree(folder / "model")

    refused(call("study", "resume", run), folder / "model", "no such file or folder", code=2)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "round.json"])
@pytest.mark.parametrize("damage", ["cut off", "flipped", "gone"])
def test_a_damaged_last_checkpoint_is_named_with_what_is_intact_and_how_to_go_on(
    copied: Path, whole, name: str, damage: str, call, essence: Essence
) -> None:
    path = copied / "adapters" / "round-002" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if damage == "cut off" else flipped)
    (copied / "scores.json").unlink()
    intact = {p: p.read_bytes() for p in (copied / "adapters" / "round-001").iterdir()}

    called = call("study", "resume", copied)

    refused(called, path, "Rounds 1 to 1 are intact", f"delete {path.parent} and resume")
    assert all(p.read_bytes() == data for p, data in intact.items())
    shutil.rmtree(path.parent)  # as it says
    assert call("study", "resume", copied).code == 0
    assert essence(copied) == essence(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"rank": 2', '"rank": 3'),
        lambda text: "{}",
        lambda text: text.replace("name", "nom"),
    ],
    ids=["cut off", "altered", "empty", "renamed key"],
)
def test_a_damaged_configuration_is_named(half: Path, damage, call) -> None:
    config = half / "config.json"
    config.write_text(damage(config.read_text("utf-8")), "utf-8")
    before = fingerprints(half)

    refused(call("study", "resume", half), config, "damaged")
    assert fingerprints(half) == before


def test_a_broken_audit_chain_is_not_written_on(half: Path, call) -> None:
    audit = half / "audit.jsonl"
    audit.write_text(audit.read_text("utf-8").replace("arm-finished", "arm-skipped", 1), "utf-8")

    refused(call("study", "resume", half), audit, "the audit chain is broken")


def test_kept_updates_that_are_damaged_are_computed_again(
    study: Path, whole, tmp_path: Path, essence: Essence
) -> None:
    places: list[Path] = []
    with pytest.raises(Killer.Killed):
        start_study(load_study(study, SMALL), tmp_path, Killer(30), places.append)
    kept = sorted((places[0] / "work").rglob("*.update"))
    assert kept
    for number, path in enumerate(kept):
        path.write_bytes(path.read_bytes()[: -1 if number % 2 else 10])

    resume_study(places[0], SilentObserver())

    assert essence(places[0]) == essence(whole)
