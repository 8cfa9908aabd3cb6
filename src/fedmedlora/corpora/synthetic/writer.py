"""Turns a draft into text, by appending, and knows where each mention started and ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.document import Entity, Relation
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.synthetic.composer import Boundary
from fedmedlora.corpora.synthetic.grammar import Sign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.corpora.synthetic.composer import Draft

_NO_SPACE_BEFORE = frozenset(",.;:)")
_ARTICLE = re.compile(r"an? ", re.IGNORECASE)
_VOWEL_LETTERS = frozenset("AEFHILMNORSX")


@dataclass(frozen=True, slots=True)
class Written:
    """A note's text, its mentions in text order and their links."""

    text: str
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]


def _article(following: str) -> str:
    word = following.split(" ")[0].strip("(,.")
    if len(word) > 1 and word[:2].isupper():
        return "an" if word[0] in _VOWEL_LETTERS else "a"
    if word.lower().startswith(("uni", "eu", "one", "use", "uri", "ure", "ut")):
        return "a"
    return "an" if word[:1].lower() in tuple("aeio8u") or word in ("11", "18") else "a"


def render(draft: Draft, *, line_break: str = "\n", upper: bool = False) -> Written:
    """The text of a draft and the exact spans of its mentions.

    Spans have no white space at their ends, those of entities no article in front.
    Runs of spaces become one, a space before a closing sign or at either end of a line goes, and
    `upper` turns every letter whose capital is one character long.
    """
    pieces: list[str | Boundary | Sign] = []
    for event in draft.events:
        pieces += [event] if isinstance(event, Boundary | Sign) else list(event)
    out: list[str] = []
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    opening: list[int] = []
    capital = False
    space = False

    def put(letters: str, following: str = "") -> None:
        nonlocal space, capital
        if space and out and out[-1] not in "\n\t\0":
            out.append(" ")
        space = False
        for key in opening:
            starts[key] = len(out)
        opening.clear()
        if capital and letters[0].isalnum():
            # Names such as eGFR keep their small letter.
            if not following.isupper():
                letters = letters[0].upper() + letters[1:]
            capital = False
        out.extend(letters)

    for index, piece in enumerate(pieces):
        if isinstance(piece, Boundary):
            if piece.opens:
                opening.append(piece.key)
            else:
                ends[piece.key] = len(out)
        elif isinstance(piece, Sign):
            if piece.kind == "^":
                capital = True
            else:
                rest = [p for p in pieces[index + 1 : index + 60] if isinstance(p, str)]
                put(_article("".join(rest).strip()))
        elif piece == " ":
            space = True
        elif piece == "\n":
            space = False
            out.extend(line_break)
        elif piece in "\t\0":
            space = False
            out.append(piece)
        else:
            after = pieces[index + 1] if index + 1 < len(pieces) else ""
            following = after if isinstance(after, str) else ""
            decimal = piece == "." and following.isdigit()
            if piece in _NO_SPACE_BEFORE and not decimal:
                space = False
            put(piece, following)
    text = "".join(out).replace("\0", " ")
    if upper:
        text = "".join(c.upper() if len(c.upper()) == 1 else c for c in text)
    return _numbered(text, draft, starts, ends)


def _numbered(text: str, draft: Draft, starts: dict[int, int], ends: Mapping[int, int]) -> Written:
    for key, start in starts.items():
        article = _ARTICLE.match(text, start, ends[key])
        if article and draft.labels[key] in default_schema().entity_labels:
            starts[key] = article.end()
    order = sorted(starts, key=lambda key: (starts[key], -ends[key], key))
    ids = {key: f"T{number}" for number, key in enumerate(order, start=1)}
    entities = tuple(Entity.at(ids[k], draft.labels[k], starts[k], ends[k]) for k in order)
    place = {key: number for number, key in enumerate(order)}
    links = sorted(set(draft.links), key=lambda link: (place[link[0]], place[link[1]]))
    relations = tuple(
        Relation(f"R{number}", "modifies", ids[head], ids[tail])
        for number, (head, tail) in enumerate(links, start=1)
    )
    return Written(text, entities, relations)
