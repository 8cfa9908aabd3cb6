"""A site's round: the same as a loop written out plainly, deterministic, and true to its plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.adapters.state import AdapterState, Factor, LoRAPair
from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel
from fedmedlora.testing.tiny import SHAPES
from fedmedlora.training import local
from fedmedlora.training.batches import EncodedExample, plan_batches
from fedmedlora.training.local import (
    LocalResult,
    LocalSettings,
    example_losses,
    schedule,
    train_locally,
)

BaseOf = Callable[..., BaseModel]
LoRAOf = Callable[[BaseModel], LoRAModel]
AdapterOf = Callable[..., AdapterState]
SETTINGS = LocalSettings(learning_rate=3e-3, epochs=1.0, batch_tokens=150)
QUIET = SilentObserver()


@pytest.fixture(scope="session")
def base(tiny: BaseOf) -> BaseModel:
    return tiny("llama")


@pytest.fixture(scope="session")
def model(base: BaseModel, lora_of: LoRAOf) -> LoRAModel:
    return lora_of(base)


@pytest.fixture(scope="session")
def start(base: BaseModel, adapter_of: AdapterOf) -> AdapterState:
    return adapter_of(base, 1, 0.1)


def plan(**fields: Any) -> LocalPlan:
    return LocalPlan(**{"round_index": 1, "seed": 11, **fields})


def batches_of(examples: list[EncodedExample], epoch: int) -> list[list[int]]:
    return plan_batches(
        examples, batch_tokens=SETTINGS.batch_tokens, address=(11, "batches", epoch)
    )


def factors(adapter: AdapterState, factor: Factor) -> list[torch.Tensor]:
    return [pair.factor(factor) for pair in adapter.pairs.values()]


def change(result: LocalResult, start: AdapterState) -> torch.Tensor:
    moved = [new - old for (_, _, new), (_, _, old) in _both(result.adapter, start)]
    return torch.cat([tensor.flatten() for tensor in moved])


def _both(one: AdapterState, other: AdapterState) -> Any:
    return zip(one.tensors(), other.tensors(), strict=True)


def plain_round(
    model: LoRAModel,
    start: AdapterState,
    steps: list[list[EncodedExample]],
    *,
    mu: float,
    peak: float,
    share: float | None = None,
) -> tuple[AdapterState, float]:
    """The round as a textbook would write it: example by example, through whole logits."""
    model.load(start)
    weights = model.parameters(frozenset({"A", "B"}))
    received = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=peak, weight_decay=0.0)
    total, count = 0.0, 0
    tokens = {
        task: sum(
            e.num_completion_tokens for e in {e for step in steps for e in step} if e.task == task
        )
        for task in ("entities", "relations")
    }
    for number, examples in enumerate(steps):
        losses, weight_of = [], []
        for example in examples:
            logits = model.peft(torch.tensor([example.token_ids])).logits[0]
            wanted = torch.tensor(example.token_ids)
            by_token = torch.nn.functional.cross_entropy(logits[:-1], wanted[1:], reduction="none")
            losses.append(by_token[example.num_prompt_tokens - 1 :])
            own = {"entities": 1 - (share or 0), "relations": share or 0}[example.task]
            weight = own * sum(tokens.values()) / tokens[example.task] if share else 1.0
            weight_of.append(torch.full_like(losses[-1], weight))
        weight_by_token = torch.cat(weight_of)
        loss = (torch.cat(losses) * weight_by_token).mean()
        total += float(torch.cat(losses).detach().sum())
        count += len(torch.cat(losses))
        pull = sum((w - r).square().sum() for w, r in zip(weights, received, strict=True))
        warmup = max(1, math.ceil(0.05 * len(steps)))
        rate = peak * (number + 1) / warmup
        if number >= warmup:
            after = (number - warmup + 1) / (len(steps) - warmup + 1)
            rate = peak * (1 + math.cos(math.pi * after)) / 2
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        (loss + mu / 2 * pull).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    return model.state(), total / count


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("max_tokens", [None, 60])
def test_two_tasks_share_the_loss_as_told_whatever_their_numbers_of_tokens(
    model: LoRAModel,
    start: AdapterState,
    examples: list[EncodedExample],
    share: float,
    max_tokens: int | None,
) -> None:
    mixed = [
        replace(example, task="relations" if index % 3 == 0 else "entities")
        for index, example in enumerate(examples)
    ]
    settings = replace(
        SETTINGS, relation_share=share, micro_batch_tokens=max_tokens, batch_tokens=300
    )
    batches = plan_batches(mixed, batch_tokens=300, address=(11, "batches", 0))
    steps = [[mixed[i] for i in batch] for batch in batches]
    assert any(len({example.task for example in step}) > 1 for step in steps)
    expected, _ = plain_round(model, start, steps, mu=0.0, peak=3e-3, share=share)
    result = train_locally(model, start, mixed, plan(epochs=1.0), settings, QUIET)
    unweighted = replace(settings, relation_share=None)
    plain = train_locally(model, start, mixed, plan(epochs=1.0), unweighted, QUIET)

    moved = change(result, start)
    gap = torch.cat([(a - b).flatten() for (_, _, a), (_, _, b) in _both(result.adapter, expected)])
    assert gap.norm() < 0.01 * moved.norm()
    assert (change(plain, start) - moved).norm() > 0.02 * moved.norm()
    assert set(result.train_losses) == {"entities", "relations"}


def test_losses_are_told_by_task(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    """With a rate of nearly nothing, they are those of the received adapter."""
    mixed = [
        replace(example, task="relations" if index % 2 else "entities")
        for index, example in enumerate(examples)
    ]
    still = replace(SETTINGS, learning_rate=1e-12)
    found = train_locally(model, start, mixed, plan(epochs=1.0), still, QUIET).train_losses
    model.load(start)
    for task in ("entities", "relations"):
        own = [example for example in mixed if example.task == task]
        sums = example_losses(model, own, batch_tokens=500)
        expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
        assert found[task] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mu", [0.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_round_is_what_a_plain_loop_over_single_examples_gives(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    shape: str,
    mu: float,
) -> None:
    base = tiny(shape)
    model, start = lora_of(base), adapter_of(base, 1, 0.1)
    steps = [
        [examples[i] for i in batch] for epoch in (0, 1) for batch in batches_of(examples, epoch)
    ]
    expected, expected_loss = plain_round(model, start, steps, mu=mu, peak=3e-3)
    result = train_locally(
        model, start, examples, plan(epochs=2.0, proximal_mu=mu), SETTINGS, QUIET
    )

    moved = change(result, start)
    gap = torch.cat([(a - b).flatten() for (_, _, a), (_, _, b) in _both(result.adapter, expected)])
    assert result.num_steps == len(steps) > 4
    assert moved.norm() > 0.05
    assert gap.norm() < 0.01 * moved.norm()
    assert result.train_losses["entities"] == pytest.approx(expected_loss, rel=1e-4)


def test_the_same_round_twice_gives_the_same_bits(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample], adapter_of: AdapterOf
) -> None:
    first = train_locally(model, start, examples, plan(epochs=1.5), SETTINGS, QUIET)
    train_locally(model, adapter_of(model.base, 9, 1.0), examples, plan(), SETTINGS, QUIET)
    second = train_locally(model, start, examples, plan(epochs=1.5), SETTINGS, QUIET)

    assert second.adapter == first.adapter
    assert second.train_losses == first.train_losses


def test_a_round_is_not_touched_by_gradients_that_a_broken_round_left_behind(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    clean = train_locally(model, start, examples, plan(), SETTINGS, QUIET)
    for weight in model.parameters(frozenset({"A", "B"})):
        weight.grad = torch.ones_like(weight)
    again = train_locally(model, start, examples, plan(), SETTINGS, QUIET)

    assert again.adapter == clean.adapter


def test_another_seed_gives_another_order_and_other_bits(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    results = [
        train_locally(model, start, examples, plan(seed=seed), SETTINGS, QUIET) for seed in (1, 2)
    ]

    assert results[0].adapter != results[1].adapter


def test_training_changes_neither_the_received_adapter_nor_the_base_model(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    digest = start.digest()
    weights = {name: value.clone() for name, value in model.base.model.state_dict().items()}
    train_locally(model, start, examples, plan(), SETTINGS, QUIET)

    assert start.digest() == digest
    after = model.base.model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("trained", "kept"), [("A", "B"), ("B", "A")])
def test_a_factor_that_is_not_in_the_plan_stays_as_it_was(
    model: LoRAModel,
    start: AdapterState,
    examples: list[EncodedExample],
    trained: Factor,
    kept: Factor,
) -> None:
    result = train_locally(
        model, start, examples, plan(train_factors=frozenset({trained})), SETTINGS, QUIET
    )

    for after, before in zip(factors(result.adapter, kept), factors(start, kept), strict=True):
        assert torch.equal(after, before)
    for after, before in zip(
        factors(result.adapter, trained), factors(start, trained), strict=True
    ):
        assert not torch.equal(after, before)


@dataclass
class Seen:
    """What a round trained on, pass by pass, and what it told its observer."""

    batches: list[list[EncodedExample]] = field(default_factory=list)
    num_tokens: float = 0.0

    def counts(self) -> Counter[EncodedExample]:
        return Counter(example for batch in self.batches for example in batch)

    def advance(self, amount: float, **figures: float) -> None:
        self.num_tokens += amount
        assert figures["loss"] > 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    real = local.pack

    def pack(examples: list[EncodedExample], **options: Any) -> Any:
        found.batches.append(list(examples))
        return real(examples, **options)

    monkeypatch.setattr(local, "pack", pack)
    return found


def test_epochs_are_passes_over_all_examples_in_a_new_order(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample], seen: Seen
) -> None:
    result = train_locally(model, start, examples, plan(epochs=3.0), SETTINGS, seen)  # type: ignore[arg-type]
    sizes = [len(batches_of(examples, epoch)) for epoch in range(3)]

    assert set(seen.counts().values()) == {3}
    assert len(seen.counts()) == len(examples)
    assert seen.batches[: sizes[0]] != seen.batches[sizes[0] : sizes[0] + sizes[1]]
    assert result.num_steps == sum(sizes)
    assert result.num_examples == 3 * len(examples)
    assert result.num_tokens == 3 * sum(len(e.token_ids) for e in examples) == seen.num_tokens


@pytest.mark.parametrize("epochs", [0.25, 0.5, 1.0, 1.5, 2.25])
def test_a_part_of_an_epoch_is_the_same_part_of_its_batches_rounded_up(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample], epochs: float
) -> None:
    result = train_locally(model, start, examples, plan(epochs=epochs), SETTINGS, QUIET)
    whole = math.floor(epochs)
    expected = sum(len(batches_of(examples, epoch)) for epoch in range(whole))
    expected += math.ceil((epochs - whole) * len(batches_of(examples, whole)))

    assert result.num_steps == expected


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_steps_are_counted_across_epochs(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample], seen: Seen, steps: int
) -> None:
    result = train_locally(model, start, examples, plan(steps=steps), SETTINGS, QUIET)

    assert result.num_steps == len(seen.batches) == steps
    counts = [seen.counts()[example] for example in examples]
    assert max(counts) - min(counts) <= 1


def test_without_a_length_in_the_plan_the_sites_own_epochs_count(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    settings = LocalSettings(learning_rate=3e-3, epochs=2.0, batch_tokens=256)
    result = train_locally(model, start, examples, plan(), settings, QUIET)

    assert result.num_examples == 2 * len(examples)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"epochs": 0.0}])
def test_a_plan_without_a_step_gives_the_adapter_back(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample], fields: dict[str, Any]
) -> None:
    result = train_locally(model, start, examples, plan(**fields), SETTINGS, QUIET)

    assert result.adapter == start
    assert (result.num_steps, result.num_examples, result.train_losses) == (0, 0, {})


def test_the_plans_learning_rate_wins_over_the_sites(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    still = train_locally(model, start, examples, plan(learning_rate=0.0), SETTINGS, QUIET)
    slow, fast = (
        change(
            train_locally(model, start, examples, plan(learning_rate=rate), SETTINGS, QUIET), start
        ).norm()
        for rate in (1e-5, 1e-3)
    )

    assert still.adapter == start
    assert 0 < 20 * slow < fast


def test_the_proximal_term_keeps_the_adapter_near_the_received_one(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    free, held = (
        change(
            train_locally(
                model, start, examples, plan(epochs=4.0, proximal_mu=mu), SETTINGS, QUIET
            ),
            start,
        ).norm()
        for mu in (0.0, 100.0)
    )

    assert held < 0.7 * free


def test_training_lowers_the_loss_on_what_it_trains_on(
    model: LoRAModel, adapter_of: AdapterOf, examples: list[EncodedExample]
) -> None:
    fresh = adapter_of(model.base)
    settings = LocalSettings(learning_rate=2e-2, epochs=12.0, batch_tokens=256)
    result = train_locally(model, fresh, examples, plan(), settings, QUIET)

    def mean_loss(adapter: AdapterState) -> float:
        model.load(adapter)
        found = example_losses(model, examples, batch_tokens=512)
        return sum(total for total, _ in found) / sum(count for _, count in found)

    assert mean_loss(result.adapter) < 0.6 * mean_loss(fresh)


def test_a_loss_that_is_not_a_number_stops_the_round_and_says_what_to_change(
    model: LoRAModel, start: AdapterState, examples: list[EncodedExample]
) -> None:
    pairs = {
        name: LoRAPair(A=pair.A, B=torch.full_like(pair.B, math.inf))
        for name, pair in start.pairs.items()
    }

    with pytest.raises(FedMedLoRAError, match=r"not a number at step 1\. Lower training\.learning"):
        train_locally(model, AdapterState(start.spec, pairs), examples, plan(), SETTINGS, QUIET)


def test_a_round_without_examples_is_an_error(model: LoRAModel, start: AdapterState) -> None:
    with pytest.raises(FedMedLoRAError, match="the site has no training examples"):
        train_locally(model, start, [], plan(), SETTINGS, QUIET)


def test_the_learning_rate_warms_up_and_then_follows_a_cosine() -> None:
    rates = [schedule(step, 40, 0.05) for step in range(40)]

    assert rates[:2] == [0.5, 1.0]  # 5 % of 40 steps
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[2] == pytest.approx(0.5 * (1 + math.cos(math.pi / 39)))
    assert rates[20] == pytest.approx(0.5 * (1 + math.cos(math.pi * 19 / 39)))
    assert 0 < rates[39] < 0.01


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
def test_every_step_of_a_short_round_moves(num_steps: int, warmup: float) -> None:
    assert all(0 < schedule(step, num_steps, warmup) <= 1 for step in range(num_steps))


def by_hand(model: LoRAModel, example: EncodedExample, first: int) -> float:
    """Summed loss of the tokens from `first` on, in float64, of one example alone."""
    with torch.no_grad():
        logits = model.peft(torch.tensor([example.token_ids])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    return -sum(
        float(chances[position - 1, example.token_ids[position]])
        for position in range(first, len(example.token_ids))
    )


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_example_losses_are_sums_over_answers_or_whole_sequences(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    shape: str,
    batch_tokens: int,
) -> None:
    base = tiny(shape)
    model = lora_of(base)
    model.load(adapter_of(base, 4, 0.2))
    answers = example_losses(model, examples, batch_tokens=batch_tokens)
    sequences = example_losses(model, examples, batch_tokens=batch_tokens, reading="sequence")

    assert [count for _, count in answers] == [e.num_completion_tokens for e in examples]
    assert [count for _, count in sequences] == [len(e.token_ids) - 1 for e in examples]
    for example, (answer, _), (sequence, _) in zip(examples, answers, sequences, strict=True):
        assert answer == pytest.approx(by_hand(model, example, example.num_prompt_tokens), rel=1e-5)
        assert sequence == pytest.approx(by_hand(model, example, 1), rel=1e-5)
