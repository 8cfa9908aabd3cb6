"""The `compact` format: a one-line instruction and short tags.

The opening tag stands before the white space of the first word, so that words keep the tokens that
they have in running text: `on<drug> aspirin</>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.example import Prompt
from fedmedlora.prompts.tagged_answer import align_tagged
from fedmedlora.prompts.tagging import parse_tagged, render_tagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult
    from fedmedlora.prompts.alignment import AlignedAnswer

INSTRUCTION_V1 = "Copy the text and tag each {labels}.\nText:\n"
CUE_V1 = "\nTagged:\n"


class Compact:
    """`compact-v1`; see the module."""

    id = "compact-v1"
    space_inside = True

    def open_tag(self, label: str) -> str:
        """The tag that opens an entity of this label."""
        return f"<{label}>"

    def close_tag(self) -> str:
        """The tag that closes an entity of any label."""
        return "</>"

    def prompt(self, document: Document, window: Span, labels: Sequence[str]) -> Prompt:
        """What the model reads for a window, asking for these labels only."""
        source = document.text[window.start : window.end]
        instruction = INSTRUCTION_V1.format(labels=", ".join(labels))
        return Prompt(document.id, window, tuple(labels), instruction, source, CUE_V1)

    def render(self, document: Document, window: Span, labels: Sequence[str]) -> Example:
        """The prompt with the answer that the document's entities imply."""
        return render_tagged(self, document, self.prompt(document, window, labels))

    def parse(self, completion: str, prompt: Prompt) -> ParseResult:
        """The entities in an answer; what cannot be read or placed is in `problems`."""
        return parse_tagged(self, completion, prompt)

    def align(self, completion: str, prompt: Prompt) -> AlignedAnswer:
        """The entities in an answer that may have faults, placed where they fit best."""
        return align_tagged(self, completion, prompt)
