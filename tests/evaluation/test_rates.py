"""Rates of answers that went wrong, from what extractors record with each note."""

from __future__ import annotations

from typing import Any

import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import CorpusError
from fedmedlora.evaluation.rates import rates_of


def note(num_mentions: int = 0, **metadata: Any) -> Document:
    mentions = tuple(Entity.at(f"T{i}", "drug", i, i + 1) for i in range(num_mentions))
    return Document("n1", "x" * 20, mentions, metadata=metadata)


def test_rates_are_shares_of_all_mentions_and_of_all_answers() -> None:
    rates = rates_of(
        [
            note(6, num_windows=3, num_unparsable=1, num_truncated=0),
            note(1, num_windows=5, num_unparsable=1, num_truncated=4),
            note(unaligned_predictions={"drug": 2, "dosage": 1}),
        ]
    )

    assert rates.to_json() == {
        "unaligned_predictions": 3,
        "hallucination_rate": 3 / 10,
        "parse_failure_rate": 2 / 8,
        "truncation_rate": 4 / 8,
    }


def test_what_nobody_recorded_is_unknown_and_not_zero() -> None:
    rates = rates_of([note(2), note(num_windows=4)])

    assert rates.parse_failure is None
    assert rates.truncation is None
    assert rates.hallucination == 0.0


def test_a_note_without_the_count_does_not_thin_the_rate_out() -> None:
    assert rates_of([note(num_windows=2, num_truncated=1), note(num_windows=98)]).truncation == 0.5


def test_nothing_predicted_and_nothing_asked_is_no_division_by_zero() -> None:
    assert rates_of([note(num_windows=0, num_unparsable=0)]).parse_failure is None
    assert rates_of([]).hallucination == 0.0


@pytest.mark.parametrize("recorded", [3, {"drug": "two"}, {"drug": -1}, {"drug": True}, [1], None])
def test_unplaced_answers_without_labels_are_refused_because_they_would_not_count_as_false(
    recorded: object,
) -> None:
    with pytest.raises(CorpusError, match=r"'n1': metadata unaligned_predictions: expected whole"):
        rates_of([note(unaligned_predictions=recorded)])


@pytest.mark.parametrize(
    "metadata",
    [
        {"num_windows": 2, "num_unparsable": 3},
        {"num_windows": -1, "num_unparsable": 0},
        {"num_windows": 2, "num_truncated": 0.5},
        {"num_windows": "two", "num_truncated": 1},
        {"num_windows": True, "num_truncated": True},
    ],
)
def test_counts_that_cannot_be_are_refused_with_document_and_key(metadata: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match=r"predicted document 'n1': metadata num_\w+: expected"):
        rates_of([note(**metadata)])
