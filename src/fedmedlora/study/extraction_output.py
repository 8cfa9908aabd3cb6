"""What `extract` writes, chunk by chunk, so that a killed process loses one chunk at most.

A chunk is first on disk, then told of in the progress file, then part of the output. What the
progress file does not know of is cut off when the work goes on.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from fedmedlora.core.errors import ConfigError, RunStoreError
from fedmedlora.corpora.brat_writer import note_files
from fedmedlora.corpora.formats import TARGETS
from fedmedlora.corpora.jsonl import document_line
from fedmedlora.corpora.label_studio import task_bytes
from fedmedlora.runs import atomic
from fedmedlora.study.extraction_page import PageOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.corpora.formats import TargetFormat
    from fedmedlora.study.extraction_page import PageWriter
    from fedmedlora.study.extraction_progress import Progress

ExtractionFormat = Literal["jsonl", "brat", "label-studio", "html"]


class Output(Protocol):
    """Documents that become files below one folder.

    Attributes:
        path: What readers of the format are given.
    """

    path: Path

    def begin(self, done: Progress) -> None:
        """Bring the output to where it was when this much was done.

        Raises:
            RunStoreError: It is not as it was left, or cannot be written.
        """

    def stage(self, documents: Sequence[Document], num_notes: int) -> int:
        """The file's bytes with these documents, which are on disk but do not count yet.

        Args:
            documents: The next chunk.
            num_notes: How many notes there are with these.

        Raises:
            RunStoreError: They cannot be written.
        """

    def commit(self, num_notes: int) -> None:
        """What was staged last counts: the progress file says so."""

    def finish(self) -> None:
        """No more documents come; the output is whole."""


def stored_as(name: ExtractionFormat) -> TargetFormat:
    """The format that the documents are stored in; a page is made of documents as JSON lines."""
    return "jsonl" if name == "html" else name


def make_output(name: ExtractionFormat, out: Path, write_page: PageWriter | None = None) -> Output:
    """The output in that format below `out`.

    Raises:
        ConfigError: A page is asked for, and nobody is there to write it.
    """
    if name == "brat":
        return _BratFolder(out)
    stored = stored_as(name)
    documents = _OneFile(out / str(TARGETS[stored].file_name), _LAYOUTS[stored])
    if name != "html":
        return documents
    if write_page is None:
        raise ConfigError("html: no page writer was given; expected one. Pass write_page.")
    return PageOutput(documents, write_page)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file of documents: what stands at its start, before each of them, and at its end."""

    render: Callable[[Document], bytes]
    head: bytes = b""
    before_first: bytes = b""
    before_others: bytes = b""
    foot: bytes = b""


_LAYOUTS: dict[TargetFormat, _Layout] = {
    "jsonl": _Layout(document_line),
    "label-studio": _Layout(task_bytes, b"[", b"\n", b",\n", b"\n]\n"),
}


class _OneFile:
    """All documents in one file, which has its name once it is whole."""

    def __init__(self, path: Path, layout: _Layout) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._layout = layout

    def begin(self, done: Progress) -> None:
        """See `Output`."""
        with _store_errors(self._partial):
            if self.path.exists():  # killed between the last rename and the end
                self.path.rename(self._partial)
            with self._partial.open("ab") as file:
                if file.tell() < done.num_bytes:
                    raise RunStoreError(
                        f"{self._partial}: is shorter than when the extraction was interrupted. "
                        "Restore it, or extract into a new folder."
                    )
                file.truncate(done.num_bytes)
                if done.num_notes == 0:
                    file.write(self._layout.head)
                _to_disk(file.fileno(), file.flush)
            atomic.sync(self._partial.parent)

    def stage(self, documents: Sequence[Document], num_notes: int) -> int:
        """See `Output`."""
        is_first = num_notes == len(documents)
        with _store_errors(self._partial), self._partial.open("ab") as file:
            for document in documents:
                layout = self._layout
                file.write(layout.before_first if is_first else layout.before_others)
                file.write(layout.render(document))
                is_first = False
            _to_disk(file.fileno(), file.flush)
            return file.tell()

    def commit(self, num_notes: int) -> None:
        """Nothing: the progress file has the number of bytes."""

    def finish(self) -> None:
        """See `Output`."""
        with _store_errors(self._partial):
            with self._partial.open("ab") as file:
                file.write(self._layout.foot)
                _to_disk(file.fileno(), file.flush)
            self._partial.rename(self.path)
            atomic.sync(self.path.parent)


class _BratFolder:
    """Two files a document; a chunk waits in a hidden folder until it counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, done: Progress) -> None:
        """See `Output`."""
        with _store_errors(self.path):
            for waiting in sorted(self.path.glob(".chunk-*")):
                if waiting != self._waiting(done.num_notes):
                    shutil.rmtree(waiting)
        self.commit(done.num_notes)

    def stage(self, documents: Sequence[Document], num_notes: int) -> int:
        """See `Output`."""

        def fill(folder: Path) -> None:
            for document in documents:
                path = folder / document.id
                path.parent.mkdir(parents=True, exist_ok=True)
                for suffix, content in zip((".txt", ".ann"), note_files(document), strict=True):
                    with path.with_name(path.name + suffix).open("xb") as file:
                        file.write(content)

        atomic.write_folder(self._waiting(num_notes), fill)
        return 0

    def commit(self, num_notes: int) -> None:
        """See `Output`; where some files have moved already, the others do."""
        waiting = self._waiting(num_notes)
        if not waiting.is_dir():
            return
        with _store_errors(self.path):
            folders = {self.path}
            for file in sorted(waiting.rglob("*")):
                target = self.path / file.relative_to(waiting)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                    folders.add(target)
                elif target.exists():
                    raise RunStoreError(f"{target}: exists already and is not overwritten.")
                else:
                    file.rename(target)
            for folder in folders:
                atomic.sync(folder)
            shutil.rmtree(waiting)

    def finish(self) -> None:
        """Nothing: every chunk is in its place."""

    def _waiting(self, num_notes: int) -> Path:
        return self.path / f".chunk-{num_notes}"


def _to_disk(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise atomic.store_error(path, error) from error
