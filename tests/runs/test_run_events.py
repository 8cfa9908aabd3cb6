"""Interruption and resumption are in the audit log, and its chain holds."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.runs.audit import AuditLog, verify
from fedmedlora.runs.run_events import Terminated, recorded_run, sigterm_interrupts


def told(path: Path) -> list[tuple[str, dict[str, Any]]]:
    verify(path)
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(entry["event"], entry["fields"]) for entry in entries]


def work(path: Path, error: BaseException | None = None) -> None:
    with recorded_run(path, version="1") as audit:
        audit.append("arm-finished")
        if error is not None:
            raise error
        audit.append("run-finished")


@pytest.mark.parametrize(
    ("error", "event", "fields", "end"),
    [
        (KeyboardInterrupt(), "run-interrupted", {"by": "SIGINT"}, "interrupted"),
        (Terminated(), "run-interrupted", {"by": "SIGTERM"}, "interrupted"),
        (OSError("a secret"), "run-failed", {"error": "OSError"}, "failed"),
    ],
)
def test_how_a_run_was_left_and_gone_on_with_is_recorded(
    tmp_path: Path, error: BaseException, event: str, fields: dict[str, str], end: str
) -> None:
    path = tmp_path / "audit.jsonl"
    with pytest.raises(type(error)):
        work(path, error)
    work(path)

    assert told(path) == [
        ("run-opened", {"version": "1"}),
        ("arm-finished", {}),
        (event, fields),
        ("run-resumed", {"previous_end": end, "version": "1"}),
        ("arm-finished", {}),
        ("run-finished", {}),
    ]
    assert "secret" not in path.read_text("utf-8")


@pytest.mark.parametrize("torn", [False, True])
def test_a_run_that_was_killed_did_not_record_its_end_and_the_resumption_says_so(
    tmp_path: Path, torn: bool
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.append("run-opened")
    log.append("arm-finished")
    if torn:
        path.write_bytes(path.read_bytes()[:-9])

    work(path)

    assert ("run-resumed", {"previous_end": "not recorded", "version": "1"}) in told(path)


def test_a_finished_run_that_is_resumed_says_that_it_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    work(path)
    work(path)

    assert told(path)[3] == ("run-resumed", {"previous_end": "finished", "version": "1"})


def test_an_interruption_in_the_middle_of_an_entry_leaves_a_whole_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    sync = os.fsync

    def interrupted(_: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        raise KeyboardInterrupt

    def work_on() -> None:
        with recorded_run(path) as audit:
            monkeypatch.setattr(os, "fsync", interrupted)
            audit.append("arm-finished")

    with pytest.raises(KeyboardInterrupt):
        work_on()

    assert told(path)[-1] == ("run-interrupted", {"by": "SIGINT"})


def test_sigterm_ends_the_work_as_ctrl_c_does_and_afterwards_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end_oneself() -> None:
        with sigterm_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(Terminated):
        end_oneself()

    assert signal.getsignal(signal.SIGTERM) is before
