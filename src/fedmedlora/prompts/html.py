"""The `html` format: the paper's prompt, the text copied with `<span class="…">` tags.

Its headings and tag form are those of the paper's public code; the guide lines are ours, built from
the schema's definitions, and name only the labels in question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.example import Prompt
from fedmedlora.core.schema import default_schema
from fedmedlora.prompts.tagged_answer import align_tagged
from fedmedlora.prompts.tagging import parse_tagged, render_tagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.alignment import AlignedAnswer

INSTRUCTION_V1 = """### Task
Copy the input text and mark up each entity with an HTML span tag. Do not change the text.

### Entity Markup Guides
{guides}

### Input Text:
"""
GUIDE_V1 = 'Use <span class="{label}"> to mark {definition}.'
CUE_V1 = "\n\n### Output Text:\n"


class Html:
    """`html-v1`; see the module. `schema` gives the definitions of the guide lines."""

    id = "html-v1"
    space_inside = False

    def __init__(self, schema: TaskSchema | None = None) -> None:
        schema = schema or default_schema()
        self._definitions = {**schema.entity_labels, **schema.modifier_labels}

    def open_tag(self, label: str) -> str:
        """The tag that opens an entity of this label."""
        return f'<span class="{label}">'

    def close_tag(self) -> str:
        """The tag that closes an entity of any label."""
        return "</span>"

    def prompt(self, document: Document, window: Span, labels: Sequence[str]) -> Prompt:
        """What the model reads for a window, asking for these labels only."""
        guides = "\n".join(
            GUIDE_V1.format(label=label, definition=self._definitions.get(label, f"a {label}"))
            for label in labels
        )
        source = document.text[window.start : window.end]
        instruction = INSTRUCTION_V1.format(guides=guides)
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
