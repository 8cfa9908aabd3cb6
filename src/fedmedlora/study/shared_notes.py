"""Notes that two of a study's corpora share: one may be trained on where the other is tested."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.duplicates import near_duplicates
from fedmedlora.corpora.open_corpus import Corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.study.data import StudyNotes


def shared_notes(notes: StudyNotes) -> list[dict[str, Any]]:
    """How many pairs of notes are nearly the same, for each two corpora that have such pairs.

    All notes of a site and of the server's own corpora count, and those of an external cohort that
    is tested on.
    """
    corpora = [Corpus(s.name, (*s.train, *s.validation, *s.test), None) for s in notes.sites]
    external = [cohort for cohort in notes.cohorts if cohort.setting == "external"]
    corpora += [Corpus(cohort.name, cohort.documents, None) for cohort in external]
    corpora += [Corpus(own.name, own.validation, None) for own in notes.server]
    pairs = Counter((pair.first, pair.second) for pair in near_duplicates(corpora))
    return [
        {"first": first, "second": second, "num_pairs": count}
        for (first, second), count in sorted(pairs.items())
    ]


def shared_notes_warning(shared: Sequence[dict[str, Any]]) -> list[str]:
    """A line for people, if there is anything to say."""
    if not shared:
        return []
    counts = ", ".join(f"{s['num_pairs']:,} of {s['first']} and {s['second']}" for s in shared)
    return [
        f"WARNING: pairs of notes that are nearly the same: {counts}. Where one is trained on and "
        "the other tested, scores are too good. `fedmedlora corpus summarize` lists them."
    ]
