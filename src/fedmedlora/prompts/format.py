"""What every prompt format offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult, Prompt
    from fedmedlora.prompts.alignment import AlignedAnswer


class PromptFormat(Protocol):
    """A way to pose entity extraction.

    `id` is name and version, e.g. `compact-v1`; a released template is never edited.
    """

    @property
    def id(self) -> str:
        """Name and version."""

    def prompt(self, document: Document, window: Span, labels: Sequence[str]) -> Prompt:
        """What the model reads for a window, asking for these labels only."""

    def render(self, document: Document, window: Span, labels: Sequence[str]) -> Example:
        """The prompt with the answer that the document's entities imply."""

    def parse(self, completion: str, prompt: Prompt) -> ParseResult:
        """The entities in an answer; what cannot be read or placed is in `problems`."""

    def align(self, completion: str, prompt: Prompt) -> AlignedAnswer:
        """The entities in an answer that may have faults, placed where they fit best.

        What `parse` reads without a problem comes out the same.
        """


@runtime_checkable
class TagFormat(PromptFormat, Protocol):
    """A way to pose entity extraction as copying the text with tags.

    `space_inside` says whether white space before an entity stands behind the opening tag.
    """

    @property
    def space_inside(self) -> bool:
        """Whether white space before an entity stands behind its opening tag."""

    def open_tag(self, label: str) -> str:
        """The tag that opens an entity of this label."""

    def close_tag(self) -> str:
        """The tag that closes an entity of any label."""


def require_tags(prompt_format: PromptFormat) -> TagFormat:
    """The format itself, if its answers copy the text with tags, as constrained decoding needs.

    Raises:
        ConfigError: They do not.
    """
    if isinstance(prompt_format, TagFormat):
        return prompt_format
    raise ConfigError(
        f"prompt format {prompt_format.id}: constrained decoding: expected answers that copy the "
        "text with tags, got a format without tags. Use the generate decoder, or a model that was "
        "trained with a tag format."
    )
