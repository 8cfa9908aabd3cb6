"""What every prompt format offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult, Prompt


class TagFormat(Protocol):
    """A way to pose entity extraction as copying the text with tags.

    `id` is name and version, e.g. `compact-v1`; a released template is never edited.
    `space_inside` says whether white space before an entity stands behind the opening tag.
    """

    @property
    def id(self) -> str:
        """Name and version."""

    @property
    def space_inside(self) -> bool:
        """Whether white space before an entity stands behind its opening tag."""

    def open_tag(self, label: str) -> str:
        """The tag that opens an entity of this label."""

    def close_tag(self) -> str:
        """The tag that closes an entity of any label."""

    def prompt(self, document: Document, window: Span, labels: Sequence[str]) -> Prompt:
        """What the model reads for a window, asking for these labels only."""

    def render(self, document: Document, window: Span, labels: Sequence[str]) -> Example:
        """The prompt with the answer that the document's entities imply."""

    def parse(self, completion: str, prompt: Prompt) -> ParseResult:
        """The entities in an answer; what cannot be read or placed is in `problems`."""
