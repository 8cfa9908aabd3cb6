"""What every reader of annotated notes is: an iterable of documents that names each fault.

A note is either read exactly as it is or not at all. Faults are values with file, line and reason;
they never hold note text, because they end up in logs.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.core.errors import CorpusError
from fedmedlora.core.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from fedmedlora.core.document import Document

FaultCode = Literal[
    "bom",
    "broken-line",
    "card",
    "damaged-file",
    "dangling-relation",
    "duplicate-id",
    "empty-file",
    "encoding",
    "missing-key",
    "nul",
    "offset",
    "orphan",
    "text-mismatch",
    "unknown-key",
    "unknown-label",
    "unwritable",
    "wrong-type",
]
LabelCheck = Callable[[str], str | None]
"""The reason why a label is refused, or None."""

MAX_FAULTS_IN_MESSAGE = 10
NOT_SHOWN = "(not shown, as it may be words of a note)"
_IDENTIFIER = re.compile(r"[\w][\w./:+-]{0,79}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a corpus; `line` counts from 1, None means the whole file."""

    file: Path
    line: int | None
    code: FaultCode
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        return f"{place}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "file": str(self.file),
            "line": self.line,
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class BadNote:
    """A note that cannot be read exactly, with every fault found in it."""

    faults: tuple[Fault, ...]


def shown(value: object) -> str:
    """An id, label or key for an error message, if it looks like one.

    In a damaged file a stretch of the note may stand where an id or a label should.
    """
    return repr(value) if is_identifier(value) else NOT_SHOWN


def is_identifier(value: object) -> bool:
    """Whether a value looks like an id, a label or a key, and not like words of a note."""
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


class Reader(ABC):
    """An iterable of the documents in one file or folder, in a fixed order.

    Without `skip_bad_notes` the first bad note ends the reading with a `CorpusError` that lists the
    first faults and counts the others; with it, bad notes are left out and counted. After (and
    during) an iteration, `num_read`, `num_skipped`, `faults`, `dropped` and `adjusted` say what
    happened. `dropped` counts, by kind, what the file holds but a `Document` cannot; `adjusted`
    what was repaired on the way in, without doubt about what was meant.

    Args:
        path: What to read.
        skip_bad_notes: Leave bad notes out instead of refusing the file.
        source: The corpus name that documents get.
        annotated_labels: The labels that the corpus was annotated for, where known.
        check_label: Refuses labels; by default every label is taken.
    """

    def __init__(
        self,
        path: Path,
        *,
        skip_bad_notes: bool = False,
        source: str = "",
        annotated_labels: frozenset[str] | None = None,
        check_label: LabelCheck | None = None,
    ) -> None:
        self.path = path
        self.skip_bad_notes = skip_bad_notes
        self.source = source
        self.annotated_labels = annotated_labels
        self.check_label = check_label
        self.dropped: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.num_read = 0
        self.num_skipped = 0

    @abstractmethod
    def notes(self) -> Iterator[Document | BadNote]:
        """Every note in the file, the bad ones as what is wrong with them."""

    def __iter__(self) -> Iterator[Document]:
        self.dropped.clear()
        self.adjusted.clear()
        self.faults.clear()
        self.num_read = self.num_skipped = 0
        for note in self.notes():
            if isinstance(note, BadNote):
                self.num_skipped += 1
                self.faults.extend(note.faults)
            elif self.skip_bad_notes or not self.faults:
                self.num_read += 1
                yield note
        if self.faults and not self.skip_bad_notes:
            raise self._refusal()

    def _refusal(self) -> CorpusError:
        """The error that lists the first faults and counts the others."""
        faults = self.faults
        lines = [str(fault) for fault in faults[:MAX_FAULTS_IN_MESSAGE]]
        others = len(faults) - len(lines)
        more = f", {others} more than shown" if others else ""
        them = "it" if self.num_skipped == 1 else "them"
        lines.append(
            f"{self.path}: {counted(self.num_skipped, 'note')} cannot be read exactly "
            f"({counted(len(faults), 'fault')}{more}). Repair {them} (`fedmedlora corpus validate` "
            f"lists all), or leave {them} out with `fedmedlora corpus convert --skip-bad-notes`."
        )
        if not self.num_read:
            lines.append(
                "None can be read. If they are stored in another format, name it with --from to "
                "these commands, and convert them first."
            )
        return CorpusError("\n".join(lines))
