"""What was meant: a slip of one letter or two, a part of the word, another case."""

import pytest

from fedmedlora.core.suggest import closest, did_you_mean
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


def test_one_thing_is_not_counted_in_the_plural():
    assert [counted(n, "fault") for n in (0, 1, 2, 1204)] == [
        "0 faults",
        "1 fault",
        "2 faults",
        "1,204 faults",
    ]
    assert counted(2, "entity", "entities") == "2 entities"
