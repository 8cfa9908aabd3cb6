"""`study check` warns of notes that lie at two places, in counts only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import load_notes
from fedmedlora.study.shared_notes import shared_notes, shared_notes_warning
from fedmedlora.study.study_file import load_study


@pytest.fixture
def copied(bare_study: Path) -> Callable[[str, str, int], None]:
    """Puts one hospital's first notes into another, with one word more and a new id."""

    def copy(source: str, target: str, number: int) -> None:
        folder = bare_study.parent / "hospitals"
        path = folder / target / "documents.jsonl"
        own = list(read_jsonl(path))
        path.unlink()  # a hard link to the file of all tests
        extra = list(read_jsonl(folder / source / "documents.jsonl"))[:number]
        write_jsonl(path, [*own, *(_changed(note) for note in extra)])

    return copy


def _changed(note):
    return type(note)(
        id=f"copy-{note.id}",
        text=f"{note.text} today",
        entities=note.entities,
        relations=note.relations,
        metadata={},
    )


def test_hospitals_of_their_own_notes_share_none(small: Callable[..., StudyConfig]) -> None:
    found = shared_notes(load_notes(small()))

    assert found == []
    assert shared_notes_warning(found) == []


def test_pairs_are_counted_by_the_places_that_share_them(bare_study: Path, copied) -> None:
    copied("alder-icu", "birch-clinic", 3)
    copied("alder-icu", "dogwood-triage", 2)
    config = load_study(bare_study, ["evaluation.max_characters=100000"])

    found = shared_notes(load_notes(config))

    counts = {(s["first"], s["second"]): s["num_pairs"] for s in found}
    assert counts == {
        ("alder-icu", "birch-clinic"): 3,
        ("alder-icu", "dogwood-triage"): 2,
        ("birch-clinic", "dogwood-triage"): 2,
    }
    (line,) = shared_notes_warning(found)
    assert line.startswith("WARNING: pairs of notes that are nearly the same: 3 of alder-icu and")


def test_check_says_how_many_and_shows_no_text(
    bare_study: Path, copied, capsys: pytest.CaptureFixture[str]
) -> None:
    copied("alder-icu", "birch-clinic", 1)
    (note, *_) = read_jsonl(bare_study.parent / "hospitals" / "alder-icu" / "documents.jsonl")

    code = run_app(app, ["study", "check", str(bare_study), "--set", "strategies=[]"])

    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "nearly the same: 1 of alder-icu and birch-clinic." in shown.out
    longest = max(note.text.split(), key=len)
    assert longest not in shown.out + shown.err
