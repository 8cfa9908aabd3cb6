"""Approximate randomisation against the exact test, and Holm against hand computation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedmedlora.evaluation.intervals import f1_of
from fedmedlora.evaluation.significance import holm, randomisation_p


def made_up_counts(num_documents: int, seed: int, skill: float) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    num_gold = np.random.default_rng(0).poisson(9, num_documents)
    found = rng.binomial(num_gold, skill)
    return np.stack([found, rng.poisson(1, num_documents), num_gold - found], axis=1)


@pytest.mark.parametrize("better", [0.70, 0.78, 0.9])
def test_p_is_that_of_all_swaps_of_few_documents(better: float) -> None:
    first, second = made_up_counts(8, 1, better), made_up_counts(8, 2, 0.7)

    p = randomisation_p(first, second, num_swaps=19_999)

    def gap(swapped: NDArray[np.bool_]) -> float:
        a = np.where(swapped[:, None], second, first).sum(axis=0)
        b = np.where(swapped[:, None], first, second).sum(axis=0)
        return abs(float(f1_of(a) - f1_of(b)))

    gaps = [gap(np.array(choice)) for choice in product([False, True], repeat=8)]
    exact = np.mean([g >= gaps[0] - 1e-12 for g in gaps])
    assert p == pytest.approx(exact, abs=0.015)


def test_p_agrees_with_scipys_permutation_test() -> None:
    first, second = made_up_counts(40, 3, 0.76), made_up_counts(40, 4, 0.75)
    outputs = np.stack([first, second])

    def statistic(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        """Of the places of the outputs: scipy permutes numbers, not rows of counts."""
        documents = np.arange(40)
        sums = [outputs[which.astype(int), documents].sum(axis=0) for which in (a, b)]
        return abs(float(f1_of(sums[0]) - f1_of(sums[1])))

    theirs = stats.permutation_test(
        (np.zeros(40), np.ones(40)),
        statistic,
        permutation_type="samples",
        alternative="greater",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).pvalue

    assert 0.01 < theirs < 0.9
    assert randomisation_p(first, second) == pytest.approx(theirs, abs=0.025)


def test_figures_in_one_call_have_the_p_that_they_have_alone() -> None:
    firsts = np.stack([made_up_counts(30, s, 0.8) for s in (1, 2)])
    seconds = np.stack([made_up_counts(30, s, 0.7) for s in (3, 4)])

    together = randomisation_p(firsts, seconds, num_swaps=500, seed=3)

    for first, second, p in zip(firsts, seconds, together, strict=True):
        assert p == randomisation_p(first, second, num_swaps=500, seed=3)
    assert together[0] != together[1]


def test_equal_systems_have_p_one_and_the_smallest_p_is_never_zero() -> None:
    same = made_up_counts(20, 1, 0.7)
    none = np.stack([0 * same[:, 0], same[:, 1], same[:, 0] + same[:, 2]], axis=1)
    all_right = np.stack([same[:, 0] + same[:, 2], 0 * same[:, 1], 0 * same[:, 2]], axis=1)

    assert randomisation_p(same, same, num_swaps=99) == 1.0
    assert randomisation_p(all_right, none, num_swaps=99) == pytest.approx(0.01)


def test_which_system_comes_first_changes_nothing() -> None:
    first, second = made_up_counts(25, 1, 0.8), made_up_counts(25, 2, 0.75)

    assert randomisation_p(first, second) == randomisation_p(second, first)


def test_chance_alone_is_called_a_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    p_values = []
    for _ in range(150):
        num_gold = rng.poisson(6, 25)
        found = [rng.binomial(num_gold, 0.7) for _ in range(2)]
        counts = [np.stack([f, 0 * f, num_gold - f], axis=1) for f in found]
        p_values.append(float(randomisation_p(*counts, num_swaps=199)))

    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_swaps_take_hardly_longer_than_drawing_and_multiplying_them_at_once(times_as_long) -> None:
    first, second = made_up_counts(1000, 1, 0.8), made_up_counts(1000, 2, 0.8)
    rng = np.random.default_rng(0)
    difference = (second - first).astype(np.float64)

    def plainly() -> None:
        rng.integers(0, 2, size=(1000, 1000), dtype=np.int8).astype(np.float64) @ difference

    assert times_as_long(lambda: randomisation_p(first, second, num_swaps=1000), plainly, 4) <= 4


def test_other_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="the same documents"):
        randomisation_p(made_up_counts(4, 1, 0.5), made_up_counts(5, 1, 0.5))


def test_holm_by_hand() -> None:
    # Smallest times 4, next times 3, then 2, then 1, none below one before it, none above 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.7]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_exactly_what_stepping_down_rejects(
    p_values: list[float], alpha: float
) -> None:
    rejected: set[int] = set()
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, index in enumerate(order):
        if (len(p_values) - rank) * p_values[index] > alpha:
            break
        rejected.add(index)

    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected
    assert all(adjusted >= p for adjusted, p in zip(holm(p_values), p_values, strict=True))
