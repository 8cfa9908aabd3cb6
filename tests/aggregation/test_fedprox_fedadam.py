"""FedProx asks for its pull; FedAdam's steps by hand, and in the limit that is FedAvg."""

import pytest
import torch
from pydantic import ValidationError

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation.fedadam import FedAdam, FedAdamConfig
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedprox import FedProx, FedProxConfig
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.testing.adapters import random_adapter, site_update

SPEC = AdapterSpec("m", "r", 1, 1.0, ("q",))


def scalar(A: float, B: float) -> AdapterState:
    return AdapterState(
        SPEC, {"q": LoRAPair(torch.tensor([[float(A)]]), torch.tensor([[float(B)]]))}
    )


def sent(north: float, south: float, round_index: int = 1):
    return [
        site_update("north", scalar(north, 1), round_index=round_index, num_completion_tokens=1),
        site_update("south", scalar(south, 1), round_index=round_index, num_completion_tokens=3),
    ]


def test_fedprox_asks_every_site_for_the_pull_and_averages_by_size() -> None:
    """What a site then minimises is held against a plain loop in tests/training/test_local.py."""
    strategy = FedProxConfig(mu=0.3).build()
    plans = {"north": LocalPlan(1, seed=1), "south": LocalPlan(1, seed=2)}
    asked = strategy.plan(plans, scalar(0, 0), {})
    assert {site: request.plan.proximal_mu for site, request in asked.items()} == {
        "north": 0.3,
        "south": 0.3,
    }
    updates = sent(1, 5)
    result = FedProx().aggregate(updates, AggregationContext(1, scalar(0, 0)))
    assert (
        result.adapter == FedAvg().aggregate(updates, AggregationContext(1, scalar(0, 0))).adapter
    )
    with pytest.raises(ValidationError):
        FedProxConfig(mu=0)


def test_two_steps_of_fedadam_by_hand() -> None:
    strategy = FedAdamConfig(learning_rate=0.1, tau=0.5).build()
    first = strategy.aggregate(sent(3, 5), AggregationContext(1, scalar(1, 1)))
    # d = 4.5 - 1; m' = d, v' = d^2 after bias correction; 1 + 0.1 * 3.5 / (3.5 + 0.5)
    assert first.adapter.pairs["q"].A.item() == pytest.approx(1.0875, rel=1e-6)
    assert first.adapter.pairs["q"].B.item() == 1.0  # no change, no step
    again = AggregationContext(2, first.adapter, first.memory)
    second = strategy.aggregate(sent(2.0875, 2.0875, 2), again)
    # d = 1; m = .9 * .35 + .1 = .415, v = .99 * .1225 + .01 = .131275;
    # m' = .415 / .19, v' = .131275 / .0199; 1.0875 + 0.1 * 2.184211 / (2.568411 + 0.5)
    assert second.adapter.pairs["q"].A.item() == pytest.approx(1.158684, rel=1e-6)
    assert second.memory["num_steps"] == 2


def test_without_memory_and_with_a_huge_tau_fedadam_is_fedavg() -> None:
    """x + rate d / (|d| + tau) goes to x + d as rate = tau grows."""
    strategy = FedAdam(1e7, (0.0, 0.0), 1e7)
    before = random_adapter(0)
    updates = [
        site_update(f"s{i}", random_adapter(i), num_completion_tokens=i) for i in range(1, 4)
    ]
    got = strategy.aggregate(updates, AggregationContext(1, before)).adapter
    expected = FedAvg().aggregate(updates, AggregationContext(1, before)).adapter
    for (_, _, tensor), (_, _, other) in zip(got.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-5, atol=1e-5)


def test_no_number_moves_farther_than_the_servers_rate_in_a_first_step() -> None:
    before = random_adapter(0)
    far = site_update("far", random_adapter(1))
    result = FedAdam(0.01).aggregate([far], AggregationContext(1, before)).adapter
    moves = [
        float((new - old).abs().max())
        for (_, _, new), (_, _, old) in zip(result.tensors(), before.tensors(), strict=True)
    ]
    assert 0.005 < max(moves) <= 0.01 + 1e-6
