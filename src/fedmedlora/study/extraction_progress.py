"""How far an extraction is: a small file beside its output, so that it can be gone on with.

It holds settings, counts and digests, no text and no id of a note.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmedlora.core.errors import ConfigError, RunStoreError
from fedmedlora.core.words import counted
from fedmedlora.runs import atomic
from fedmedlora.runs.store import canonical_json
from fedmedlora.study.extraction_inputs import without_annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fedmedlora.core.document import Document

PROGRESS_FILE = "extraction.json"


class Progress(BaseModel):
    """What is done.

    Attributes:
        version: Of this file's format.
        finished: Whether all notes are done and the output is whole.
        settings: All that the output depends on, beside the notes.
        num_notes: How many are done; the next chunk begins behind them.
        notes_sha256: Of these notes, see `chained`.
        num_bytes: Of the output file that belong to them, where there is one file.
        counts: Of what was found in them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    finished: bool = False
    settings: dict[str, Any]
    num_notes: int = 0
    notes_sha256: str = ""
    num_bytes: int = 0
    counts: dict[str, int] = {}

    def save(self, out: Path) -> None:
        """Nothing; the file in `out` says this, and survives whatever comes.

        Raises:
            RunStoreError: It cannot be written.
        """
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"
        atomic.write_file(out / PROGRESS_FILE, lambda path: _write(path, text.encode()))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def find_progress(out: Path, *, resume: bool) -> Progress | None:
    """How far the extraction in `out` is; None if it has yet to begin.

    Raises:
        ConfigError: `out` holds something else, or an extraction that was not to be resumed.
        RunStoreError: The progress file is damaged.
    """
    path = out / PROGRESS_FILE
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; expected a folder to write to.")
    # Hidden: the lock, and what a process left that was killed before it had begun.
    if not out.exists() or all(entry.name.startswith(".") for entry in out.iterdir()):
        return None
    if not path.is_file():
        missing = f" and without {PROGRESS_FILE} to go on from" if resume else ""
        raise ConfigError(
            f"{out}: not empty{missing}; expected a new folder, so that no notes are lost. Name "
            "one with --out."
        )
    try:
        found = Progress.model_validate_json(path.read_bytes())
    except ValidationError:
        raise RunStoreError(
            f"{path}: damaged, or written by another version. Extract into a new folder."
        ) from None
    if found.finished and not resume:
        raise ConfigError(
            f"{out}: not empty, holds a finished extraction. Name a new folder with --out."
        )
    if not resume:
        raise ConfigError(
            f"{out}: not empty, holds an interrupted extraction. Go on with it by the same command "
            "with --resume, or name a new folder with --out."
        )
    return found


def refuse_other_settings(out: Path, done: Progress, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than before.

    Raises:
        ConfigError: One of `settings` was another.
    """
    others = [
        f"{name} was {json.dumps(done.settings.get(name))}, is {json.dumps(value)}"
        for name, value in settings.items()
        if done.settings.get(name) != value
    ]
    if others:
        raise ConfigError(
            f"{out}: was begun with other settings: {'; '.join(others)}. Give the same ones, or "
            "extract into a new folder."
        )


def skip_finished(out: Path, done: Progress, notes: Iterator[Document]) -> None:
    """Nothing; `notes` then goes on behind those that are done.

    Raises:
        RunStoreError: These are not the notes that were done.
    """
    digest, num_notes = "", 0
    while num_notes < done.num_notes and (document := next(notes, None)) is not None:
        digest, num_notes = chained(digest, document), num_notes + 1
    is_longer = done.finished and next(notes, None) is not None
    if digest != done.notes_sha256 or is_longer:
        raise RunStoreError(
            f"{out}: the inputs have changed: they no longer begin with the "
            f"{counted(done.num_notes, 'note')} done before, or others came after the last one. "
            "Restore them, or extract into a new folder."
        )


def chained(digest: str, document: Document) -> str:
    """The digest of all notes so far, given that of those before; annotations do not count."""
    note = without_annotations(document)
    content = canonical_json([digest, note.id, note.text, note.metadata])
    return hashlib.sha256(content).hexdigest()
