"""Who the artificial hospitals are, which words each of them knows and what its annotators mark."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.core.seeds import derive_seed
from fedmedlora.corpora.synthetic.grammar import parse_production, parse_rules

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from fedmedlora.corpora.synthetic.grammar import Production, Rules

Role = Literal["train", "external"]

# Of every list of words: a tenth is known to all, six tenths only where the role is "train", the
# rest only where it is "external". Of its own role's words, a hospital knows this share.
_COMMON, _TRAINING, _KNOWN = 0.10, 0.60, {"train": 0.55, "external": 0.8}


# The letters by which words of the lexicon name their topics (lexicon/problems.txt says which).
TOPICS = "hlgknmjseibwt"


@dataclass(frozen=True, slots=True)
class Hospital:
    """An artificial hospital.

    `relative_size` is its number of notes as a multiple of the average hospital's; `unmarked` are
    the labels that its annotators never looked for. With `graded_outside` they leave a leading
    severity out of the problem.
    """

    name: str
    style: str
    role: Role
    description: str
    relative_size: float = 1.0
    unmarked: frozenset[str] = frozenset()
    line_break: str = "\n"
    typo_rate: float = 0.01
    wrapped_share: float = 0.0
    upper_share: float = 0.0
    graded_outside: bool = False

    @property
    def annotated_labels(self) -> tuple[str, ...]:
        """The labels that its annotators marked wherever they apply, in the schema's order."""
        return tuple(label for label in default_schema().labels if label not in self.unmarked)


FIVE = (
    Hospital(
        "alder-icu",
        "icu",
        "train",
        "intensive-care discharge summaries with sections, medication lists and laboratory rows",
        relative_size=0.8,
        unmarked=frozenset({"condition", "subject", "uncertain", "course"}),
        wrapped_share=0.4,
    ),
    Hospital(
        "birch-clinic",
        "clinic",
        "train",
        "polite letters of an outpatient clinic; tests and their results are not annotated",
        relative_size=1.2,
        unmarked=frozenset({"test", "labvalue", "reference_range"}),
        line_break="\r\n",
        typo_rate=0.005,
        graded_outside=True,
    ),
    Hospital(
        "cedar-dictation",
        "dictation",
        "train",
        "dictated notes typed as spoken; treatments are not annotated",
        relative_size=1.0,
        unmarked=frozenset({"treatment", "form", "reference_range"}),
        typo_rate=0.015,
    ),
    Hospital(
        "dogwood-triage",
        "triage",
        "external",
        "emergency triage shorthand; all four entities annotated",
        relative_size=0.8,
        unmarked=frozenset({"reference_range"}),
        typo_rate=0.02,
        upper_share=0.12,
    ),
    Hospital(
        "elm-eye",
        "eye",
        "external",
        "one-liners of an eye clinic; treatments are not annotated",
        relative_size=1.2,
        unmarked=frozenset({"treatment", "reference_range"}),
        typo_rate=0.02,
    ),
)

_MORE_TREES = (
    *("fir", "ginkgo", "hazel", "ilex", "juniper", "kapok", "larch", "maple", "nutmeg", "oak"),
    *("pine", "quince", "rowan", "spruce", "teak", "ulmus", "viburnum", "willow", "yew", "zelkova"),
)
# Labels that the annotators of a further hospital leave out: they take turns.
_MORE_UNMARKED = (
    frozenset({"treatment"}),
    frozenset({"test", "labvalue", "reference_range", "temporal"}),
    frozenset({"drug", "strength", "dosage", "duration", "form", "frequency", "route"}),
    frozenset({"bodyloc", "severity"}),
    frozenset({"negation", "uncertain", "condition"}),
)
MAX_SITES = len(FIVE) + len(_MORE_TREES)


@cache
def roster() -> tuple[Hospital, ...]:
    """All hospitals: the five, then further training hospitals that write as one of the three.

    A further hospital shares its style with one of the first three, but knows other words and
    annotates other labels. None writes in the style of the two held-out hospitals.
    """
    hospitals = list(FIVE)
    for number, tree in enumerate(_MORE_TREES):
        model = FIVE[number % 3]
        unmarked = _MORE_UNMARKED[number % len(_MORE_UNMARKED)]
        hospitals.append(
            Hospital(
                f"{tree}-{model.style}",
                model.style,
                "train",
                f"{model.description.split(';')[0]}; not annotated: {', '.join(sorted(unmarked))}",
                relative_size=(0.6, 1.0, 1.3, 0.8)[number % 4],
                unmarked=unmarked,
                line_break=model.line_break,
                typo_rate=model.typo_rate,
                wrapped_share=model.wrapped_share,
            )
        )
    return tuple(hospitals)


