"""Folders with one note a file: which files there are, and writing all of them or none."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MAX_NAME_BYTES = 200


def note_paths(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files with these suffixes in a folder and its sub-folders; hidden ones are passed over.

    A single file is itself, whatever its suffix.
    """
    if folder.is_file():
        yield folder
        return
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(suffixes) and not name.startswith("."):
                yield Path(where, name)


def note_id(folder: Path, path: Path) -> str:
    """The id of the note in a file: its path in the folder, without the suffix."""
    return path.stem if path == folder else path.relative_to(folder).with_suffix("").as_posix()


def check_file_name(identity: str) -> None:
    """Refuse a document id that cannot be the name of a file.

    Raises:
        CorpusError: It cannot.
    """
    if not all(map(_is_file_name, identity.split("/"))):
        raise CorpusError(
            f"document {shown(identity)}: the id cannot be a file name; expected no empty part, no "
            "leading dot, no backslash or control character, and a moderate length. Give it "
            "another id."
        )


def _is_file_name(part: str) -> bool:
    return (
        bool(part)
        and part[0] != "."
        and not re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", part)
        and len(part.encode()) <= _MAX_NAME_BYTES
    )


def check_labels(identity: str, labels: Iterable[str]) -> None:
    """Refuse labels that a format with blanks or tabs between its fields cannot hold.

    Raises:
        CorpusError: A label is empty or holds white space.
    """
    if not all(re.fullmatch(r"\S+", label) for label in labels):
        raise CorpusError(f"document {shown(identity)}: a label is empty or holds white space.")


def write_notes(folder: Path, notes: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """The number of notes written: for each its id, and the bytes of its files by suffix.

    The folder appears as a whole or not at all.

    Raises:
        CorpusError: The folder holds something already, or two notes have the same id.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CorpusError(f"{folder}: not empty; expected a new folder, so that no notes mix.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir(parents=True)
    count = 0
    try:
        for identity, files in notes:
            for suffix, content in files.items():
                path = partial / f"{identity}{suffix}"
                if path.exists():
                    raise CorpusError(f"document id {shown(identity)} occurs twice.")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            count += 1
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count
