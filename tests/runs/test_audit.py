"""The audit log: nothing in it can be changed unnoticed, and a kill costs one line at most."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs.audit import TORN_LINE_DROPPED, AuditLog, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("run-started", config_sha256="0f")
    log.append("round-ended", round_index=1, sites=("north", "süd"), weights={10: 0.5, 2: 0.5})
    log.append("run-ended")
    return log.path


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_entries_are_numbered_chained_and_keep_their_fields(path: Path) -> None:
    first, second, third = entries(path)

    assert [e["index"] for e in (first, second, third)] == [0, 1, 2]
    assert first["previous"] == "0" * 64
    assert second["previous"] == first["sha256"]
    assert second["fields"] == {
        "round_index": 1,
        "sites": ["north", "süd"],
        "weights": {"10": 0.5, "2": 0.5},
    }
    assert verify(path).num_entries == 3
    assert verify(path).last_sha256 == third["sha256"]


def test_a_log_is_continued_where_it_ended(path: Path) -> None:
    AuditLog(path).append("resumed")

    assert [e["event"] for e in entries(path)][-1] == "resumed"
    assert verify(path).num_entries == 4


def test_a_log_that_is_not_there_is_an_empty_chain(tmp_path: Path) -> None:
    assert verify(tmp_path / "none.jsonl").num_entries == 0


def test_changing_any_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    unnoticed = []
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 0x01
        path.write_bytes(bytes(changed))
        try:
            verify(path)
        except RunStoreError:
            continue
        unnoticed.append(position)

    assert unnoticed == []


@pytest.mark.parametrize(
    ("order", "line"), [((0, 2), 2), ((1, 2), 1), ((0, 2, 1), 2), ((0, 0, 1, 2), 2)]
)
def test_lines_removed_moved_or_repeated_are_noticed_at_their_line(
    path: Path, order: tuple[int, ...], line: int
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order))

    with pytest.raises(RunStoreError, match=rf"audit\.jsonl:{line}: the audit chain is broken"):
        verify(path)


def test_an_entry_whose_own_sha256_was_renewed_breaks_the_next_one(path: Path) -> None:
    first, second, third = path.read_text("utf-8").splitlines()
    forged = AuditLog(path.with_name("forged.jsonl"))
    forged.append("something-else")
    path.write_text("\n".join([entries_line(forged.path), second, third, ""]), encoding="utf-8")
    assert first not in path.read_text("utf-8")

    with pytest.raises(RunStoreError, match=":2: the audit chain is broken"):
        verify(path)


def entries_line(path: Path) -> str:
    return path.read_text("utf-8").splitlines()[0]


@pytest.mark.parametrize("num_bytes", [1, 40])
def test_a_line_torn_by_a_kill_is_dropped_and_that_is_recorded(path: Path, num_bytes: int) -> None:
    whole = path.read_bytes()
    last_line = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last_line) + num_bytes])
    with pytest.raises(RunStoreError, match=r":3: .*incomplete"):
        verify(path)

    AuditLog(path)

    assert verify(path).num_entries == 3
    assert entries(path)[-1]["event"] == TORN_LINE_DROPPED
    assert entries(path)[-1]["fields"] == {"num_bytes": num_bytes}


def test_a_broken_log_is_not_continued(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"north", b"South"))

    with pytest.raises(RunStoreError, match=":2: the audit chain is broken"):
        AuditLog(path)


def test_a_full_disk_leaves_the_log_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, before = AuditLog(path), path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunStoreError, match="no space left"):
        log.append("round-ended", round_index=2)
    assert path.read_bytes() == before

    monkeypatch.undo()
    log.append("round-ended", round_index=2)
    assert verify(path).num_entries == 4
