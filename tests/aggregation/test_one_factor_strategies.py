"""FFA-LoRA, RoLoRA and FedSA-LoRA: what is asked, what is averaged, what stays."""

import pytest
import torch

from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
from fedmedlora.adapters.state import AdapterSpec, AdapterState, Factor, LoRAPair
from fedmedlora.aggregation.fedsa_lora import FedSALoRA
from fedmedlora.aggregation.ffa_lora import FFALoRA
from fedmedlora.aggregation.rolora import RoLoRA
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.core.errors import AggregationError
from fedmedlora.testing.adapters import site_update

SPEC = AdapterSpec("m", "r", 1, 1.0, ("q",))
BOTH = frozenset({"A", "B"})


def scalar(A: float, B: float) -> AdapterState:
    return AdapterState(
        SPEC, {"q": LoRAPair(torch.tensor([[float(A)]]), torch.tensor([[float(B)]]))}
    )


def values(adapter: AdapterState) -> tuple[float, float]:
    return adapter.pairs["q"].A.item(), adapter.pairs["q"].B.item()


def sent(factors: set[Factor], round_index: int = 1) -> list[SiteUpdate]:
    """North has a third of south's tokens; they send (1, 10) and (5, 50), or a part of it."""
    return [
        site_update(
            site,
            scalar(A, 10 * A).only(factors),
            round_index=round_index,
            num_completion_tokens=tokens,
        )
        for site, A, tokens in (("north", 1, 1), ("south", 5, 3))
    ]


def asked(strategy, round_index: int, num_rounds: int | None = None) -> tuple[frozenset, frozenset]:
    plans = {"north": LocalPlan(round_index, num_rounds=num_rounds)}
    plan = strategy.plan(plans, scalar(2, 3), {})["north"].plan
    return plan.train_factors, plan.share_factors


def test_ffa_trains_and_sends_b_and_its_product_is_the_mean_of_the_products() -> None:
    assert asked(FFALoRA(), 1) == asked(FFALoRA(), 2) == ({"B"}, {"B"})
    result = FFALoRA().aggregate(sent({"B"}), AggregationContext(1, scalar(2, 3)))
    # B: (1 * 10 + 3 * 50) / 4; products 2 * 10 and 2 * 50, their mean 80 = 2 * 40
    assert values(result.adapter) == (2.0, 40.0)
    assert result.weights == {"north": 0.25, "south": 0.75}


def test_rolora_trains_b_in_odd_rounds_and_a_in_even_ones() -> None:
    assert asked(RoLoRA(), 1) == asked(RoLoRA(), 3) == ({"B"}, {"B"})
    assert asked(RoLoRA(), 2) == asked(RoLoRA(), 4) == ({"A"}, {"A"})
    first = RoLoRA().aggregate(sent({"B"}, 1), AggregationContext(1, scalar(2, 0)))
    assert values(first.adapter) == (2.0, 40.0)
    second = RoLoRA().aggregate(sent({"A"}, 2), AggregationContext(2, first.adapter))
    assert values(second.adapter) == (4.0, 40.0)  # A: (1 * 1 + 3 * 5) / 4


def test_fedsa_trains_both_and_sends_a_until_the_last_round() -> None:
    assert asked(FedSALoRA(), 1, 3) == asked(FedSALoRA(), 2, 3) == (BOTH, {"A"})
    assert asked(FedSALoRA(), 3, 3) == (BOTH, BOTH)
    assert asked(FedSALoRA(), 3, None) == (BOTH, {"A"})
    assert asked(FedSALoRA(share_b_at_the_end=False), 3, 3) == (BOTH, {"A"})


def test_fedsa_averages_a_alone_and_in_the_last_round_both() -> None:
    early = AggregationContext(1, scalar(2, 3), num_rounds=2)
    assert values(FedSALoRA().aggregate(sent({"A"}), early).adapter) == (4.0, 3.0)
    last = AggregationContext(2, scalar(2, 3), num_rounds=2)
    assert values(FedSALoRA().aggregate(sent(BOTH, 2), last).adapter) == (4.0, 40.0)


@pytest.mark.parametrize("strategy", [FFALoRA(), RoLoRA()], ids=["ffa", "rolora"])
def test_a_site_that_sends_more_than_it_was_asked_for_is_refused(strategy) -> None:
    whole, part = sent(BOTH)[0], sent({"B"})[1]
    result = strategy.aggregate([whole, part], AggregationContext(1, scalar(2, 3)))
    assert result.refused == {"north": "foreign-adapter"}
    with pytest.raises(AggregationError, match="foreign-adapter"):
        strategy.aggregate([whole], AggregationContext(1, scalar(2, 3)))
