"""A site's replies: what they hold, what they are measured on, and what is left out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import (
    LocalPlan,
    Score,
    SiteScores,
    SiteUpdate,
    Train,
    decode,
    encode,
)
from fedmedlora.adapters.state import AdapterState
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import Task
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel
from fedmedlora.training.batches import EncodedExample
from fedmedlora.training.local import LocalSettings, example_losses
from fedmedlora.training.site import LocalSite, TaskData

SETTINGS = LocalSettings(learning_rate=3e-3, epochs=1.0, batch_tokens=256)


@pytest.fixture(scope="session")
def model(tiny: Callable[..., BaseModel], lora_of: Callable[[BaseModel], LoRAModel]) -> LoRAModel:
    return lora_of(tiny("llama"))


@pytest.fixture(scope="session")
def adapter(model: LoRAModel, adapter_of: Callable[..., AdapterState]) -> AdapterState:
    return adapter_of(model.base, 1, 0.1)


@pytest.fixture
def data(examples: list[EncodedExample]) -> TaskData:
    return TaskData(tuple(examples[:4]), tuple(examples[4:]), num_documents=3)


@pytest.fixture
def site_of(model: LoRAModel) -> Callable[..., LocalSite]:
    def build(data: Mapping[Task, TaskData], **changes: Any) -> LocalSite:
        settings = replace(SETTINGS, **changes)
        return LocalSite("north", model, data, settings, SilentObserver())

    return build


def train(adapter: AdapterState, **fields: Any) -> Train:
    return Train(LocalPlan(**{"round_index": 2, "seed": 5, **fields}), adapter)


def update_of(site: LocalSite, request: Train) -> SiteUpdate:
    reply = site.handle(request)
    assert isinstance(reply, SiteUpdate)
    return reply


def scores_of(site: LocalSite, request: Score) -> SiteScores:
    reply = site.handle(request)
    assert isinstance(reply, SiteScores)
    return reply


def losses_of(
    model: LoRAModel, adapter: AdapterState, examples: tuple[EncodedExample, ...]
) -> list[tuple[float, int]]:
    model.load(adapter)
    return example_losses(model, examples, batch_tokens=10_000)


def mean(found: list[tuple[float, int]]) -> float:
    return sum(total for total, _ in found) / sum(count for _, count in found)


def test_an_update_counts_the_training_split_once_however_long_it_trained(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData
) -> None:
    update = update_of(site_of({"entities": data}), train(adapter, epochs=3.0))
    metrics = update.metrics["entities"]

    assert (update.site, update.round_index) == ("north", 2)
    assert metrics.num_documents == 3
    assert metrics.num_examples == 4
    assert metrics.num_completion_tokens == sum(
        len(e.token_ids) - e.num_prompt_tokens for e in data.train
    )
    assert metrics.num_entities == sum(e.num_entities for e in data.train) > 0
    assert update.num_steps >= 3
    assert metrics.train_loss is not None


def test_the_validation_loss_is_that_of_the_received_adapter_on_held_out_notes(
    site_of: Callable[..., LocalSite], model: LoRAModel, adapter: AdapterState, data: TaskData
) -> None:
    update = update_of(site_of({"entities": data}), train(adapter))
    received = mean(losses_of(model, adapter, data.validation))
    returned = mean(losses_of(model, update.adapter, data.validation))

    assert update.metrics["entities"].validation_loss == pytest.approx(received, rel=1e-6)
    assert returned != pytest.approx(received, rel=1e-3)


def test_judging_the_received_adapter_does_not_change_the_training(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData
) -> None:
    without = replace(data, validation=())
    judged = update_of(site_of({"entities": data}), train(adapter))
    unjudged = update_of(site_of({"entities": without}), train(adapter))

    assert unjudged.adapter == judged.adapter
    assert unjudged.metrics["entities"].validation_loss is None


@pytest.mark.parametrize("factor", ["A", "B"])
def test_only_the_shared_factors_leave_the_site(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData, factor: Any
) -> None:
    site = site_of({"entities": data})
    whole = update_of(site, train(adapter))
    part = update_of(site, train(adapter, share_factors=frozenset({factor})))

    assert part.adapter.factors == {factor}
    assert part.adapter == whole.adapter.only({factor})
    assert part.metrics == whole.metrics


def test_an_update_survives_the_wire(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData
) -> None:
    update = update_of(site_of({"entities": data}), train(adapter))

    assert decode(encode(update, FP32)) == update


def test_metrics_are_kept_by_task_and_both_tasks_are_trained(
    site_of: Callable[..., LocalSite], model: LoRAModel, adapter: AdapterState, data: TaskData
) -> None:
    other = TaskData(data.validation, data.train[:1], num_documents=1)
    site = site_of({"entities": data, "relations": other})
    both = update_of(site, train(adapter, tasks=("entities", "relations")))
    one = update_of(site, train(adapter, tasks=("relations",)))

    assert both.metrics["entities"].num_examples == 4
    assert both.metrics["relations"].num_examples == len(other.train)
    assert both.metrics["relations"].validation_loss == pytest.approx(
        mean(losses_of(model, adapter, other.validation)), rel=1e-6
    )
    assert set(one.metrics) == {"relations"}
    assert both.num_steps > one.num_steps
    assert both.adapter != one.adapter


def test_scores_are_losses_a_token_with_their_standard_errors(
    site_of: Callable[..., LocalSite],
    model: LoRAModel,
    adapter: AdapterState,
    adapter_of: Callable[..., AdapterState],
    data: TaskData,
) -> None:
    other = adapter_of(model.base, 2, 0.5)
    reply = scores_of(site_of({"entities": data}), Score({"received": adapter, "other": other}))

    for name, judged in (("received", adapter), ("other", other)):
        found = losses_of(model, judged, data.validation)
        means = [total / count for total, count in found]
        error = statistics.stdev(means) / math.sqrt(len(means))
        assert reply.losses[name]["entities"] == pytest.approx(mean(found), rel=1e-6)
        assert reply.standard_errors[name]["entities"] == pytest.approx(error, rel=1e-5)
    assert reply.losses["received"] != reply.losses["other"]


def test_a_score_request_bounds_the_tokens_but_judges_at_least_one_example(
    site_of: Callable[..., LocalSite], model: LoRAModel, adapter: AdapterState, data: TaskData
) -> None:
    site = site_of({"entities": data})
    first = data.validation[:1]
    for bound in (1, first[0].num_completion_tokens):
        reply = scores_of(site, Score({"a": adapter}, max_tokens=bound))
        assert reply.losses["a"]["entities"] == pytest.approx(
            mean(losses_of(model, adapter, first)), rel=1e-6
        )
        assert reply.standard_errors["a"]["entities"] == 0.0


def test_a_site_without_held_out_notes_has_no_scores(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData
) -> None:
    reply = scores_of(site_of({"entities": replace(data, validation=())}), Score({"a": adapter}))

    assert reply.losses == {"a": {}}


def test_a_task_that_the_site_has_no_notes_for_is_an_error(
    site_of: Callable[..., LocalSite], adapter: AdapterState, data: TaskData
) -> None:
    site = site_of({"entities": data})

    with pytest.raises(ConfigError, match="site north: has no notes for the task relations"):
        site.handle(train(adapter, tasks=("relations",)))
    with pytest.raises(ConfigError, match="relations"):
        site.handle(Score({"a": adapter}, tasks=("relations",)))


def test_the_fingerprint_changes_with_all_that_an_update_depends_on(
    site_of: Callable[..., LocalSite], data: TaskData
) -> None:
    variants = [
        ({"entities": data}, {}),
        ({"entities": data}, {"batch_tokens": 128}),
        ({"entities": data}, {"learning_rate": 1e-3}),
        ({"entities": replace(data, train=data.train[::-1])}, {}),
        ({"entities": replace(data, train=data.train[:-1])}, {}),
        ({"entities": replace(data, validation=data.validation[:-1])}, {}),
        ({"entities": replace(data, num_documents=9)}, {}),
        ({"relations": data}, {}),
        ({"entities": data, "relations": data}, {}),
    ]
    found = [site_of(tasks, **changes).fingerprint() for tasks, changes in variants]

    assert len(set(found)) == len(variants)
    assert site_of({"entities": data}).fingerprint() == found[0]
