"""FlexLoRA, greedy soup, multi-Krum and the geometric median, with answers found by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation.flexlora import FlexLoRA, FlexLoRAConfig
from fedmedlora.aggregation.geometric_median import GeometricMedian, geometric_median
from fedmedlora.aggregation.greedy_soup import GreedySoup
from fedmedlora.aggregation.multi_krum import MultiKrum, MultiKrumConfig, krum_scores
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses
from fedmedlora.core.errors import AggregationError, ConfigError
from fedmedlora.testing.adapters import site_update


def computing(*rows: tuple[float, ...], rank: int = 1, alpha: float = 2.0) -> AdapterState:
    """An adapter of one module that computes this matrix."""
    spec = AdapterSpec("m", "r", rank, alpha, ("q",))
    U, S, Vh = torch.linalg.svd(torch.tensor(rows), full_matrices=False)
    B = torch.zeros(len(rows), rank)
    A = torch.ones(rank, len(rows[0]))
    kept = min(rank, len(S))
    B[:, :kept], A[:kept] = (U * S / spec.scaling)[:, :kept], Vh[:kept]
    return AdapterState(spec, {"q": LoRAPair(A, B)})


def computed(adapter: AdapterState) -> np.ndarray:
    pair = adapter.pairs["q"]
    return (adapter.spec.scaling * pair.B.double() @ pair.A.double()).numpy()


def sent(**points: tuple[float, ...]) -> list[SiteUpdate]:
    """Updates that compute one row each; all sites are of one size."""
    return [site_update(site, computing(point)) for site, point in points.items()]


# FlexLoRA


def test_flexlora_sends_each_site_what_its_rank_holds_of_the_mean_product() -> None:
    strategy = FlexLoRAConfig(ranks={"small": 1}).build()
    before = computing((1.0, 0.0, 0.0), (0.0, 0.5, 0.0), rank=2)
    updates = [
        site_update("large", computing((4.0, 0.0, 0.0), (0.0, 0.0, 0.0), rank=2)),
        site_update("small", computing((0.0, 0.0, 0.0), (0.0, 2.0, 0.0), rank=1, alpha=1.0)),
    ]
    result = strategy.aggregate(updates, AggregationContext(1, before))
    np.testing.assert_allclose(computed(result.adapter), [[2, 0, 0], [0, 1, 0]], atol=1e-6)
    plans = {site: LocalPlan(2) for site in ("large", "small")}
    asked = strategy.plan(plans, result.adapter, {})
    assert asked["large"].adapter == result.adapter
    assert asked["small"].adapter.spec.rank == 1
    assert asked["small"].adapter.spec.scaling == result.adapter.spec.scaling
    np.testing.assert_allclose(computed(asked["small"].adapter), [[2, 0, 0], [0, 0, 0]], atol=1e-6)


def test_flexlora_loses_the_tail_by_half_a_round_if_half_of_the_sites_cannot_hold_it() -> None:
    """Nobody learns anything, and still the second component falls as 1, 1/2, 1/4, ..."""
    strategy = FlexLoRA({"small": 1})
    adapter = computing((2.0, 0.0, 0.0), (0.0, 1.0, 0.0), rank=2)
    for round_index in (1, 2, 3):
        plans = {site: LocalPlan(round_index) for site in ("large", "small")}
        updates = [
            site_update(site, request.adapter, round_index=round_index)
            for site, request in strategy.plan(plans, adapter, {}).items()
        ]
        adapter = strategy.aggregate(updates, AggregationContext(round_index, adapter)).adapter
        sigmas = np.linalg.svd(computed(adapter))[1]
        np.testing.assert_allclose(sigmas, [2.0, 0.5**round_index], rtol=1e-5)


def test_flexlora_counts_a_sites_own_scale() -> None:
    """alpha / r of 1 and of 3, the same product: the mean is that product."""
    before = computing((1.0, 1.0), rank=1)
    one, three = (computing((4.0, 2.0), rank=1, alpha=a) for a in (1.0, 3.0))
    result = FlexLoRA().aggregate(
        [site_update("one", one), site_update("three", three)], AggregationContext(1, before)
    )
    assert result.refused == {}
    np.testing.assert_allclose(computed(result.adapter), [[4, 2]], rtol=1e-6)


def test_flexlora_refuses_a_rank_above_the_studys() -> None:
    with pytest.raises(ConfigError, match="at most the study's, 2, got 3"):
        FlexLoRA({"a": 3}).plan({"a": LocalPlan(1)}, computing((1.0, 0.0), (0.0, 1.0), rank=2), {})
    with pytest.raises(ValidationError):
        FlexLoRAConfig(ranks={"a": 0})


# Greedy soup


class Wants:
    """A scorer whose loss is `loss(x)` of an adapter that computes the number x."""

    def __init__(self, loss: Callable[[float], float]) -> None:
        self._loss = loss

    def loss(self, adapter: AdapterState) -> NoteLosses:
        return NoteLosses({"entities": np.array([self._loss(computed(adapter).item())])})


def soup_of(points: dict[str, float], loss: Callable[[float], float]):
    updates = [site_update(site, computing((point,))) for site, point in points.items()]
    context = AggregationContext(1, computing((0.1,)), scorer=Wants(loss))
    return GreedySoup().aggregate(updates, context)


def test_a_site_joins_the_soup_if_the_mean_does_not_get_worse() -> None:
    result = soup_of({"a": 4.0, "b": 0.0001, "c": 1.5}, lambda x: (x - 1) ** 2)
    # By loss: c (.25), b (1), a (9). c alone .25; c and b .75 -> .0625; with a 1.83 -> .69
    assert result.record["joined"] == ["c", "b"]
    assert result.weights == {"a": 0.0, "b": 0.5, "c": 0.5}
    assert computed(result.adapter).item() == pytest.approx(0.75, abs=1e-3)
    assert result.record["soup_loss"] == pytest.approx(0.0625, abs=1e-3)


def test_a_site_that_makes_no_difference_joins() -> None:
    assert soup_of({"a": 2.0, "b": 2.0}, lambda x: abs(x)).weights == {"a": 0.5, "b": 0.5}


def test_a_site_without_a_loss_is_refused_and_without_notes_there_is_no_soup() -> None:
    result = soup_of({"a": 2.0, "b": 9.0}, lambda x: math.nan if x > 5 else x)
    assert result.refused == {"b": "non-finite-loss"}
    assert result.weights == {"a": 1.0}
    with pytest.raises(AggregationError, match="finite loss"):
        soup_of({"a": 2.0}, lambda _: math.inf)
    with pytest.raises(ConfigError, match="server_notes"):
        GreedySoup().aggregate(sent(a=(1.0,)), AggregationContext(1, computing((0.1,))))


# Multi-Krum

LINE = {"a": (10.0,), "b": (11.0,), "c": (12.0,), "d": (13.0,), "e": (110.0,)}


def test_krum_scores_are_the_least_squared_distances_to_others() -> None:
    points = np.array([[10.0], [11.0], [12.0], [13.0], [110.0]])
    # N - f - 2 = 2 neighbours: 1 + 4, 1 + 1, 1 + 1, 1 + 4, 97^2 + 98^2
    assert krum_scores(points @ points.T, num_bad=1) == [5.0, 2.0, 2.0, 5.0, 19013.0]


def test_multi_krum_averages_all_but_the_far_site() -> None:
    context = AggregationContext(1, computing((7.0,)))
    result = MultiKrum().aggregate(sent(**LINE), context)
    assert result.weights == {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25, "e": 0.0}
    assert computed(result.adapter).item() == pytest.approx(11.5)
    assert result.record["scores"]["e"] == pytest.approx(19013, rel=1e-4)


def test_krum_is_the_one_site_of_least_score_and_the_first_of_equals() -> None:
    context = AggregationContext(1, computing((7.0,)))
    result = MultiKrumConfig(num_selected=1).build().aggregate(sent(**LINE), context)
    assert [site for site, weight in result.weights.items() if weight] == ["b"]
    assert computed(result.adapter).item() == pytest.approx(11.0)


def test_multi_krum_with_too_few_sites_says_so_before_they_are_trained() -> None:
    plans = {site: LocalPlan(1) for site in "abcd"}
    with pytest.raises(ConfigError, match=r"it needs 5; expected so many, got 4.*num_bad"):
        MultiKrum().plan(plans, computing((7.0,)), {})
    assert set(MultiKrum(num_bad=0).plan(plans, computing((7.0,)), {})) == set("abcd")
    with pytest.raises(AggregationError, match="round 1: multi-krum"):
        MultiKrum().aggregate(sent(**LINE)[:4], AggregationContext(1, computing((7.0,))))


# Geometric median


def test_the_geometric_median_on_a_line_is_the_middle_site() -> None:
    context = AggregationContext(1, computing((7.0,)))
    result = GeometricMedian().aggregate(sent(a=(10.0,), b=(11.0,), c=(20.0,)), context)
    assert computed(result.adapter).item() == pytest.approx(11.0, abs=1e-4)


def test_the_geometric_median_of_a_quadrilateral_is_where_its_diagonals_cross() -> None:
    corners = {"a": (10.0, 10.0), "b": (14.0, 10.0), "c": (15.0, 15.0), "d": (10.0, 13.0)}
    context = AggregationContext(1, computing((9.0, 8.0)))
    result = GeometricMedian().aggregate(sent(**corners), context)
    # y = x and x / 4 + y / 3 = 1, moved by 10
    np.testing.assert_allclose(computed(result.adapter), [[10 + 12 / 7] * 2], rtol=1e-5)
    pulls = [result.weights[site] * result.record["distances"][site] for site in corners]
    np.testing.assert_allclose(pulls, pulls[0], rtol=1e-5)  # w_i is in proportion to 1 / distance


@pytest.mark.parametrize("far", [1e3, 1e6, 1e12])
def test_a_site_at_the_end_of_the_world_moves_the_geometric_median_no_more_than_one_nearby(
    far: float,
) -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [far, far]])
    weights, _ = geometric_median(points @ points.T, 1e-6)
    median = np.array(weights) @ points
    assert 0.5 <= median[0] <= 1.01
    assert median[0] == pytest.approx(median[1], abs=1e-3)


def test_sites_at_one_place_count_alike() -> None:
    assert geometric_median(np.full((4, 4), 2.0), 1e-6)[0] == [0.25] * 4
    updates = sent(a=(1.0, 2.0), b=(1.0, 2.0))
    updates[1] = replace(updates[1], adapter=updates[0].adapter)
    result = GeometricMedian().aggregate(updates, AggregationContext(1, computing((3.0, 1.0))))
    np.testing.assert_allclose(computed(result.adapter), [[1, 2]], rtol=1e-6)