def hospital(site: int | str) -> Hospital:
    """The hospital with this name, or at this place of the roster, counted from 0.

    Raises:
        ConfigError: There is none.
    """
    for index, candidate in enumerate(roster()):
        if site in (index, candidate.name):
            return candidate
    raise ConfigError(
        f"artificial hospitals: expected a name or a number from 0 to {MAX_SITES - 1}, "
        f"got {site!r}. The first five are {', '.join(h.name for h in FIVE)}."
    )


def _data(*parts: str) -> Traversable:
    return resources.files("fedmedlora.corpora.synthetic").joinpath(*parts)


def _lab_rules(rows: list[dict[str, str]]) -> Rules:
    """Rules for a laboratory test alone, with its result, and as a row of a table."""
    names: list[Production] = []
    results: list[Production] = []
    table: list[Production] = []
    for row in rows:
        name = f"[{row['name']}|{row['short']}]"
        glue = "" if row["unit"] == "%" else " "
        unit = f"{glue}{row['unit']}" if row["unit"] else ""
        value = f"<#{row['low']}-{row['high']}>"
        reference = row["reference"].replace("<", "\\<")
        where = f"labs.csv, {row['name']}"
        names.append(parse_production(f"{{test:{name}}}", where))
        results.append(
            parse_production(f"{{test#t:{name}}}<is>{{labvalue>t:{value}[{unit}|]}}", where)
        )
        table.append(
            parse_production(
                f"{{test#t:{name}}}<row_mid>{{labvalue>t:{value}{unit}}}"
                f"<row_ref>{{reference_range>t:{reference}}}<row_end>",
                where,
            )
        )
    return {"lab": tuple(names), "lab_result": tuple(results), "lab_row": tuple(table)}


def _known(words: list[str], list_name: str, site: Hospital) -> set[str]:
    """The words of a list that a hospital knows, always the same ones."""
    order = sorted(set(words), key=lambda word: derive_seed("artificial words", list_name, word))
    common = max(1, round(_COMMON * len(order)))
    border = common + round(_TRAINING * len(order))
    mine = order[common:border] if site.role == "train" else order[border:]
    mine.sort(key=lambda word: derive_seed("known words", site.name, list_name, word))
    return {*order[:common], *mine[: max(2, round(_KNOWN[site.role] * len(mine)))]}


@cache
def lexicon(name: str) -> tuple[Rules, frozenset[str]]:
    """The open-class words that the hospital knows, as rules, and the names of these rules."""
    site = hospital(name)
    rules: Rules = {}
    for file in ("problems.txt", "drugs.txt", "treatments.txt", "tests.txt"):
        text = _data("lexicon", file).read_text("utf-8")
        for rule, productions in parse_rules(text, file, several=True).items():
            known = _known([p.source for p in productions], rule, site)
            unique = {p.source: p for p in productions if p.source in known}
            rules[rule] = tuple(unique.values())
    rows = list(csv.DictReader(_data("lexicon", "labs.csv").read_text("utf-8").splitlines()))
    known = _known([row["name"] for row in rows], "labs", site)
    rules |= _lab_rules([row for row in rows if row["name"] in known])
    return rules, frozenset(rules)


@cache
def grammar(name: str) -> tuple[Rules, frozenset[str]]:
    """All rules by which the hospital writes, and the names of those that list its words."""
    words, names = lexicon(name)
    style = hospital(name).style
    rules = words | parse_rules(_data("styles", "shared.txt").read_text("utf-8"), "shared.txt")
    own = _data("styles", f"{style}_words.txt")
    if own.is_file():
        extra = parse_rules(own.read_text("utf-8"), own.name, several=True)
        rules |= extra
        names |= set(extra)
    rules |= parse_rules(_data("styles", f"{style}.txt").read_text("utf-8"), f"{style}.txt")
    return rules, names
