"""What every format of the relation task offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult, RelationPrompt
    from fedmedlora.core.schema import TaskSchema


class Tag(NamedTuple):
    """A tag, parted where the numbers of entities stand in it.

    `after_numbers` is None for a tag without numbers. `0` stands for no entity, and several numbers
    are parted by commas: `</1,3>` is `Tag("</", ">")` with the numbers 1 and 3.
    """

    start: str
    after_numbers: str | None = None


@runtime_checkable
class RelationFormat(Protocol):
    """A way to pose the relation task: mark each modifier, and say which entities it belongs to.

    The prompt holds the window's text with its entities marked and numbered. The answer copies the
    text with the modifiers tagged; they may nest. Either the opening or the closing tag holds the
    numbers, or neither does where links are not asked for.
    """

    @property
    def id(self) -> str:
        """Name and version."""

    @property
    def schema(self) -> TaskSchema:
        """Says which modifier may belong to which entity."""

    @property
    def space_inside(self) -> bool:
        """Whether white space before a modifier stands behind its opening tag."""

    def mark_open(self, number: int, label: str) -> str:
        """What stands in the prompt before an entity."""

    def mark_close(self) -> str:
        """What stands in the prompt behind an entity."""

    def open_tag(self, label: str, *, linked: bool) -> Tag:
        """The tag that opens a modifier of this label."""

    def close_tag(self, *, linked: bool) -> Tag:
        """The tag that closes a modifier of any label."""

    def prompt(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> RelationPrompt:
        """What the model reads for a window: the document's entities, and the labels in question.

        Args:
            document: Its main entities, gold or predicted, are given.
            window: A stretch of it.
            labels: Modifiers to ask for.
            linked: Whether to ask what they belong to.
        """

    def render(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> Example:
        """The prompt with the answer that the document's modifiers and relations imply."""

    def parse(self, completion: str, prompt: RelationPrompt) -> ParseResult:
        """The modifiers in an answer, and their relations to the given entities."""
