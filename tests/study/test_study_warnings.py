"""What a study can hardly show is told with its numbers, before a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedmedlora.core.document import Document
from fedmedlora.core.records import SilentObserver
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort, SiteNotes, StudyNotes
from fedmedlora.study.prepare import prepare, resolve
from fedmedlora.study.run import start_study
from fedmedlora.study.study_warnings import about_notes, study_warnings


def some(number: int, text: str = "note {}") -> tuple[Document, ...]:
    return tuple(Document(f"n{i}", text.format(i)) for i in range(number))


def study(**changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "name": "s",
        "sites": [{"name": "a", "corpus": "a"}, {"name": "b", "corpus": "b"}],
        "cohorts": [{"name": "far", "corpus": "far"}],
        "strategies": [{"name": "fedavg"}],
    }
    return StudyConfig.model_validate(values | changes)


def site(name: str, *, validation: int = 3, train: tuple[Document, ...] = ()) -> SiteNotes:
    return SiteNotes(name, ("drug",), train or some(20), some(validation, "v{}"), some(12, "t{}"))


def of(*sites: SiteNotes, far: int = 20, own: int = 12) -> StudyNotes:
    inside = [Cohort(s.name, "in-domain", s.labels, some(own)) for s in sites]
    return StudyNotes(sites, (*inside, Cohort("far", "external", ("drug",), some(far))), "")


def test_a_sound_study_has_no_warning() -> None:
    assert about_notes(study(), of(site("a"), site("b"))) == []


def test_one_test_note_and_few_test_notes_are_told_with_their_numbers() -> None:
    one, few = about_notes(study(), of(site("a"), site("b"), far=7, own=1))

    assert one.startswith("1 test note in a (in-domain), b (in-domain): a score on one note")
    assert few.startswith("fewer than 10 test notes: far (external) 7.")


def test_one_site_and_no_cohort_are_told() -> None:
    config = study(sites=[{"name": "a", "corpus": "a"}], cohorts=[])

    alone, nobody = about_notes(config, StudyNotes((site("a"),), (), ""))

    assert "one training site only" in alone
    assert "no held-out cohort" in nobody


def test_sites_without_validation_notes_are_named_with_what_they_lose() -> None:
    config = study(evaluation={"open_bonus": "auto"})

    (line,) = about_notes(config, of(site("a", validation=0), site("b")))

    assert line.startswith("no validation note in a: ")
    assert "open_bonus" in line


def test_copies_of_a_note_within_a_site_are_counted() -> None:
    train = (*some(20), Document("x", "Note  3"), Document("y", "note 3"))

    (line,) = about_notes(study(), of(site("a", train=train), site("b")))

    assert line.startswith("a: 2 notes with the text of another one.")


def test_fewer_server_notes_than_asked_for_are_told_in_check_and_run(
    small: Callable[..., StudyConfig], tmp_path: Any
) -> None:
    config = small("server_notes.notes_per_site=4")
    prepared = prepare(resolve(config, SilentObserver()), SilentObserver())

    (line,) = [w for w in study_warnings(prepared) if "notes_per_site" in w]
    held = {s.name: len(s.validation) for s in prepared.notes.sites}
    assert line.startswith("WARNING: server_notes.notes_per_site = 4, but for the task entities")
    assert f"alder-icu gives 1, of {held['alder-icu']} in its validation split" in line

    told: list[str] = []

    class Listener(SilentObserver):
        def message(self, text: str) -> None:
            told.append(text)

    start_study(config, tmp_path, Listener())
    assert line in told


def test_mode_auto_without_server_notes_says_what_it_does_instead(
    small: Callable[..., StudyConfig],
) -> None:
    config = small('strategies=[{name="fedmedlora-plus"}]').model_copy(
        update={"server_notes": None}
    )
    prepared = prepare(resolve(config, SilentObserver()), SilentObserver())

    assert any("it takes mode cross-eval" in line for line in study_warnings(prepared))
