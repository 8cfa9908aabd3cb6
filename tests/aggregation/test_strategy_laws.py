"""Laws that every strategy keeps; a new strategy joins by its line in STRATEGIES."""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate, Train
from fedmedlora.adapters.state import AdapterState, DTypeName
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses, Strategy
from fedmedlora.aggregation.uniform import Uniform
from fedmedlora.core.errors import AggregationError
from fedmedlora.testing.adapters import random_adapter, site_update

STRATEGIES: dict[str, Strategy] = {
    "fedavg-tokens": FedAvg("tokens"),
    "fedavg-examples": FedAvg("examples"),
    "fedavg-documents": FedAvg("documents"),
    "fedavg-entities": FedAvg("entities"),
    "uniform": Uniform(),
    "plus-reference": FedMedLoRAPlus("reference"),
    "plus-paper": FedMedLoRAPlus("paper"),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
law = settings(max_examples=20, deadline=None)


class DigestScorer:
    """A loss between 0 and 2 that depends on the adapter's bits and nothing else."""

    def loss(self, adapter: AdapterState) -> NoteLosses:
        rng = np.random.default_rng(int(adapter.digest()[:12], 16))
        return NoteLosses({"entities": rng.uniform(0, 2, size=5)})


@dataclass(frozen=True)
class Case:
    context: AggregationContext
    updates: list[SiteUpdate]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Non-square layers, rank 1 and rank above both sides, float32 and bfloat16."""
    dims = st.integers(1, 6)
    shapes = {}
    for name in ("layers.0.q_proj", "layers.1.up_proj")[: draw(st.integers(1, 2))]:
        d_out, d_in = draw(st.tuples(dims, dims).filter(lambda pair: pair[0] != pair[1]))
        shapes[name] = (d_out, d_in)
    rank = draw(st.sampled_from([1, 2, 8]))
    dtype: DTypeName = draw(st.sampled_from(["float32", "bfloat16"]))
    seed = draw(st.integers(0, 10**6))

    def adapter(offset: int) -> AdapterState:
        return random_adapter(seed + offset, rank=rank, shapes=shapes, dtype=dtype)

    counts = st.integers(1, 1000)
    updates = [
        site_update(
            f"site-{i}",
            adapter(i),
            num_documents=draw(counts),
            num_examples=draw(counts),
            num_completion_tokens=draw(counts),
            num_entities=draw(counts),
        )
        for i in range(1, draw(st.integers(1, 5)) + 1)
    ]
    return Case(AggregationContext(1, adapter(0), scorer=DigestScorer()), updates)


@every_strategy
@law
@given(case=cases(), order=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(
    strategy: Strategy, case: Case, order: random.Random
) -> None:
    shuffled = order.sample(case.updates, k=len(case.updates))
    first = strategy.aggregate(case.updates, case.context)
    second = strategy.aggregate(iter(shuffled), case.context)
    assert first.adapter == second.adapter
    assert list(first.weights.items()) == list(second.weights.items())


@every_strategy
@law
@given(case=cases())
def test_inputs_stay_as_they_are(strategy: Strategy, case: Case) -> None:
    before = [u.adapter.digest() for u in case.updates] + [case.context.adapter.digest()]
    result = strategy.aggregate(case.updates, case.context)
    for _, _, tensor in result.adapter.tensors():
        tensor.fill_(7.0)  # a result that shares memory with an input would show
    assert [u.adapter.digest() for u in case.updates] + [case.context.adapter.digest()] == before


@every_strategy
@law
@given(case=cases())
def test_sites_with_the_same_adapter_give_that_adapter(strategy: Strategy, case: Case) -> None:
    """The linear merge of peft multiplies by the number of sites."""
    same = [replace(u, adapter=case.updates[0].adapter) for u in case.updates]
    assert strategy.aggregate(same, case.context).adapter == same[0].adapter


@every_strategy
@law
@given(case=cases())
def test_weights_are_shares_of_the_merged_sites(strategy: Strategy, case: Case) -> None:
    result = strategy.aggregate(case.updates, case.context)
    assert list(result.weights) == sorted(u.site for u in case.updates)
    assert all(0 < weight <= 1 for weight in result.weights.values())
    assert math.fsum(result.weights.values()) == pytest.approx(1, abs=1e-15)


@every_strategy
@law
@given(case=cases())
def test_the_result_fits_the_adapter_that_was_sent(strategy: Strategy, case: Case) -> None:
    result = strategy.aggregate(case.updates, case.context)
    case.context.adapter.check_compatible(result.adapter, "the result")
    assert result.adapter.is_finite()


@every_strategy
@law
@given(case=cases())
def test_the_result_lies_between_the_sites_in_every_number(strategy: Strategy, case: Case) -> None:
    result = strategy.aggregate(case.updates, case.context)
    for module, factor, tensor in result.adapter.tensors():
        stack = torch.stack([u.adapter.pairs[module].factor(factor) for u in case.updates])
        assert bool((tensor >= stack.amin(0)).all())
        assert bool((tensor <= stack.amax(0)).all())


def _spoilt(update: SiteUpdate, how: str) -> SiteUpdate:
    module, pair = next(iter(update.adapter.pairs.items()))
    if how == "non-finite":
        broken = AdapterState(
            update.adapter.spec,
            update.adapter.pairs | {module: replace(pair, B=torch.full_like(pair.B, math.inf))},
        )
    elif how == "mis-shaped":
        wide = replace(pair, A=torch.cat([pair.A, pair.A], dim=1))
        broken = AdapterState(update.adapter.spec, update.adapter.pairs | {module: wide})
    elif how == "half":
        broken = update.adapter.only({"A"})
    else:
        spec = replace(update.adapter.spec, revision="another")
        broken = AdapterState(spec, update.adapter.pairs)
    return replace(update, adapter=broken)


@every_strategy
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("non-finite", "non-finite"),
        ("mis-shaped", "foreign-adapter"),
        ("half", "foreign-adapter"),
        ("foreign", "foreign-adapter"),
    ],
)
@settings(max_examples=5, deadline=None)
@given(case=cases())
def test_a_broken_update_is_refused_by_name_and_the_others_go_on(
    strategy: Strategy, how: str, code: str, case: Case
) -> None:
    broken = _spoilt(site_update("broken", case.updates[0].adapter), how)
    result = strategy.aggregate([broken, *case.updates], case.context)
    assert result.refused == {"broken": code}
    assert result.adapter == strategy.aggregate(case.updates, case.context).adapter
    with pytest.raises(AggregationError, match=rf"broken \({code}\)"):
        strategy.aggregate([broken], case.context)


@every_strategy
def test_an_update_of_another_round_or_sent_twice_is_refused(strategy: Strategy) -> None:
    context = AggregationContext(2, random_adapter(0), scorer=DigestScorer())
    fresh = site_update("fresh", random_adapter(1), round_index=2)
    stale = site_update("stale", random_adapter(2), round_index=1)
    twice = [site_update("twice", random_adapter(i), round_index=2) for i in (3, 4, 5)]
    result = strategy.aggregate([twice[0], stale, fresh, *twice[1:]], context)
    assert result.refused == {"stale": "wrong-round", "twice": "duplicate"}
    assert result.adapter == fresh.adapter


@every_strategy
def test_no_update_at_all_is_an_error(strategy: Strategy) -> None:
    with pytest.raises(AggregationError, match="none came"):
        strategy.aggregate([], AggregationContext(1, random_adapter(0), scorer=DigestScorer()))


@every_strategy
def test_every_site_is_asked_by_its_own_plan(strategy: Strategy) -> None:
    plans = {"north": LocalPlan(2, seed=1), "south": LocalPlan(2, seed=2, epochs=3.0)}
    adapter = random_adapter(0)
    assert strategy.plan(plans, adapter, {}) == {s: Train(p, adapter) for s, p in plans.items()}
