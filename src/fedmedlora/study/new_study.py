"""A first study of notes on disk: which corpora take which part, checked before it is written."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.core.words import counted
from fedmedlora.corpora.card import CARD_NAME
from fedmedlora.corpora.jsonl import SUFFIXES, is_jsonl
from fedmedlora.corpora.open_corpus import find_corpora, load_corpus
from fedmedlora.corpora.reader import shown
from fedmedlora.corpora.split import patient_of
from fedmedlora.study.conditions import POOL, SERVER
from fedmedlora.study.data import NO_TEST_NOTE, StudyNotes, load_notes
from fedmedlora.study.found_labels import found_labels
from fedmedlora.study.new_study_text import Choice, study_text
from fedmedlora.study.study_file import parse_study
from fedmedlora.study.study_warnings import about_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.corpora.open_corpus import Corpus
    from fedmedlora.study.config import StudyConfig

HELD_OUT = ("external", "new-site")
"""Roles of corpora that no site should train on."""

_DOCUMENTS = {f"documents{suffix}" for suffix in SUFFIXES}
_NOTES_PER_SITE = 4
_MAX_NATIVE = 8


@dataclass(frozen=True, slots=True)
class Part:
    """A corpus of the new study.

    Attributes:
        name: What the study calls it.
        path: Where it is.
        num_notes: How many notes it holds.
        labels: Entity labels in question.
        says_labels: Whether its card does; otherwise they are those that occur.
        num_patients: How many patients the notes name; none if they name none.
        modifiers: Whether it annotates modifiers.
        role: What its card says that it is for.
    """

    name: str
    path: Path
    num_notes: int
    labels: tuple[str, ...]
    says_labels: bool
    num_patients: int
    modifiers: bool
    role: str


@dataclass(frozen=True, slots=True)
class NewStudy:
    """A study file that was written, and what it is made of."""

    path: Path
    sites: tuple[Part, ...]
    cohorts: tuple[Part, ...]
    server: tuple[Part, ...]
    strategies: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""

        def plain(parts: Iterable[Part]) -> list[dict[str, Any]]:
            return [
                {
                    "name": part.name,
                    "corpus": str(part.path),
                    "documents": part.num_notes,
                    "labels": list(part.labels),
                    "labels_from": CARD_NAME if part.says_labels else "notes",
                }
                for part in parts
            ]

        return {
            "study": str(self.path),
            "sites": plain(self.sites),
            "cohorts": plain(self.cohorts),
            "server_notes": plain(self.server),
            "strategies": list(self.strategies),
            "warnings": list(self.warnings),
        }


def write_new_study(
    out: Path, sites: Sequence[Path], cohorts: Sequence[Path] = (), server: Sequence[Path] = ()
) -> NewStudy:
    """The commented study file written to `out`, with paths relative to it.

    Of a folder of several corpora that is named as a site, those whose card gives a role in
    `HELD_OUT` become cohorts.

    Raises:
        ConfigError: The file exists, or no study can be made of these notes; carries all faults.
        CorpusError: A note cannot be read exactly.
    """
    if out.exists():
        raise ConfigError(_exists(out))
    taken: set[str] = {POOL, SERVER}
    named, held = [], []
    for path in sites:
        inside = _parts(path, taken)
        several = len(inside) > 1
        held += [part for part in inside if several and part.role in HELD_OUT]
        named += [part for part in inside if not (several and part.role in HELD_OUT)]
    held += [part for path in cohorts for part in _parts(path, taken)]
    own = [part for path in server for part in _parts(path, taken)]
    choice = Choice(
        name=_name(out.stem, set()),
        file=out.name,
        sites=_entries(named, out),
        cohorts=_entries(held, out),
        server=_entries(own, out),
        can_relate=bool(named) and all(part.modifiers for part in named),
    )
    choice, config, notes = _with_strategies(choice, out)
    warnings = about_notes(config, notes)
    text = study_text(replace(choice, warnings=tuple(warnings)))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(_exists(out)) from None
    if own and config.server_notes is None:
        warnings.append("--server-notes is not used: Fed-MedLoRA+ needs at least two sites.")
        own = []
    strategies = tuple(strategy.name for strategy in config.strategies)
    return NewStudy(out, tuple(named), tuple(held), tuple(own), strategies, tuple(warnings))


def _with_strategies(choice: Choice, out: Path) -> tuple[Choice, StudyConfig, StudyNotes]:
    """The choice with server notes as far as the splits have them, and the study that it is.

    Only a trial shows how many validation notes each site has.
    """
    config, notes = _parsed(choice, out)
    givers = {site.name: len(site.validation) for site in notes.sites if site.validation}
    if len(notes.sites) > 1 and (givers or choice.server):
        per_site = min(_NOTES_PER_SITE, *givers.values()) if givers else _NOTES_PER_SITE
        few = [name for name in (s.name for s in notes.sites) if name not in givers]
        chosen = tuple(givers) if few else ()
        if choice.server:
            per_site, chosen = _NOTES_PER_SITE, ()
        choice = replace(choice, plus=True, notes_per_site=per_site, givers=chosen)
        config, notes = _parsed(choice, out)
    return choice, config, notes


def _parsed(choice: Choice, out: Path) -> tuple[StudyConfig, StudyNotes]:
    values = tomllib.loads(study_text(choice))
    root = out.resolve().parent
    values["data"]["root"] = str(root)
    own = values.get("server_notes", {}).get("corpora", [])
    for corpus in (*values["sites"], *values.get("cohorts", []), *own):
        # The folder of the study file need not exist yet, and nothing leads up out of it then.
        corpus["corpus"] = os.path.normpath(root / corpus["corpus"])
    try:
        config = parse_study(values, str(out))
        return config, load_notes(config)
    except ConfigError as error:
        needed = (
            " A site needs notes of two patients at least, to learn from one and be tested on the "
            "other; with a third it has a validation note, too."
            if NO_TEST_NOTE in str(error)
            else ""
        )
        raise ConfigError(
            f"{error}\n{out}: not written, as no study can be made of these notes.{needed}"
        ) from None


def _exists(out: Path) -> str:
    return f"{out}: already exists; it was left unchanged. Give another --out."


def _parts(path: Path, taken: set[str]) -> list[Part]:
    """The corpora at `path`: also a folder's only JSON lines file, which goes by its folder."""
    if path.is_dir() and not (path / CARD_NAME).is_file():
        found = find_corpora(path)
        files = [file for file in sorted(path.iterdir()) if file.is_file() and is_jsonl(file)]
        # The folder of a `documents.jsonl` is a corpus itself.
        if found == [path] and len(files) == 1 and files[0].name not in _DOCUMENTS:
            return [_part(files[0], taken, path.resolve().name)]
        return [_part(corpus, taken) for corpus in found]
    return [_part(path.parent if path.name == CARD_NAME else path, taken)]


