"""The corpus card, `corpus.toml`: what a folder of notes is and what was annotated in it."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError
from fedmedlora.core.suggest import slip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CARD_NAME = "corpus.toml"

_STRINGS = ("name", "documents", "format", "role", "licence", "style")
_LISTS = ("annotated_labels", "annotated_relations")
_COUNTS = ("num_documents", "num_entities", "num_relations")
_REQUIRED = {
    "name": 'Write name = "north"; the folder\'s name will do',
    "documents": 'Write documents = "documents.jsonl", or "." for BRAT files beside the card',
    "annotated_labels": (
        'Write annotated_labels = ["problem", "treatment", "test", "drug"], without those that '
        "the annotators did not look for"
    ),
}


@dataclass(frozen=True, slots=True)
class CorpusCard:
    """What a corpus says about itself.

    Attributes:
        name: The corpus name, which documents get as `source`.
        documents: The JSON lines file, or the folder of BRAT files, beside the card.
        annotated_labels: Labels that the annotators looked for; any other label is unknown in this
            corpus, not absent.
        annotated_relations: Relation labels that the annotators looked for.
        role: What the corpus is for, e.g. `train`, `external`, `new-site`.
        licence: An SPDX identifier or a sentence.
        style: The kind of notes, in words.
        format: The format of the documents, if they are neither JSON lines nor BRAT files.
        num_documents: How many there should be, where the card says so; likewise the next two.
    """

    name: str
    documents: str
    annotated_labels: tuple[str, ...]
    annotated_relations: tuple[str, ...] = ()
    role: str = ""
    licence: str = ""
    style: str = ""
    format: str = ""
    num_documents: int | None = None
    num_entities: int | None = None
    num_relations: int | None = None


def load_card(path: Path) -> CorpusCard:
    """The card in a TOML file; keys of your own are passed over, misspelt ones are not.

    Raises:
        CorpusError: The file is not TOML, or fields are missing, misspelt or of a wrong type; all
            of them, with their lines.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorpusError(f"{path}: not TOML ({error}).") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: byte {error.start} is not UTF-8.") from None
    faults = [
        f"{path}{f':{line}' if (line := line_of(text, key)) else ''}: {reason}"
        for key, reason in _faults(data)
    ]
    if faults:
        raise CorpusError("\n".join(faults))
    known: dict[str, Any] = {key: data[key] for key in (*_STRINGS, *_COUNTS) if key in data}
    known |= {key: tuple(data.get(key, ())) for key in _LISTS}
    return CorpusCard(**known)


def line_of(text: str, key: str, item: str | None = None) -> int | None:
    """The line of a card at which a key stands, or an item of its list; None if it does not."""
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if re.match(rf"""\s*["']?{key}["']?\s*=""", line)]
    if not starts:
        return None
    if item is not None:
        quoted = (toml_string(item), f"'{item}'")
        for number in range(starts[0], len(lines)):
            if any(text in lines[number] for text in quoted):
                return number + 1
    return starts[0] + 1


def _faults(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key that is wrong, and why."""
    meant = _misspelt(data)
    for key, right in meant.items():
        yield key, f"the key {key!r} is not known. Did you mean {right!r}?"
    for key, advice in _REQUIRED.items():
        if key not in data and key not in meant.values():
            yield key, f"{key} is missing. {advice}."
        elif data.get(key) == "":
            yield key, f"{key} is empty. {advice}."
    for key in _STRINGS:
        if not isinstance(data.get(key, ""), str):
            yield key, f'{key} is not a string. Write it in quotes: {key} = "...".'
    for key in _LISTS:
        value = data.get(key, [])
        if isinstance(value, str) and value:
            yield key, f"{key} is not a list of strings. Write {key} = [{toml_string(value)}]."
        elif not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            yield key, f'{key} is not a list of strings. Write {key} = ["...", "..."].'
    for key in _COUNTS:
        if type(data.get(key, 0)) is not int or data.get(key, 0) < 0:
            yield key, f"{key} is not a whole number, zero or more. Correct it, or leave it out."


def _misspelt(data: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a card that stand for one that is not there; any other key is its owner's."""
    known = (*_STRINGS, *_LISTS, *_COUNTS)
    missing = [key for key in known if key not in data]
    meant = {}
    for key in data:
        if key in known:
            continue
        # `num_entries` counts something else than `num_entities`.
        right = slip(key, missing, most=1 if key.startswith("num_") else 2)
        # A card that lacks a field is wrong anyway: `labels` was to be `annotated_labels`.
        parts = [name for name in _REQUIRED if name in missing and key in name.split("_")]
        if right or parts:
            meant[key] = right or parts[0]
    return meant


def write_card(folder: Path, card: CorpusCard) -> Path:
    """The path of the card written into the folder; the same card gives the same bytes."""
    lines = []
    for key in (*_STRINGS, *_LISTS, *_COUNTS):
        value = getattr(card, key)
        if isinstance(value, tuple):
            lines.append(f"{key} = [{', '.join(toml_string(item) for item in value)}]")
        elif isinstance(value, str) and value:
            lines.append(f"{key} = {toml_string(value)}")
        elif isinstance(value, int):
            lines.append(f"{key} = {value}")
    path = folder / CARD_NAME
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def toml_string(value: str) -> str:
    """A TOML basic string: JSON's escapes, and that of DEL, which TOML does not allow bare."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
