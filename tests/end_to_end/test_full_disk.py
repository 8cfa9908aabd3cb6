"""A disk that fills up, or a folder that cannot be written, costs time but no result."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    'sites=[{name="alder-icu", corpus="alder-icu"}, {name="birch-clinic", corpus="birch-clinic"}]',
    "cohorts=[]",
    'strategies=[{name="fedavg"}]',
    "arms.zero_shot=false",
    "arms.single_site=false",
    "arms.centralized=false",
    "evaluation.max_characters=160",
    "training.max_tokens=800",
]
OPTIONS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def whole(study: Path, call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An undisturbed run, and how often it brought something to disk."""
    count = [0]
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        count[0] += 1
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", counted)
        called = call("study", "run", study, "--out", tmp_path_factory.mktemp("whole"), *OPTIONS)
    assert called.code == 0, called.err
    return called.run, count[0]


def full_from(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its `moment`-th use on, the disk has no space."""
    count = [0]
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        count[0] += 1
        if count[0] >= moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)


@pytest.mark.parametrize(
    "num_moments", [6, pytest.param(1000, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_space(
    study: Path,
    whole: tuple[Path, int],
    call,
    essence: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    num_moments: int,
) -> None:
    reference, total = whole
    expected = essence(reference)
    num_resumed = 0
    moments = range(1, total + 1, max(1, total // num_moments))
    for moment in moments:
        out = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patched:
            full_from(moment, patched)
            called = call("study", "run", study, "--out", out, *OPTIONS)
        assert called.code == 1
        assert "no space left on the disk" in called.err
        assert called.out == ""
        for run in {path.parent for path in out.glob("*/config.json")}:
            num_resumed += 1
            # Where the configuration is there, but not yet surely on disk, nothing was begun.
            begun = f"{run / 'config.json'}: no space" not in called.err
            assert (f"To go on: fedmedlora study resume {run}" in called.err) == begun
            done = {p: p.read_bytes() for p in run.glob("adapters/round-*/*")}
            resumed = call("study", "resume", run)
            assert resumed.code == 0, resumed.err
            assert essence(run) == expected
            assert all(path.read_bytes() == data for path, data in done.items())
    assert num_resumed >= len(moments) / 2


def test_a_disk_that_is_full_for_a_moment_while_an_update_is_kept_costs_no_site(
    study: Path, whole: tuple[Path, int], call, essence, tmp_path: Path, monkeypatch
) -> None:
    from fedmedlora.runs import atomic

    write_file = atomic.write_file

    def refusing(path: Path, fill: Callable[[Path], None]) -> None:
        if path.suffix == ".update":
            raise atomic.store_error(path, OSError(errno.ENOSPC, "full"))
        write_file(path, fill)

    monkeypatch.setattr(atomic, "write_file", refusing)

    called = call("study", "run", study, "--out", tmp_path, *OPTIONS)

    assert called.code == 0, called.err
    assert essence(called.run) == essence(whole[0])


def test_a_file_where_the_folder_of_runs_should_be_is_told(study: Path, call, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        called = call("study", "run", study, "--out", out, *OPTIONS)

        assert called.code == 1
        assert f"error: {out}: " in called.err
        assert "To go on" not in called.err


def test_a_folder_that_may_not_be_written_is_told_with_what_to_do(
    study: Path, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refusing)

    called = call("study", "run", study, "--out", tmp_path / "runs", *OPTIONS)

    assert called.code == 1
    assert "cannot be written (Permission denied). Choose a folder" in called.err
