"""The text of a new study file: few settings, each with what it means in plain words."""

from __future__ import annotations

import json
import shlex
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.card import toml_string
from fedmedlora.study.config import StudyConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH = 96


@dataclass(frozen=True, slots=True)
class Choice:
    """What a new study is made of.

    Attributes:
        name: Of the study.
        file: The study file's name, in its folder.
        sites: Name, corpus, labels (None: the card's) and what is told of each training site.
        cohorts: The same of held-out cohorts.
        server: The same of the server's own corpora.
        can_relate: Whether all sites annotate modifiers, so that they can be trained, too.
        plus: Whether there are notes for Fed-MedLoRA+ to weigh sites by.
        notes_per_site: How many of these each giver gives.
        givers: The sites that give some; empty: all.
        warnings: What the study cannot show.
    """

    name: str
    file: str
    sites: tuple[Mapping[str, Any], ...]
    cohorts: tuple[Mapping[str, Any], ...] = ()
    server: tuple[Mapping[str, Any], ...] = ()
    can_relate: bool = False
    plus: bool = False
    notes_per_site: int = 1
    givers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def study_text(choice: Choice) -> str:
    """The file's text; what is not in it has its default."""
    parts = [
        _head(choice),
        _settings(choice),
        "\n".join(_corpus("sites", site) for site in choice.sites),
        _cohorts(choice.cohorts),
        _strategies(choice),
    ]
    return "\n".join(parts)


def _head(choice: Choice) -> str:
    file = shlex.quote(choice.file)
    lines = _comment(
        "A study, written by `fedmedlora study new`. Change what you like: a key that does not "
        "exist is an error, and one that is left out has its default."
    )
    lines += [
        f"#   fedmedlora study check {file}            all faults, and what it will cost",
        f"#   fedmedlora study run {file} --out runs   the study, and its report",
    ]
    if choice.warnings:
        lines += ["#", *_comment("What these notes cannot show well:")]
        for warning in choice.warnings:
            lines += _comment(f"- {warning}", indent="  ")
    lines += ["", *_comment("What its runs and its report are called.")]
    lines += [f"name = {toml_string(choice.name)}"]
    lines += _comment("All that is drawn by chance follows from this number: splits, order, start.")
    lines += ["seed = 0"]
    also = (
        'All sites annotate modifiers, too: tasks = ["entities", "relations"] also learns these '
        "(dose, negation, body part, ...) and what they belong to."
        if choice.can_relate
        else 'With "relations" beside it, sites that annotate modifiers (dose, negation, ...) '
        "also learn these."
    )
    lines += _comment(
        f"What is learned: entities are problems, treatments, tests and drugs. {also}"
    )
    lines += ['tasks = ["entities"]']
    return "\n".join(lines) + "\n"


def _settings(choice: Choice) -> str:
    default = StudyConfig.model_fields
    split = default["split"].default
    lines: list[str] = []

    def table(name: str, *keys: tuple[str, Any, str]) -> None:
        lines.append(f"[{name}]")
        for key, value, words in keys:
            lines.extend(_comment(words))
            lines.append(f"{key} = {json.dumps(value)}")
        lines.append("")

    table("data", ("root", ".", "Paths of notes below start here, beside this file."))
    table(
        "model",
        (
            "base",
            default["model"].default.base,
            "The language model that stays frozen: a name from `fedmedlora model list`, a folder, "
            "or a hub id. This one is small and runs on a CPU.",
        ),
    )
    table(
        "training",
        (
            "epochs",
            default["training"].default.epochs,
            "How often a site reads its notes in a round.",
        ),
        (
            "max_tokens",
            10_000,
            "Most tokens a site trains on, so that a first run ends soon. For the real one take "
            "this line out: then all training notes are read.",
        ),
    )
    table(
        "federation",
        (
            "rounds",
            default["federation"].default.rounds,
            "How often sites train and the server merges what they learned.",
        ),
    )
    table(
        "split",
        ("train", split.train, "Shares of each site's notes: to learn from, ..."),
        ("validation", split.validation, "... to judge adapters by while training, ..."),
        ("test", split.test, "... and to test on at the end. Nobody trains on these."),
    )
    table(
        "evaluation",
        (
            "max_characters",
            10_000,
            "Most characters of test notes a site or cohort, so that a first run ends soon. Take "
            "the line out for the real one.",
        ),
    )
    table(
        "arms",
        ("zero_shot", True, "What the federated models are compared with: no training, ..."),
        ("single_site", True, "... each site on its own, ..."),
        ("centralized", True, "... and all notes in one place, which real sites cannot do."),
    )
    lines += _comment(
        f"{'Sites' if len(choice.sites) > 1 else 'The site'} that {_trains(choice.sites)}. Where "
        "note ids tell which notes belong together, such as those of one patient, add "
        'group = "^([^_]+)_" (a regular expression with one group), so that none is learned from '
        "at one place and tested on at another. Notes with metadata patient_id need no group."
    )
    return "\n".join(lines) + "\n"


