"""The `json` format: the answer lists the entities instead of copying the text.

Words that occur more than once are told apart by a number. The answer has no tags, so constrained
decoding has no choices to offer; the format is for models that write freely.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fedmedlora.core.example import Example, Prompt, Segment
from fedmedlora.prompts.json_answer import align_list, parse_list
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.places import Places, Stretch
from fedmedlora.prompts.tagging import placeable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Span
    from fedmedlora.core.example import ParseResult
    from fedmedlora.prompts.alignment import AlignedAnswer

INSTRUCTION_V1 = """\
List each {labels} in the text as JSON, in the order of the text:
[{{"text": "the exact words", "label": "{label}", "occurrence": 1}}]
"occurrence" is 2 where the same words stand in the text for the second time, and so on.
Text:
"""
CUE_V1 = "\nJSON:\n"


class JsonList:
    """`json-v1`; see the module."""

    id = "json-v1"

    def prompt(self, document: Document, window: Span, labels: Sequence[str]) -> Prompt:
        """What the model reads for a window, asking for these labels only."""
        source = document.text[window.start : window.end]
        instruction = INSTRUCTION_V1.format(labels=", ".join(labels), label=" or ".join(labels))
        return Prompt(document.id, window, tuple(labels), instruction, source, CUE_V1)

    def render(self, document: Document, window: Span, labels: Sequence[str]) -> Example:
        """The prompt with the answer that the document's entities imply.

        It holds the entities that the tag formats can hold, so that formats can be compared.
        """
        prompt = self.prompt(document, window, labels)
        kept, lost = placeable(document.entities, window, prompt.labels, cut(prompt.source))
        places = Places(prompt.source)
        segments: list[Segment] = []
        for entity in kept:
            stretch = Stretch(entity.start - window.start, entity.end - window.start)
            words = prompt.source[stretch.start : stretch.end]
            occurrence = places.exact(words).index(stretch) + 1
            opening = ',\n {"text": "' if segments else '[{"text": "'
            closing = f'", "label": {_quoted(entity.label)}, "occurrence": {occurrence}}}'
            segments += [Segment(opening, tag=True), *_words(words), Segment(closing, tag=True)]
        segments.append(Segment("]" if segments else "[]", tag=True))
        return Example(prompt, tuple(segments), "entities", len(kept), lost)

    def parse(self, completion: str, prompt: Prompt) -> ParseResult:
        """The entities in an answer; what cannot be read or placed is in `problems`."""
        return parse_list(completion, prompt)

    def align(self, completion: str, prompt: Prompt) -> AlignedAnswer:
        """The entities in an answer that may have faults, placed where they fit best."""
        return align_list(completion, prompt)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _words(words: str) -> list[Segment]:
    """The pieces of an entity; a piece that JSON must escape is no longer the source's."""
    segments = []
    for piece in cut(words):
        text = words[piece.start : piece.end]
        escaped = _quoted(text)[1:-1]
        segments.append(Segment(escaped, tag=escaped != text))
    return segments
