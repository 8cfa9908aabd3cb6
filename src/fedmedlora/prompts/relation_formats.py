"""The two formats of the relation task: `html` in the form of the paper, `compact` with short tags.

Both mark the given entities in the prompt and copy the text without these marks, so that a modifier
may lie within an entity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import RelationPrompt
from fedmedlora.core.schema import default_schema
from fedmedlora.prompts.relation_answer import parse_relations
from fedmedlora.prompts.relation_format import Tag
from fedmedlora.prompts.relation_marks import given_entities, marked_source
from fedmedlora.prompts.relation_tagging import render_relations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import Example, ParseResult
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.relation_format import RelationFormat

COMPACT_LINKED_V1 = (
    "Copy the text without its marks and tag each {labels}, "
    "with the numbers of the marked entities that it belongs to.\nText:\n"
)
COMPACT_UNLINKED_V1 = "Copy the text without its marks and tag each {labels}.\nText:\n"
COMPACT_CUE_V1 = "\nTagged:\n"

HTML_V1 = """### Task
Copy the input text without the span tags of its given entities, and mark up each modifier of \
these entities with an HTML span tag. Do not change the text.

### Entity Markup Guides
{guides}

### Input Text:
"""
HTML_GUIDE_V1 = 'Use <span class="{label}"> to mark {definition}.'
HTML_LINKED_V1 = (
    'In each tag, write the numbers of the entities that it belongs to: of="1", of="1,3", or '
    'of="0" for none.'
)
HTML_CUE_V1 = "\n\n### Output Text:\n"


class CompactRelations:
    """`compact-relations-v1`: `<severity>Severe</1> chest pain`, the numbers where a tag closes.

    There the model has seen the whole modifier. The prompt: `Severe<1 problem> chest pain</>`.
    """

    id = "compact-relations-v1"
    space_inside = True

    def __init__(self, schema: TaskSchema | None = None) -> None:
        self.schema = schema or default_schema()

    def mark_open(self, number: int, label: str) -> str:
        """What stands in the prompt before an entity."""
        return f"<{number} {label}>"

    def mark_close(self) -> str:
        """What stands in the prompt behind an entity."""
        return "</>"

    def open_tag(self, label: str, *, linked: bool) -> Tag:  # noqa: ARG002  # numbers come later
        """The tag that opens a modifier of this label."""
        return Tag(f"<{label}>")

    def close_tag(self, *, linked: bool) -> Tag:
        """The tag that closes a modifier of any label."""
        return Tag("</", ">") if linked else Tag("</>")

    def prompt(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> RelationPrompt:
        """What the model reads for a window; see `RelationFormat`."""
        instruction = (COMPACT_LINKED_V1 if linked else COMPACT_UNLINKED_V1).format(
            labels=", ".join(labels)
        )
        given = given_entities(document, window, self.schema)
        marked = marked_source(self, document, window, given)
        source = document.text[window.start : window.end]
        words = (tuple(labels), instruction, source, COMPACT_CUE_V1)
        return RelationPrompt(document.id, window, *words, marked, given, linked)

    def render(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> Example:
        """The prompt with the answer that the document's modifiers and relations imply."""
        prompt = self.prompt(document, window, labels, linked=linked)
        return render_relations(self, document, prompt, self.schema)

    def parse(self, completion: str, prompt: RelationPrompt) -> ParseResult:
        """The modifiers in an answer, and their relations to the given entities."""
        return parse_relations(self, completion, prompt)


class HtmlRelations:
    """`html-relations-v1`: `<span class="severity" of="1">Severe</span> chest pain`.

    The prompt: `Severe <span class="problem" id="1">chest pain</span>`.
    """

    id = "html-relations-v1"
    space_inside = False

    def __init__(self, schema: TaskSchema | None = None) -> None:
        self.schema = schema or default_schema()

    def mark_open(self, number: int, label: str) -> str:
        """What stands in the prompt before an entity."""
        return f'<span class="{label}" id="{number}">'

    def mark_close(self) -> str:
        """What stands in the prompt behind an entity."""
        return "</span>"

    def open_tag(self, label: str, *, linked: bool) -> Tag:
        """The tag that opens a modifier of this label."""
        return (
            Tag(f'<span class="{label}" of="', '">') if linked else Tag(f'<span class="{label}">')
        )

    def close_tag(self, *, linked: bool) -> Tag:  # noqa: ARG002  # numbers stand in the opening tag
        """The tag that closes a modifier of any label."""
        return Tag("</span>")

    def prompt(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> RelationPrompt:
        """What the model reads for a window; see `RelationFormat`."""
        guides = [
            HTML_GUIDE_V1.format(
                label=label, definition=self.schema.modifier_labels.get(label, f"a {label}")
            )
            for label in labels
        ]
        instruction = HTML_V1.format(guides="\n".join([*guides, *[HTML_LINKED_V1] * linked]))
        given = given_entities(document, window, self.schema)
        marked = marked_source(self, document, window, given)
        source = document.text[window.start : window.end]
        words = (tuple(labels), instruction, source, HTML_CUE_V1)
        return RelationPrompt(document.id, window, *words, marked, given, linked)

    def render(
        self, document: Document, window: Span, labels: Sequence[str], *, linked: bool
    ) -> Example:
        """The prompt with the answer that the document's modifiers and relations imply."""
        prompt = self.prompt(document, window, labels, linked=linked)
        return render_relations(self, document, prompt, self.schema)

    def parse(self, completion: str, prompt: RelationPrompt) -> ParseResult:
        """The modifiers in an answer, and their relations to the given entities."""
        return parse_relations(self, completion, prompt)


def get_relation_format(name: str, schema: TaskSchema | None = None) -> RelationFormat:
    """The relation format that goes with an entity format of this name.

    Raises:
        ConfigError: There is none.
    """
    if name == "compact":
        return CompactRelations(schema)
    if name == "html":
        return HtmlRelations(schema)
    raise ConfigError(
        f"prompt format {name!r}: has no form for relations; expected compact or html. "
        "Choose one of these, or the task entities alone."
    )
