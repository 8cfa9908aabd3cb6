import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fedmedlora.adapters.exchange import SiteUpdate
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation import StrategyConfig
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses
from fedmedlora.aggregation.uniform import Uniform
from fedmedlora.core.errors import AggregationError, ConfigError
from fedmedlora.testing.adapters import random_adapter, site_update

SPEC = AdapterSpec("m", "r", 1, 1.0, ("q",))


def scalar(A: float, B: float) -> AdapterState:
    return AdapterState(
        SPEC, {"q": LoRAPair(torch.tensor([[float(A)]]), torch.tensor([[float(B)]]))}
    )


CONTEXT = AggregationContext(1, scalar(0, 0))


@dataclass
class TableScorer:
    """Losses looked up by the first number of the adapter; `sequence` is a tenth of them."""

    losses: dict[float, list[float]]
    asked: list[float] = field(default_factory=list)

    def loss(self, adapter: AdapterState) -> NoteLosses:
        key = adapter.pairs["q"].A.item()
        self.asked.append(key)
        notes = np.array(self.losses[key])
        return NoteLosses({"entities": notes}, {"entities": notes / 10})


def north_and_south() -> list[SiteUpdate]:
    north = site_update(
        "north",
        scalar(1, 0),
        num_documents=1,
        num_examples=2,
        num_completion_tokens=1,
        num_entities=9,
    )
    south = site_update(
        "south",
        scalar(5, 4),
        num_documents=4,
        num_examples=2,
        num_completion_tokens=3,
        num_entities=1,
    )
    return [north, south]


@pytest.mark.parametrize(
    ("size", "share", "mean"),
    [
        ("tokens", 0.25, 4.0),
        ("examples", 0.5, 3.0),
        ("documents", 0.2, 4.2),
        ("entities", 0.9, 1.4),
    ],
)
def test_fedavg_weights_sites_by_the_chosen_size(size: str, share: float, mean: float) -> None:
    result = FedAvg(size).aggregate(north_and_south(), CONTEXT)
    assert result.weights == pytest.approx({"north": share, "south": 1 - share})
    assert result.adapter.pairs["q"].A.item() == pytest.approx(mean)


def test_fedavg_counts_completion_tokens_unless_told_otherwise() -> None:
    result = FedAvg().aggregate(north_and_south(), CONTEXT)
    assert result.weights == {"north": 0.25, "south": 0.75}
    assert result.adapter.pairs["q"].B.item() == 3.0


def test_uniform_ignores_sizes() -> None:
    result = Uniform().aggregate(north_and_south(), CONTEXT)
    assert result.weights == {"north": 0.5, "south": 0.5}
    assert result.adapter.pairs["q"].A.item() == 3.0  # (1 + 5) / 2


def test_plus_reference_weighs_by_loss_and_ignores_size() -> None:
    scorer = TableScorer({1.0: [1.0, 1.0], 5.0: [1.0, 1.0 + 2 * math.log(3)]})
    result = FedMedLoRAPlus("reference").aggregate(
        north_and_south(), AggregationContext(1, scalar(0, 0), scorer=scorer)
    )
    # L = 1 and 1 + ln 3: exp(0) = 1 against exp(-ln 3) = 1/3
    assert result.weights == pytest.approx({"north": 0.75, "south": 0.25})
    assert result.adapter.pairs["q"].A.item() == pytest.approx(2.0)  # .75 * 1 + .25 * 5
    assert result.record["server_losses"] == pytest.approx({"north": 1.0, "south": 1 + math.log(3)})


def test_plus_paper_multiplies_by_size() -> None:
    scorer = TableScorer({1.0: [1.0], 5.0: [1.0 + math.log(3)]})
    result = FedMedLoRAPlus("paper").aggregate(
        north_and_south(), AggregationContext(1, scalar(0, 0), scorer=scorer)
    )
    assert result.weights == pytest.approx({"north": 0.5, "south": 0.5})  # 1 * 1 and 3 * 1/3


