"""Extraction to a page: documents as JSON lines, chunk by chunk, then the page made of them.

The page is made by whoever asks, see `PageWriter`: it lies beside the documents, which can be
scored or shown again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.study.extraction_output import Output
    from fedmedlora.study.extraction_progress import Progress

PAGE = "viewer.html"

PageWriter = Callable[[Path, Path, Mapping[str, Any]], None]
"""Writes the page at the first path about the documents at the second one; the settings are those
that they were made with. It replaces a page that is there, as a whole or not at all."""


class PageOutput:
    """An output that also becomes a page once it is whole.

    Args:
        documents: The output of the documents.
        write_page: Makes the page.
    """

    def __init__(self, documents: Output, write_page: PageWriter) -> None:
        self.path = documents.path.with_name(PAGE)
        self._documents = documents
        self._write_page = write_page
        self._settings: Mapping[str, Any] = {}

    def begin(self, done: Progress) -> None:
        """See `Output`."""
        self._settings = done.settings
        self._documents.begin(done)

    def stage(self, documents: Sequence[Document], num_notes: int) -> int:
        """See `Output`."""
        return self._documents.stage(documents, num_notes)

    def commit(self, num_notes: int) -> None:
        """See `Output`."""
        self._documents.commit(num_notes)

    def finish(self) -> None:
        """See `Output`; where the process is killed before all is done, the page is made again."""
        self._documents.finish()
        self._write_page(self.path, self._documents.path, self._settings)
