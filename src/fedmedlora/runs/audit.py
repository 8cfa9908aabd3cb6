"""The audit log: what happened in a run, each line chained to the one before by its sha256.

A line that is changed, removed or put between others breaks the chain. Lines cut off at the end
leave a shorter chain that is still whole; keep the last `sha256` elsewhere to notice that.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs.atomic import store_error, sync
from fedmedlora.runs.store import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

FIRST_PREVIOUS = "0" * 64
TORN_LINE_DROPPED = "torn-line-dropped"


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified log: how many lines it has, and sha256 and event of the last (or zeros, none)."""

    num_entries: int
    last_sha256: str
    last_event: str = ""


class AuditLog:
    """An append-only log that one process writes at a time; hold the run's lock.

    A last line that a killed process left incomplete is dropped on opening, and that is recorded.

    Raises:
        RunStoreError: The chain is broken, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            num_dropped = _drop_torn_line(path)
        except OSError as error:
            raise store_error(path, error) from error
        self._chain = verify(path)
        if num_dropped:
            self.append(TORN_LINE_DROPPED, num_bytes=num_dropped)

    @property
    def chain(self) -> Chain:
        """Length and last sha256 of the log."""
        return self._chain

    def append(self, event: str, **fields: Any) -> None:
        """The log is one line longer, on disk. `fields` are plain JSON values, never note text.

        Raises:
            RunStoreError: The disk is full or the file cannot be written.
        """
        content = {
            "index": self._chain.num_entries,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "fields": fields,
            "previous": self._chain.last_sha256,
        }
        # As it will be read back: tuples become lists, number keys become strings.
        content = json.loads(json.dumps(content, allow_nan=False))
        sha256 = _sha256(content)
        line = json.dumps(content | {"sha256": sha256}, ensure_ascii=False).encode("utf-8") + b"\n"
        try:
            _append_bytes(self.path, line)
        except OSError as error:
            raise store_error(self.path, error) from error
        self._chain = Chain(self._chain.num_entries + 1, sha256, event)


def verify(path: Path) -> Chain:
    """The chain of the log at `path`; a file that is not there is an empty chain.

    Raises:
        RunStoreError: A line is not an entry, or does not follow from the line before.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Chain(0, FIRST_PREVIOUS)
    except OSError as error:
        raise store_error(path, error) from error
    if lines.pop():
        raise _broken(path, len(lines) + 1, "the line is incomplete")
    last, event = FIRST_PREVIOUS, ""
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise _broken(path, number, "the line is not JSON") from error
        if not isinstance(entry, dict) or entry.get("sha256") != _sha256(entry):
            raise _broken(path, number, "the entry does not fit its sha256")
        if entry.get("index") != number - 1 or entry.get("previous") != last:
            raise _broken(path, number, "the entry does not follow the one before")
        last, event = entry["sha256"], str(entry.get("event", ""))
    return Chain(len(lines), last, event)


def _sha256(entry: dict[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "sha256"}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _append_bytes(path: Path, data: bytes) -> None:
    fresh = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            rest = data
            while rest:  # on a nearly full disk a write takes a part only
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if fresh:
        sync(path.parent)


def _drop_torn_line(path: Path) -> int:
    """How many bytes after the last line end were cut off."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
        sync(path)
    return len(data) - whole


def _broken(path: Path, line: int, what: str) -> RunStoreError:
    return RunStoreError(
        f"{path}:{line}: the audit chain is broken: {what}. "
        "The log was changed after it was written, or the disk is damaged."
    )
