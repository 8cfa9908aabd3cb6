"""No update, whatever is in it, moves the mean of products by more than the stated bound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.exchange import SiteUpdate
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState
from fedmedlora.aggregation.screening import Screening, screen, screen_products
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.core.errors import AggregationError
from fedmedlora.testing.adapters import SHAPES, moved, random_adapter, site_update, times

HONEST = ("east", "north", "south", "west")
BEFORE = random_adapter(0, rank=3)
CONTEXT = AggregationContext(1, BEFORE)
ROOM = sum(map(min, SHAPES.values()))  # a rank that no mean exceeds


def flipped(step: AdapterState, length: float) -> AdapterState:
    """A product as far from the one before as the step leads, to the other side; to first order."""
    return moved(BEFORE, step, -length)


COMMON = random_adapter(100, rank=3)  # what all honest sites learn, beside things of their own


def honest(seed: int, length: float = 0.05) -> AdapterState:
    return moved(moved(BEFORE, COMMON, length), random_adapter(seed, rank=3), 0.4 * length)


SHAPES_TURNED = {module: (d_in, d_out) for module, (d_out, d_in) in SHAPES.items()}
NOTHING = BEFORE.only(frozenset())
BAD: dict[str, tuple[Callable[[], AdapterState], str]] = {
    "not a number": (lambda: times(honest(9), math.nan), "non-finite"),
    "infinite": (lambda: times(honest(9), math.inf), "non-finite"),
    "times 1000": (lambda: times(honest(9), 1000.0), "norm-clipped"),
    "times 1e30": (lambda: times(honest(9), 1e30), "norm-clipped"),
    "other shapes": (lambda: random_adapter(9, rank=3, shapes=SHAPES_TURNED), "foreign-adapter"),
    "other modules": (
        lambda: random_adapter(9, rank=3, shapes={"model.layers.0.self_attn.q_proj": (6, 5)}),
        "foreign-adapter",
    ),
    "a rank above all": (lambda: random_adapter(9, rank=4), "foreign-adapter"),
    "another base model": (
        lambda: random_adapter(9, rank=3, base_model="other"),
        "foreign-adapter",
    ),
    "another revision": (lambda: random_adapter(9, rank=3, revision="r2"), "foreign-adapter"),
    "no tensors": (lambda: NOTHING, "empty-update"),
    "zeros": (lambda: times(BEFORE, 0.0), "empty-update"),
    "what was sent": (lambda: BEFORE, "no-change"),
    "flipped": (lambda: flipped(COMMON, 0.05), "against-others"),
    "flipped and long": (lambda: flipped(COMMON, 3.0), "norm-clipped"),
    "flipped, times 1e6": (lambda: times(flipped(COMMON, 0.05), -1e6), "norm-clipped"),
}


def screened(sent: dict[str, AdapterState], context: AggregationContext = CONTEXT) -> Screening:
    return screen_products([site_update(site, adapter) for site, adapter in sent.items()], context)


def merged(found: Screening, weights: dict[str, float]) -> AdapterState:
    """The mean of products, with room for all of it."""
    adapters = {site: update.adapter for site, update in found.updates.items()}
    spec = replace(found.updates["north"].adapter.spec, rank=ROOM)
    return mean_of_products(BEFORE, adapters, found.clip(weights), spec)[0]


@pytest.mark.parametrize("kind", BAD)
@settings(max_examples=10, deadline=None)
@given(
    num_honest=st.integers(2, 4),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
)
def test_a_bad_site_is_named_and_cannot_move_the_result_beyond_the_bound(
    kind: str, num_honest: int, share: float, seed: int
) -> None:
    make, code = BAD[kind]
    sent = {site: honest(10 * seed + i) for i, site in enumerate(HONEST[:num_honest])}
    found = screened(sent | {"bad": make()})
    assert code in (found.refused.get("bad"), *found.flags.get("bad", ()))
    assert [site for site in sent if site not in found.updates] == []

    # With its weight kept by the old adapter instead: what the site adds, and nothing else.
    weights = dict.fromkeys(sent, (1 - share) / num_honest)
    without = merged(found, weights)
    if "bad" not in found.updates:
        assert found.refused == {"bad": code}
        return
    with_it = merged(found, weights | {"bad": share})
    bound = share * 3 * found.median_norm
    assert product_distance(with_it, without) <= bound * (1 + 1e-3) + 1e-4 * product_norm(BEFORE)
    # The measure is an honest site's, whatever was sent.
    lengths = [product_distance(adapter, BEFORE) for adapter in sent.values()]
    assert found.median_norm <= max(lengths) * (1 + 1e-6)


@pytest.mark.parametrize("kind", BAD)
def test_what_is_cut_off_bounds_the_rest_of_the_movement(kind: str) -> None:
    """Cutting to the rank moves each of the two results by what is cut off from it."""
    sent = {site: honest(i) for i, site in enumerate(HONEST)}
    found = screened(sent | {"bad": BAD[kind][0]()})
    adapters = {site: update.adapter for site, update in found.updates.items()}
    weights = found.clip(dict.fromkeys(found.updates, 1 / 5))
    others = {site: weight for site, weight in weights.items() if site != "bad"}
    tails = []
    cut = []
    for chosen in (weights, others):
        whole, _ = mean_of_products(BEFORE, adapters, chosen, replace(BEFORE.spec, rank=ROOM))
        result, energy = mean_of_products(BEFORE, adapters, chosen)
        tail = product_distance(whole, result)
        assert tail == pytest.approx(
            math.sqrt(max(0.0, 1 - energy)) * product_norm(whole), abs=1e-4 * product_norm(whole)
        )
        tails.append(tail)
        cut.append(result)
    bound = 3 * found.median_norm / 5 + sum(tails) + 1e-4 * product_norm(BEFORE)
    assert product_distance(*cut) <= bound


def test_norms_cosines_and_multipliers_are_those_of_the_dense_deltas() -> None:
    sent = {"east": honest(1), "north": honest(2, 0.1), "south": honest(3), "west": honest(4, 1.0)}

    def delta(adapter: AdapterState) -> np.ndarray:
        return np.concatenate(
            [
                adapter.spec.scaling
                * (
                    pair.B.double() @ pair.A.double()
                    - BEFORE.pairs[m].B.double() @ BEFORE.pairs[m].A.double()
                )
                .numpy()
                .ravel()
                for m, pair in adapter.pairs.items()
            ]
        )

    deltas = {site: delta(adapter) for site, adapter in sent.items()}
    lengths = {site: float(np.linalg.norm(d)) for site, d in deltas.items()}
    median = sorted(lengths.values())[1]  # the lower of the two in the middle
    found = screened(sent)
    assert found.norms == pytest.approx(lengths)
    assert found.median_norm == pytest.approx(median)
    assert found.multipliers == pytest.approx(
        {site: min(1.0, 3 * median / length) for site, length in lengths.items()}
    )
    assert found.multipliers["west"] < 1 == found.multipliers["north"]
    for site in sent:
        mean = sum(deltas[other] / lengths[other] for other in sent if other != site)
        cosine = float(deltas[site] @ mean) / lengths[site] / float(np.linalg.norm(mean))
        assert found.cosines[site] == pytest.approx(cosine)
    assert found.clip(dict.fromkeys(sent, 0.25))["west"] == pytest.approx(
        0.25 * 3 * median / lengths["west"]
    )


def test_one_long_delta_does_not_make_the_others_look_wrong() -> None:
    sent = {site: honest(i) for i, site in enumerate(HONEST)}
    found = screened(sent | {"bad": times(flipped(COMMON, 0.05), 1000.0)})
    assert set(found.flags) == {"bad"}


def test_an_honest_minority_that_learns_other_things_is_not_flagged() -> None:
    other = random_adapter(55, rank=3)
    sent = {site: honest(i) for i, site in enumerate(HONEST)}
    found = screened(sent | {"other": moved(BEFORE, other, 0.05)})
    assert found.flags == {}
    assert len(found.updates) == 5


def test_sites_of_lower_rank_and_other_scales_are_no_strangers() -> None:
    sent = {
        "east": honest(1),
        "north": change_rank(honest(2), 2, alpha=7.0),
        "south": change_rank(honest(3), 1, alpha=2.0, rslora=True),
    }
    found = screened(sent)
    assert list(found.updates) == ["east", "north", "south"]
    assert found.refused == {}
    with pytest.raises(AggregationError, match=r"north .foreign-adapter., south"):
        screen([site_update(s, a) for s, a in sent.items() if s != "east"], CONTEXT)


def test_sites_that_do_nothing_are_not_the_measure_for_those_that_do() -> None:
    sent = {"a": BEFORE, "b": change_rank(BEFORE, 3, alpha=9.0), "east": honest(1)}
    found = screened(sent)
    assert found.flags == {"a": ("no-change",), "b": ("no-change",)}
    assert found.multipliers == {"a": 1.0, "b": 1.0, "east": 1.0}
    assert found.median_norm == found.norms["east"]


def test_of_two_sites_the_shorter_delta_is_the_measure() -> None:
    found = screened({"east": honest(1), "west": times(honest(2), 1000.0)})
    assert found.median_norm == found.norms["east"]
    assert found.flags == {"west": ("norm-clipped",)}


def test_in_the_first_round_a_product_of_zeros_is_what_everybody_starts_with() -> None:
    zero = times(BEFORE, 0.0)
    found = screened({"a": zero, "b": honest(1)}, AggregationContext(1, zero))
    assert found.flags == {"a": ("no-change",)}
    assert found.refused == {}
    alone = screened({"a": zero}, AggregationContext(1, zero))
    assert (alone.median_norm, alone.cosines, alone.multipliers) == (0.0, {}, {"a": 1.0})


def test_wrong_rounds_and_second_answers_are_refused_here_too() -> None:
    updates: list[SiteUpdate] = [
        site_update("a", honest(1)),
        site_update("a", honest(2)),
        site_update("b", honest(3), round_index=2),
        site_update("c", honest(4)),
    ]
    found = screen_products(iter(updates), CONTEXT)
    assert found.refused == {"a": "duplicate", "b": "wrong-round"}
    assert list(found.updates) == ["c"]
    with pytest.raises(AggregationError, match=r"a .duplicate., b .wrong-round."):
        screen_products(updates[:3], CONTEXT)


def test_the_record_says_all_of_it_and_fits_into_json() -> None:
    sent = {site: honest(i) for i, site in enumerate(HONEST)}
    found = screened(sent | {"bad": times(honest(9), 1e6)})
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["flags"] == {"bad": ["norm-clipped"]}
    assert list(record["clipped_to"]) == ["bad"]
    assert set(record["delta_norms"]) == set(record["cosines"]) == {*HONEST, "bad"}
    assert record["median_delta_norm"] == found.median_norm


def test_order_is_ignored_and_inputs_stay_as_they_are() -> None:
    sent = {site: honest(i) for i, site in enumerate(HONEST)}
    digests = {site: adapter.digest() for site, adapter in sent.items()}
    one, two = screened(sent), screened(dict(reversed(sent.items())))
    assert one.record() == two.record()
    assert list(two.updates) == sorted(sent)
    assert torch.equal(torch.from_numpy(one.gram), torch.from_numpy(two.gram))
    assert {site: adapter.digest() for site, adapter in sent.items()} == digests