def _trains(sites: Sequence[object]) -> str:
    return "train" if len(sites) > 1 else "trains"


def _corpus(table: str, entry: Mapping[str, Any]) -> str:
    lines = [f"[[{table}]]", *_comment(str(entry["told"]))]
    lines += [f"name = {toml_string(entry['name'])}", f"corpus = {toml_string(entry['corpus'])}"]
    if entry["labels"] is not None:
        lines += _comment(
            "CHECK THIS: the labels that occur in its notes. Add those that the annotators looked "
            "for and did not find; take out those that they marked only now and then. A label that "
            "is missing here is unknown in these notes, not absent."
        )
        lines += [f"labels = {json.dumps(entry['labels'])}"]
    return "\n".join(lines) + "\n"


def _cohorts(cohorts: Sequence[Mapping[str, Any]]) -> str:
    lines = _comment(
        "Held-out cohorts: nobody trains on them; they show what a hospital that took no part "
        "would get."
    )
    if cohorts:
        return "\n".join([*lines, *(_corpus("cohorts", cohort) for cohort in cohorts)])
    lines += _comment("There is none yet. To add one, remove the # from these three lines:")
    lines += ["# [[cohorts]]", '# name = "elsewhere"', '# corpus = "FOLDER"']
    return "\n".join(lines) + "\n"


def _strategies(choice: Choice) -> str:
    lines = _comment("Ways to merge what sites learned, compared side by side. Plain averaging:")
    lines += ["[[strategies]]", 'name = "fedavg"', ""]
    if not choice.plus:
        why = (
            "it needs at least two sites"
            if len(choice.sites) < 2
            else "it needs labelled notes to weigh sites by, and no site has a validation note"
        )
        lines += _comment(f"Fed-MedLoRA+ (fedmedlora-plus) is left out: {why}.")
        return "\n".join(lines) + "\n"
    lines += _comment(
        "Fed-MedLoRA+: a site counts as much as its adapter is useful on labelled notes at the "
        'server. Mode "reference" is that of the published code.'
    )
    lines += ["[[strategies]]", 'name = "fedmedlora-plus"', 'mode = "reference"', ""]
    lines += _comment("The labelled notes at the server that Fed-MedLoRA+ weighs sites by.")
    lines += ["[server_notes]"]
    if choice.server:
        lines += _comment("Notes taken from each corpus below; none of them is trained on.")
    else:
        lines += _comment(
            "Notes that each site gives away, with consent, from its validation split. If no note "
            'may leave a site, take this table out and choose mode = "cross-eval" above.'
        )
    lines += [f"notes_per_site = {choice.notes_per_site}"]
    if choice.givers:
        lines += _comment("Only these sites have validation notes.")
        lines += [f"sites = {json.dumps(list(choice.givers))}"]
    text = "\n".join(lines) + "\n"
    for corpus in choice.server:
        text += "\n" + _corpus("server_notes.corpora", corpus)
    return text


def _comment(words: str, indent: str = "") -> list[str]:
    return [
        f"# {line}"
        for line in textwrap.wrap(
            words, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        )
    ]
