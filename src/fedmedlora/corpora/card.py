"""The corpus card, `corpus.toml`: what a folder of notes is and what was annotated in it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CARD_NAME = "corpus.toml"

_STRINGS = ("name", "documents", "format", "role", "licence", "style")
_LISTS = ("annotated_labels", "annotated_relations")
_COUNTS = ("num_documents", "num_entities", "num_relations")
_REQUIRED = ("name", "documents", "annotated_labels")


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
    """The card in a TOML file; keys that a card does not know are passed over.

    Raises:
        CorpusError: The file is not TOML, or fields are missing or of a wrong type; all of them.
    """
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CorpusError(f"{path}: not TOML ({error}).") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: byte {error.start} is not UTF-8.") from None
    faults = [f"{path}: {fault}" for fault in _faults(data)]
    if faults:
        raise CorpusError("\n".join(faults))
    known: dict[str, Any] = {key: data[key] for key in (*_STRINGS, *_COUNTS) if key in data}
    known |= {key: tuple(data.get(key, ())) for key in _LISTS}
    return CorpusCard(**known)


def _faults(data: Mapping[str, Any]) -> list[str]:
    faults = [f"{key} is missing." for key in _REQUIRED if key not in data]
    faults += [
        f"{key} is not a string." for key in _STRINGS if not isinstance(data.get(key, ""), str)
    ]
    faults += [
        f"{key} is empty; expected a string." for key in _REQUIRED if data.get(key, None) == ""
    ]
    faults += [
        f"{key} is not a list of strings."
        for key in _LISTS
        if not isinstance(data.get(key, []), list)
        or not all(isinstance(item, str) and item for item in data.get(key, []))
    ]
    faults += [
        f"{key} is not a whole number, zero or more."
        for key in _COUNTS
        if type(data.get(key, 0)) is not int or data.get(key, 0) < 0
    ]
    return faults


def write_card(folder: Path, card: CorpusCard) -> Path:
    """The path of the card written into the folder; the same card gives the same bytes."""
    lines = []
    for key in (*_STRINGS, *_LISTS, *_COUNTS):
        value = getattr(card, key)
        if isinstance(value, tuple):
            lines.append(f"{key} = [{', '.join(_toml_string(item) for item in value)}]")
        elif isinstance(value, str) and value:
            lines.append(f"{key} = {_toml_string(value)}")
        elif isinstance(value, int):
            lines.append(f"{key} = {value}")
    path = folder / CARD_NAME
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def _toml_string(value: str) -> str:
    """A TOML basic string: JSON's escapes, and that of DEL, which TOML does not allow bare."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
