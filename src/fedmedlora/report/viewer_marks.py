"""A note's text as HTML with its mentions marked: nested, crossing and discontinuous ones too.

The text content of what comes out is the note, character for character: labels are attributes,
which the style sheet shows, so that whoever copies from the page copies the note.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmedlora.core.document import Span


@dataclass(frozen=True, slots=True)
class Marked:
    """A mention as it is shown.

    Attributes:
        spans: Where it is.
        classes: Of the style sheet, with spaces between.
        inner: Of two at the same place, this one is drawn inside.
        everywhere: Attributes of each piece that the mention is shown in.
        at_start: Attributes of its first piece only.
        at_end: Attributes of its last piece only, such as the label that is shown behind it.
    """

    spans: tuple[Span, ...]
    classes: str
    inner: bool
    everywhere: Mapping[str, object]
    at_start: Mapping[str, object]
    at_end: Mapping[str, object]


def escaped(text: str) -> Markup:
    """Text for HTML; a carriage return, which a browser would take for a line feed, is kept."""
    # Escaped above all: what is replaced in it can no longer be an element.
    return Markup(str(escape(text)).replace("\r", "&#13;"))


def marked_text(text: str, mentions: Sequence[Marked]) -> Markup:
    """The note's text with one `mark` element or several for each mention.

    Elements can only nest, so of two mentions that cross, the one that starts later is cut where
    the other one ends, and goes on in a second element.
    """
    waiting = [
        # Where two begin together, the longer one comes first and so is outside.
        (span.start, -span.end, mention.inner, number, index == 0, index == len(mention.spans) - 1)
        for number, mention in enumerate(mentions)
        for index, span in enumerate(mention.spans)
    ]
    heapq.heapify(waiting)
    written: list[str] = []
    open_ends: list[int] = []
    position = 0

    def go_to(place: int) -> None:
        nonlocal position
        while open_ends and open_ends[-1] <= place:
            end = open_ends.pop()
            written.extend((escaped(text[position:end]), "</mark>"))
            position = end
        written.append(escaped(text[position:place]))
        position = place

    while waiting:
        start, minus_end, inner, number, is_first, is_last = heapq.heappop(waiting)
        end = -minus_end
        go_to(start)
        if open_ends and end > open_ends[-1]:
            cut = open_ends[-1]
            heapq.heappush(waiting, (cut, -end, inner, number, False, is_last))
            end, is_last = cut, False
        written.append(_start_tag(mentions[number], is_first, is_last))
        open_ends.append(end)
    go_to(len(text))
    return Markup("".join(written))


def _start_tag(mention: Marked, is_first: bool, is_last: bool) -> str:
    classes = mention.classes
    if not is_first:
        classes += " goes-on"
    if not is_last:
        classes += " cut"
    attributes = {"class": classes, **mention.everywhere}
    if is_first:
        attributes |= mention.at_start
    if is_last:
        attributes |= mention.at_end
    return "<mark" + "".join(f' {k}="{escaped(str(v))}"' for k, v in attributes.items()) + ">"
