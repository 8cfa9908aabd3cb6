"""What was meant: a slip of one letter or two, a part of the word, another case."""

import pytest

from fedmedlora.core.suggest import closest, did_you_mean, slip
from fedmedlora.core.words import counted

LABELS = ("problem", "treatment", "test", "drug", "reference_range")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("problm", "problem"),
        ("Problem", "problem"),
        ("DRUG", "drug"),
        ("drugs", "drug"),
        ("reference-range", "reference_range"),
        ("range", "reference_range"),
        ("problem", None),
        ("medication", None),
        ("", None),
        ("te", None),
    ],
)
def test_a_slip_is_recognised_and_anything_else_is_not_guessed_at(word, meant):
    assert closest(word, LABELS) == meant
    assert did_you_mean(word, LABELS) == (f" Did you mean {meant!r}?" if meant else "")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("Problem", "problem"),
        ("DRUG", "drug"),
        ("drugs", "drug"),
        ("problm", "problem"),
        ("treatmnet", "treatment"),
        ("reference range", "reference_range"),
        # Words of their own: a part, another first letter, too short or too far to tell.
        ("range", None),
        ("roblem", None),
        ("text", None),
        ("treated", None),
        ("", None),
        ("problem", None),
    ],
)
def test_a_word_of_ones_own_is_not_taken_for_a_slip(word, meant):
    assert slip(word, LABELS) == meant


def test_the_nearest_word_is_meant_and_none_beyond_the_letters_allowed():
    assert slip("numbers", ("members", "numerals", "number")) == "number"
    assert slip("entries", ("entities",), most=1) is None
    assert slip("entites", ("entities",), most=1) == "entities"
    assert slip("a word", ()) is None


def test_one_thing_is_not_counted_in_the_plural():
    assert [counted(n, "fault") for n in (0, 1, 2, 1204)] == [
        "0 faults",
        "1 fault",
        "2 faults",
        "1,204 faults",
    ]
    assert counted(2, "entity", "entities") == "2 entities"
