"""Temperature, learning, cap and momentum: pure functions from losses to weights."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.gibbs import gibbs, prior_of, temperature_of
from fedmedlora.aggregation.learned import learned_weights
from fedmedlora.aggregation.limits import capped, with_momentum
from fedmedlora.aggregation.weighting import by_loss, by_size, by_size_and_loss
from fedmedlora.testing.adapters import random_adapter
from fedmedlora.testing.scorers import ProbeScorer

law = settings(max_examples=60, deadline=None)
losses_by_site = st.dictionaries(
    st.sampled_from("abcdef"), st.floats(0, 50), min_size=1, max_size=6
)
shares = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-3, 1), min_size=1, max_size=6).map(
    lambda raw: {site: value / sum(raw.values()) for site, value in sorted(raw.items())}
)


def test_the_published_rules_are_the_gibbs_rule_at_temperature_one() -> None:
    losses, sizes = {"a": 0.1, "b": 0.5, "c": 2.0}, {"a": 10, "b": 200, "c": 30}

    assert gibbs(prior_of(sizes, 0), losses, 1.0) == pytest.approx(by_loss(losses))
    assert gibbs(prior_of(sizes, 1), losses, 1.0) == pytest.approx(by_size_and_loss(sizes, losses))
    assert gibbs(prior_of(sizes, 1), losses, 1e9) == pytest.approx(by_size(sizes))
    assert gibbs(prior_of(sizes, 0), losses, 1e-4)["a"] == pytest.approx(1)


def test_noise_that_is_unknown_leaves_the_prior() -> None:
    prior = prior_of({"a": 100, "b": 400}, 0.5)
    assert prior == pytest.approx({"a": 1 / 3, "b": 2 / 3})

    heat = temperature_of(math.inf, 0.02, 2.0)

    assert gibbs(prior, {"a": 0.0, "b": 9.0}, heat) == pytest.approx(prior)
    assert temperature_of(0.0, 0.02, 2.0) == 0.02


def test_a_site_without_a_loss_counts_as_the_median_one() -> None:
    prior = dict.fromkeys("abc", 1 / 3)

    found = gibbs(prior, {"a": 0.0, "c": 2.0}, 1.0)

    assert found == pytest.approx(gibbs(prior, {"a": 0.0, "b": 1.0, "c": 2.0}, 1.0))


@law
@given(losses=losses_by_site, heat=st.floats(0.02, 10))
def test_gibbs_weights_are_shares_and_a_lower_loss_never_weighs_less(
    losses: dict[str, float], heat: float
) -> None:
    weights = gibbs(dict.fromkeys(losses, 1 / len(losses)), losses, heat)

    assert math.fsum(weights.values()) == pytest.approx(1)
    ranked = sorted(losses, key=losses.__getitem__)
    for better, worse in itertools.pairwise(ranked):
        assert weights[better] >= weights[worse]


@law
@given(weights=shares, most=st.floats(0.05, 1))
def test_no_site_is_above_the_cap_and_what_is_cut_off_is_not_lost(
    weights: dict[str, float], most: float
) -> None:
    found = capped(weights, most)

    assert math.fsum(found.values()) == pytest.approx(1)
    assert max(found.values()) <= max(most, 1 / len(weights)) + 1e-9
    ranked = sorted(weights, key=weights.__getitem__)
    for lower, higher in itertools.pairwise(ranked):
        assert found[lower] <= found[higher] + 1e-12
    if max(weights.values()) <= most:
        assert found == pytest.approx(weights)


def test_the_cap_brings_no_excluded_site_back() -> None:
    assert capped({"a": 1.0, "b": 0.0}, 0.6) == {"a": 1.0, "b": 0.0}
    assert capped({"a": 0.9, "b": 0.1, "c": 0.0}, 0.6) == pytest.approx(
        {"a": 0.6, "b": 0.4, "c": 0}
    )


def test_momentum_mixes_with_the_round_before_among_the_sites_that_are_here() -> None:
    now = {"a": 0.2, "b": 0.8}

    assert with_momentum(now, {}, 0.3) == now
    assert with_momentum(now, {"gone": 1.0}, 0.3) == now
    found = with_momentum(now, {"a": 0.3, "b": 0.1, "gone": 0.6}, 0.5)
    assert found == pytest.approx({"a": 0.5 * 0.2 + 0.5 * 0.75, "b": 0.5 * 0.8 + 0.5 * 0.25})
    assert with_momentum({"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.5}, 0.3) == {"a": 1.0, "b": 0.0}


def learned(scorer: ProbeScorer, prior: dict[str, float], **changes: object) -> dict[str, float]:
    adapters = {site: random_adapter(ord(site)) for site in prior}
    options = {"pull": 0.02, "num_steps": 30, "notes_per_step": 100, "seed": 3} | changes
    return learned_weights(scorer, adapters, prior, "product", **options)


def objective(scorer: ProbeScorer, weights: dict[str, float]) -> float:
    """The merged loss, by the scorer's gradient-free road."""
    import torch

    from fedmedlora.adapters.state import AdapterState, LoRAPair

    adapters = {site: random_adapter(ord(site)) for site in weights}
    first = next(iter(adapters.values()))
    pairs = {
        module: LoRAPair(
            A=torch.cat([a.pairs[module].A for a in adapters.values()]),
            B=torch.cat([weights[s] * a.pairs[module].B for s, a in adapters.items()], dim=1),
        )
        for module in first.pairs
    }
    rank = first.spec.rank * len(adapters)
    from dataclasses import replace

    spec = replace(first.spec, rank=rank, alpha=first.spec.scaling * rank)
    return scorer.loss(AdapterState(spec, pairs)).mean()


@pytest.mark.parametrize("seed", range(5))
def test_learned_weights_lower_the_loss_of_the_merged_model(seed: int) -> None:
    scorer = ProbeScorer(seed, notes=tuple(range(40)))
    prior = dict.fromkeys("abcd", 0.25)

    found = learned(scorer, prior)

    assert math.fsum(found.values()) == pytest.approx(1)
    assert objective(scorer, found) < objective(scorer, prior)
    alone = min(objective(scorer, dict.fromkeys("abcd", 0.0) | {site: 1.0}) for site in "abcd")
    assert objective(scorer, found) < alone


def test_a_strong_pull_leaves_the_prior_and_a_prior_of_zero_keeps_a_site_out() -> None:
    prior = {"a": 0.5, "b": 0.3, "c": 0.2, "d": 0.0}

    assert learned(ProbeScorer(), prior, pull=1e9) == pytest.approx(prior, abs=1e-6)
    assert learned(ProbeScorer(), prior)["d"] == 0.0


def test_learning_from_draws_of_notes_depends_on_the_seed_alone() -> None:
    prior = dict.fromkeys("abc", 1 / 3)

    assert learned(ProbeScorer(), prior, notes_per_step=3) == learned(
        ProbeScorer(), prior, notes_per_step=3
    )
    assert learned(ProbeScorer(), prior, notes_per_step=3) != learned(
        ProbeScorer(), prior, notes_per_step=3, seed=4
    )


def test_published_modes_average_factors_and_the_others_products_unless_told_otherwise() -> None:
    assert FedMedLoRAPlus("reference").merge == FedMedLoRAPlus("paper").merge == "factor"
    assert FedMedLoRAPlus().merge == FedMedLoRAPlus("learned").merge == "product"
    assert FedMedLoRAPlus("reference", merge="product").merge == "product"
    assert FedMedLoRAPlus("gibbs-auto", merge="factor").merge == "factor"
