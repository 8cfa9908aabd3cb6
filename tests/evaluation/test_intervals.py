"""The document bootstrap against scipy, and what pairing is for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedmedlora.evaluation.intervals import (
    Estimate,
    bootstrap_f1,
    estimate_f1,
    f1_of,
    interval,
    mean_of,
    paired_difference,
    sums_type,
)


def made_up_counts(num_documents: int, seed: int, skill: float = 0.8) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    num_gold = rng.poisson(12, num_documents)
    found = rng.binomial(num_gold, np.clip(rng.normal(skill, 0.12, num_documents), 0, 1))
    return np.stack([found, rng.poisson(2, num_documents), num_gold - found], axis=1)


def test_the_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    counts = made_up_counts(1000, seed=1)

    def f1(
        tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64], axis: int
    ) -> object:
        hits = 2 * tp.sum(axis)
        return hits / (hits + fp.sum(axis) + fn.sum(axis))

    theirs = stats.bootstrap(
        tuple(counts.T),
        f1,
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    ours = estimate_f1(counts, seed=0)

    assert ours.value == pytest.approx(float(f1(*counts.T, axis=0)))
    assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.001)
    assert ours.ci95[0] < ours.value < ours.ci95[1]


def test_draws_take_less_time_than_picking_the_documents_of_each_one(times_as_long) -> None:
    counts = made_up_counts(1000, seed=2)
    rng = np.random.default_rng(0)

    def plainly() -> None:
        for _ in range(1000):
            counts[rng.integers(0, 1000, size=1000)].sum(axis=0)

    assert times_as_long(lambda: bootstrap_f1(counts, num_draws=1000), plainly, 1) <= 1


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    counts = made_up_counts(40, seed=3)

    first = bootstrap_f1(counts, num_draws=200, seed=7)

    assert np.array_equal(first, bootstrap_f1(counts, num_draws=200, seed=7))
    assert not np.array_equal(first, bootstrap_f1(counts, num_draws=200, seed=8))


def test_systems_that_are_stacked_or_scored_apart_share_their_draws() -> None:
    systems = np.stack([made_up_counts(50, seed=s) for s in (4, 5, 6)])

    together = bootstrap_f1(systems, num_draws=300, seed=1)

    assert together.shape == (3, 300)
    for system, draws in zip(systems, together, strict=True):
        assert np.allclose(draws, bootstrap_f1(system, num_draws=300, seed=1), atol=0)


def test_draws_are_whole_resamples_of_the_documents() -> None:
    # One document right, one wrong: a draw of two holds 0, 1 or 2 right ones.
    counts = np.array([[1, 0, 0], [0, 1, 1]])

    draws = bootstrap_f1(counts, num_draws=4000, seed=0)

    values, times = np.unique(draws, return_counts=True)
    assert values == pytest.approx([0.0, 0.5, 1.0])
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_many_documents_are_drawn_in_blocks_without_a_seam() -> None:
    counts = np.tile(np.array([[1, 1, 0], [1, 0, 1]]), (6000, 1))

    draws = bootstrap_f1(counts, num_draws=1500, seed=0)

    # Every document has the same F1 of 2/3, so every resample has it too.
    assert draws == pytest.approx(np.full(1500, 2 / 3))


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    # Two systems that find nearly the same mentions of the same, very different, documents.
    weak = made_up_counts(80, seed=9)
    missed = np.minimum(weak[:, 2], 1)
    better = weak + np.stack([missed, 0 * missed, -missed], axis=1)

    def width(estimate: Estimate) -> float:
        low, high = estimate.ci95
        return high - low

    paired = paired_difference(estimate_f1(better, seed=1), estimate_f1(weak, seed=1))
    unpaired = paired_difference(estimate_f1(better, seed=1), estimate_f1(weak, seed=2))

    assert paired.value == pytest.approx(float(f1_of(better.sum(axis=0)) - f1_of(weak.sum(axis=0))))
    assert paired.ci95[0] > 0
    assert width(paired) < 0.5 * width(unpaired)


def test_a_system_differs_from_itself_by_nothing() -> None:
    estimate = estimate_f1(made_up_counts(30, seed=1), num_draws=100)

    assert paired_difference(estimate, estimate).ci95 == (0.0, 0.0)


def test_the_mean_over_cohorts_resamples_each_cohort_on_its_own() -> None:
    cohorts = [made_up_counts(60, seed=11), made_up_counts(90, seed=12, skill=0.6)]
    single = [estimate_f1(c, num_draws=20_000, seed=i) for i, c in enumerate(cohorts)]

    macro = mean_of(single)

    assert macro.value == pytest.approx((single[0].value + single[1].value) / 2)
    variance = sum(e.draws.var() for e in single) / 4
    assert macro.draws.var() == pytest.approx(variance, rel=0.05)


def test_a_model_is_compared_with_the_mean_of_several_over_several_cohorts() -> None:
    def macro(skill: float, system: int) -> Estimate:
        cohorts = [made_up_counts(120, seed=10 * system + c, skill=skill) for c in range(2)]
        return mean_of([estimate_f1(counts, seed=c) for c, counts in enumerate(cohorts)])

    federated = macro(0.85, system=1)
    single_site = [macro(0.7, system=2), macro(0.75, system=3)]

    difference = paired_difference(federated, mean_of(single_site))

    assert difference.value == pytest.approx(
        federated.value - (single_site[0].value + single_site[1].value) / 2
    )
    assert difference.ci95[0] > 0


def test_documents_without_any_mention_give_zero_and_no_warning() -> None:
    assert estimate_f1(np.zeros((5, 3), dtype=np.int64), num_draws=10).ci95 == (0.0, 0.0)


def test_no_documents_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        estimate_f1(np.zeros((0, 3), dtype=np.int64))


def test_of_one_document_there_is_no_interval_nor_of_a_mean_that_holds_one() -> None:
    one, many = estimate_f1(made_up_counts(1, seed=0)), estimate_f1(made_up_counts(20, seed=0))

    assert one.ci95 is None
    assert mean_of([many, one]).ci95 is None
    assert paired_difference(many, one).ci95 is None
    assert many.ci95 is not None


def test_large_counts_and_those_of_other_parts_than_halves_keep_every_digit() -> None:
    for counts in (np.array([[9e6, 1, 2], [1, 9e6, 0]]), np.array([[0.1, 0.2, 0.3], [7, 8, 9.7]])):
        assert sums_type(counts) is np.float64
    assert sums_type(np.array([[0.5, 1, 3.5], [7, 8, 9]])) is np.float32


def test_estimates_with_other_numbers_of_draws_are_not_paired() -> None:
    counts = made_up_counts(10, seed=0)
    few, many = estimate_f1(counts, num_draws=10), estimate_f1(counts, num_draws=20)

    with pytest.raises(ValueError, match="same number"):
        paired_difference(few, many)
    with pytest.raises(ValueError, match="same number"):
        mean_of([few, many])


def test_the_interval_holds_the_central_share_of_the_draws() -> None:
    assert interval(np.arange(101) / 100) == pytest.approx((0.025, 0.975))
