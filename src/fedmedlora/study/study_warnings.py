"""What a study can do but hardly show: told before a run, as it is too late afterwards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedmedlora.core.words import counted

if TYPE_CHECKING:
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import StudyNotes
    from fedmedlora.study.prepare import Prepared

FEW_TEST_NOTES = 10
"""Below this a score is mostly chance."""


def study_warnings(prepared: Prepared) -> list[str]:
    """One line a warning; none for a study that can show what it is meant to."""
    lines = (*about_notes(prepared.config, prepared.notes), *_about_server_notes(prepared))
    return [f"WARNING: {line}" for line in lines]


def about_notes(config: StudyConfig, notes: StudyNotes) -> list[str]:
    """What the numbers of sites and notes alone tell."""
    return [
        *_about_sites(config, notes),
        *_about_test_notes(notes),
        *_about_validation_notes(config, notes),
        *_about_copies(notes),
    ]


def _about_sites(config: StudyConfig, notes: StudyNotes) -> list[str]:
    lines = []
    if len(notes.sites) == 1 and config.strategies:
        lines.append(
            "there is one training site only: a federation of one is that site's own training. "
            "Name a second [[sites]]."
        )
    if not config.cohorts:
        lines.append(
            "there is no held-out cohort: the study cannot show what a hospital that took no part "
            "would get. Name a corpus under [[cohorts]] that no site trains on."
        )
    return lines


def _about_test_notes(notes: StudyNotes) -> list[str]:
    counts = {f"{c.name} ({c.setting})": len(c.documents) for c in notes.cohorts}
    one = [name for name, count in counts.items() if count == 1]
    few = {name: count for name, count in counts.items() if 1 < count < FEW_TEST_NOTES}
    lines = []
    if one:
        lines.append(
            f"1 test note in {', '.join(one)}: a score on one note can show nothing. Annotate "
            "more notes, or raise split.test."
        )
    if few:
        told = ", ".join(f"{name} {count}" for name, count in few.items())
        lines.append(
            f"fewer than {FEW_TEST_NOTES} test notes: {told}. Their scores are mostly chance; look "
            "at the intervals."
        )
    return lines


def _about_validation_notes(config: StudyConfig, notes: StudyNotes) -> list[str]:
    without = [site.name for site in notes.sites if not site.validation]
    if not without:
        return []
    lost = ["no validation loss is told for it"]
    if config.evaluation.open_bonus == "auto":
        lost.append('evaluation.open_bonus = "auto" cannot learn from it')
    return [
        f"no validation note in {', '.join(without)}: {' and '.join(lost)}. Annotate more notes, "
        "or raise split.validation."
    ]


def _about_server_notes(prepared: Prepared) -> list[str]:
    config, server = prepared.config, prepared.server_notes
    settings = config.server_notes
    if settings is None or server is None:
        # Strategies that cannot do without are refused; this one does something else instead.
        autos = [s for s in config.strategies if getattr(s, "mode", None) == "auto"]
        told = "fedmedlora-plus in mode auto has no [server_notes]: it takes mode cross-eval, in "
        return [
            f"{told}which sites see each other's adapters. Add [server_notes] to weigh sites at "
            "the server."
            for _ in autos[:1]
        ]
    lines = []
    asked = settings.notes_per_site
    for task, found in server.notes.items():
        given = Counter(giver for giver, _ in found)
        givers = [s for s in prepared.notes.sites if settings.asks(s.name)]
        short = [
            f"{site.name} gives {given[site.name]}, of {len(site.validation)} in its validation "
            "split"
            for site in (*givers, *prepared.notes.server)
            if task in site.tasks and given[site.name] < asked
        ]
        if short:
            lines.append(
                f"server_notes.notes_per_site = {asked}, but for the task {task} "
                f"{'; '.join(short)}. Annotate more notes, raise split.validation or "
                "server_notes.max_tokens, or lower notes_per_site."
            )
    return lines


def _about_copies(notes: StudyNotes) -> list[str]:
    lines = []
    for site in notes.sites:
        texts = Counter(
            " ".join(note.text.casefold().split())
            for part in (site.train, site.validation, site.test)
            for note in part
        )
        copies = sum(count - 1 for count in texts.values())
        if copies:
            lines.append(
                f"{site.name}: {counted(copies, 'note')} with the text of another one. They are "
                "never parted by a split, but count twice."
            )
    return lines