def _part(path: Path, taken: set[str], wanted: str = "") -> Part:
    corpus = load_corpus(path)
    schema = default_schema()
    annotated = corpus.annotated_labels
    if annotated is None:
        labels = tuple(found_labels(corpus.documents, schema))
        if not labels:
            raise ConfigError(_no_labels(path, corpus))
    else:
        labels = tuple(label for label in schema.entity_labels if label in annotated)
    name = _name(wanted or corpus.name, taken)
    taken.add(name)
    patients = {patient for note in corpus.documents if (patient := patient_of(note))}
    held = set(annotated or ()) if corpus.card else set()
    return Part(
        name,
        path,
        len(corpus.documents),
        labels,
        annotated is not None,
        len(patients),
        bool(held & set(schema.modifier_labels)),
        corpus.card.role if corpus.card else "",
    )


def _no_labels(path: Path, corpus: Corpus) -> str:
    schema = default_schema()
    native = sorted({entity.label for note in corpus.documents for entity in note.entities})
    got = ", ".join(shown(label) for label in native[:_MAX_NATIVE]) or "no mention at all"
    more = (
        f" and {counted(len(native) - _MAX_NATIVE, 'other')}" if len(native) > _MAX_NATIVE else ""
    )
    return (
        f"{path}: none of the labels {', '.join(schema.entity_labels)} occurs in its notes; got "
        f"{got}{more}. Map its labels first: fedmedlora corpus convert --map (docs/corpora.md)."
    )


def _name(wanted: str, taken: set[str]) -> str:
    """A name that a study accepts and that is not taken."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", wanted).strip("-._")[:56] or "corpus"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _entries(parts: Sequence[Part], out: Path) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "name": part.name,
            "corpus": _relative(part.path, out),
            "labels": None if part.says_labels else list(part.labels),
            "told": _told(part),
        }
        for part in parts
    )


def _told(part: Part) -> str:
    patients = (
        f", of {counted(part.num_patients, 'patient')}, who are never parted by a split"
        if part.num_patients
        else ""
    )
    source = f"as its {CARD_NAME} says" if part.says_labels else "as no card says otherwise"
    return (
        f"{counted(part.num_notes, 'note')}{patients}; annotated: {', '.join(part.labels)}, "
        f"{source}."
    )


def _relative(path: Path, out: Path) -> str:
    """From the folder of the study file; absolute only where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix()
    except ValueError:
        return path.resolve().as_posix()
