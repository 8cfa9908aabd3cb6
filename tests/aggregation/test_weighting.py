import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.exchange import SiteUpdate, TaskMetrics
from fedmedlora.aggregation.weighting import by_loss, by_size, by_size_and_loss, equal, size_of
from fedmedlora.core.errors import AggregationError
from fedmedlora.testing.adapters import random_adapter

losses = st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 20), min_size=1, max_size=8)


def ulps_apart(got: float, expected: np.longdouble) -> float:
    """How many units in the last place of a double lie between them."""
    return float(abs(np.longdouble(got) - expected) / np.spacing(float(expected)))


@settings(max_examples=100)
@given(losses)
def test_reference_weights_are_exp_of_one_minus_loss_to_one_ulp(by_site: dict[str, float]) -> None:
    values = np.exp(1 - np.array([by_site[s] for s in sorted(by_site)], dtype=np.longdouble))
    weights = by_loss(by_site)
    for weight, expected in zip(weights.values(), values / values.sum(), strict=True):
        assert ulps_apart(weight, expected) <= 1


@settings(max_examples=100)
@given(losses, st.integers(0, 10**6))
def test_paper_weights_are_size_times_exp_of_one_minus_loss_to_one_ulp(
    by_site: dict[str, float], size: int
) -> None:
    sizes = {site: size + 7 * i + 1 for i, site in enumerate(sorted(by_site))}
    values = np.array([sizes[s] for s in sorted(by_site)], dtype=np.longdouble) * np.exp(
        1 - np.array([by_site[s] for s in sorted(by_site)], dtype=np.longdouble)
    )
    weights = by_size_and_loss(sizes, by_site)
    for weight, expected in zip(weights.values(), values / values.sum(), strict=True):
        assert ulps_apart(weight, expected) <= 1


def test_the_weights_of_the_published_code_for_three_usual_losses() -> None:
    # exp(.90) = 2.459603, exp(.88) = 2.410900, exp(.85) = 2.339647; sum 7.210150
    weights = by_loss({"a": 0.10, "b": 0.12, "c": 0.15})
    assert [round(w, 4) for w in weights.values()] == [0.3411, 0.3344, 0.3245]


def test_size_weights_are_shares() -> None:
    assert by_size({"south": 3, "north": 1}) == {"north": 0.25, "south": 0.75}
    assert equal({"b": 0, "a": 0}) == {"a": 0.5, "b": 0.5}


def test_paper_weights_by_hand() -> None:
    # n exp(1 - L): 1 * e^(1 - 0) and 2 * e^(1 - ln 2) = 2 * e / 2; equal shares
    assert by_size_and_loss({"a": 1, "b": 2}, {"a": 0.0, "b": math.log(2)}) == pytest.approx(
        {"a": 0.5, "b": 0.5}
    )


@settings(max_examples=100)
@given(losses)
def test_weights_are_a_simplex_in_name_order(by_site: dict[str, float]) -> None:
    sizes = {site: len(site) for site in by_site}
    for weights in (by_loss(by_site), by_size_and_loss(sizes, by_site), by_size(sizes)):
        assert list(weights) == sorted(by_site)
        assert all(0 <= weight <= 1 for weight in weights.values())
        assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-15)


@settings(max_examples=60)
@given(losses, st.floats(-3, 3))
def test_a_lower_loss_never_lowers_a_weight_and_a_constant_cancels(
    by_site: dict[str, float], constant: float
) -> None:
    before = by_loss(by_site)
    first = min(by_site)
    assert by_loss(by_site | {first: by_site[first] / 2})[first] >= before[first]
    assert by_loss({s: x + constant for s, x in by_site.items()}) == pytest.approx(
        before, rel=1e-12
    )


@pytest.mark.parametrize("worst", [800.0, 1e6, 1e18, 1e308])
def test_a_huge_loss_is_a_tiny_weight_and_not_zero_by_zero(worst: float) -> None:
    assert by_loss({"a": 1.0, "b": worst}) == {"a": 1.0, "b": pytest.approx(0.0)}
    assert by_loss({"a": worst, "b": worst}) == {"a": 0.5, "b": 0.5}


def test_a_site_without_size_does_not_hide_the_others_behind_its_low_loss() -> None:
    assert by_size_and_loss({"a": 0, "b": 1}, {"a": 0.0, "b": 1e300}) == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_have_no_weight(bad: float) -> None:
    with pytest.raises(AggregationError, match="finite validation loss"):
        by_loss({"a": 1.0, "b": bad})


@pytest.mark.parametrize("sizes", [{}, {"a": 0}, {"a": -1, "b": 3}])
def test_sizes_that_cannot_be_shares_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(AggregationError, match="sizes >= 0"):
        by_size(sizes)


def test_no_site_has_no_weights() -> None:
    for rule in (equal, by_loss):
        with pytest.raises(AggregationError):
            rule({})


def test_tokens_add_up_over_tasks_and_documents_do_not() -> None:
    metrics = {
        "entities": TaskMetrics(5, 20, 300, 40),
        "relations": TaskMetrics(4, 10, 100, 30),
    }
    update = SiteUpdate("north", 1, random_adapter(0), metrics, 1)
    assert size_of(update, "tokens") == 400
    assert size_of(update, "examples") == 30
    assert size_of(update, "entities") == 70
    assert size_of(update, "documents") == 5