def test_plus_can_read_the_loss_of_the_whole_sequence() -> None:
    scorer = TableScorer({1.0: [0.0], 5.0: [10 * math.log(3)]})
    result = FedMedLoRAPlus("reference", validation_loss="sequence").aggregate(
        north_and_south(), AggregationContext(1, scalar(0, 0), scorer=scorer)
    )
    assert result.weights == pytest.approx({"north": 0.75, "south": 0.25})


def test_plus_without_server_notes_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"server_notes.*`fedavg` or `uniform`"):
        FedMedLoRAPlus("reference").aggregate(north_and_south(), CONTEXT)


def test_plus_leaves_out_a_site_whose_loss_is_not_a_number() -> None:
    scorer = TableScorer({1.0: [math.nan], 5.0: [1.0]})
    context = AggregationContext(1, scalar(0, 0), scorer=scorer)
    result = FedMedLoRAPlus("reference").aggregate(north_and_south(), context)
    assert result.weights == {"south": 1.0}
    assert result.refused == {"north": "non-finite-loss"}
    with pytest.raises(AggregationError, match="north, south"):
        FedMedLoRAPlus("reference").aggregate(
            north_and_south(),
            AggregationContext(
                1, scalar(0, 0), scorer=TableScorer({1.0: [math.inf], 5.0: [math.nan]})
            ),
        )


def test_refused_updates_are_not_scored() -> None:
    scorer = TableScorer({1.0: [1.0], 5.0: [1.0]})
    broken = site_update("middle", scalar(math.nan, 0))
    FedMedLoRAPlus("reference").aggregate(
        [broken, *north_and_south()], AggregationContext(1, scalar(0, 0), scorer=scorer)
    )
    assert scorer.asked == [1.0, 5.0]


def test_the_mean_loss_counts_notes_alike_within_a_task_and_tasks_alike() -> None:
    losses = NoteLosses({"entities": np.array([1.0, 2.0, 6.0]), "relations": np.array([5.0])})
    assert losses.mean() == 4.0  # (3 + 5) / 2
    with pytest.raises(AggregationError, match="sequence loss was measured on no notes"):
        losses.mean("sequence")
    with pytest.raises(AggregationError):
        NoteLosses({"entities": np.array([])}).mean()


CONFIGS = TypeAdapter(StrategyConfig)


def test_a_strategy_is_chosen_by_name_and_options_reach_it() -> None:
    built = CONFIGS.validate_python({"name": "fedavg", "size": "entities"}).build()
    assert isinstance(built, FedAvg)
    assert built.size == "entities"
    plus = CONFIGS.validate_python(
        {"name": "fedmedlora-plus", "mode": "paper", "validation_loss": "sequence"}
    ).build()
    assert isinstance(plus, FedMedLoRAPlus)
    assert (plus.mode, plus.size, plus.validation_loss) == ("paper", "tokens", "sequence")
    assert isinstance(CONFIGS.validate_python({"name": "uniform"}).build(), Uniform)


@pytest.mark.parametrize(
    "table",
    [
        {"name": "fedavgg"},
        {"name": "fedavg", "sise": "tokens"},
        {"name": "fedavg", "size": "notes"},
        {"name": "uniform", "size": "tokens"},
        {"name": "fedmedlora-plus", "mode": "learnt"},
        {},
    ],
)
def test_a_typo_is_no_other_experiment(table: dict) -> None:
    with pytest.raises(ValidationError):
        CONFIGS.validate_python(table)


@pytest.mark.parametrize("size", ["tokens", "examples", "documents", "entities"])
def test_fedavg_of_sites_without_any_size_says_so(size: str) -> None:
    empty = site_update(
        "north",
        random_adapter(0),
        num_documents=0,
        num_examples=0,
        num_completion_tokens=0,
        num_entities=0,
    )
    with pytest.raises(AggregationError, match="positive sum"):
        FedAvg(size).aggregate([empty], AggregationContext(1, random_adapter(1)))
