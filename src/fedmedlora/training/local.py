"""One site, one round: the whole local training loop."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.models.packed_attention import allow_packed_rows
from fedmedlora.training.batches import Batch, EncodedExample, collate, cut_rows, plan_batches
from fedmedlora.training.checkpointing import recomputed_layers
from fedmedlora.training.objectives import predicting_states, token_losses
from fedmedlora.training.packed import PackedBatch, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmedlora.adapters.exchange import LocalPlan
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.models.lora import LoRAModel


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a site trains.

    The loss is the mean over all completion tokens of an optimiser step, times their task's weight.

    Attributes:
        learning_rate: Peak of the schedule.
        epochs: Passes over the examples in a round.
        batch_tokens: Tokens of an optimiser step; instructions and padding do not count, so that
            the prompt's format does not change what a step learns from.
        warmup_fraction: Share of the steps.
        max_gradient_norm: Longer gradients are cut to it.
        micro_batch_tokens: Tokens that one pass reads, instructions and padding included; bounds
            memory. A step of more takes several passes and is the same step. None: one pass.
        recompute_layers: Keep no activations within layers but compute them again on the way back:
            far less memory, about a third more time.
        relation_share: Where a site trains both tasks, how much of the loss the relation task
            makes, whatever the number of its tokens. None: a token counts as any other.
    """

    learning_rate: float
    epochs: float
    batch_tokens: int
    warmup_fraction: float = 0.05
    max_gradient_norm: float = 1.0
    micro_batch_tokens: int | None = None
    recompute_layers: bool = False
    relation_share: float | None = 0.5

    @property
    def reading_tokens(self) -> int:
        """Tokens of a pass that takes losses or states and trains nothing."""
        return self.micro_batch_tokens or self.batch_tokens


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The trained adapter and what the round cost.

    `train_losses` are by task, a mean per completion token; of tasks that some step trained.
    """

    adapter: AdapterState
    train_losses: Mapping[Task, float]
    num_steps: int
    num_examples: int
    num_tokens: int
    elapsed_seconds: float


def train_locally(
    model: LoRAModel,
    adapter: AdapterState,
    examples: Sequence[EncodedExample],
    plan: LocalPlan,
    settings: LocalSettings,
    observer: Observer,
) -> LocalResult:
    """The adapter after one round of training on these examples.

    The optimiser is fresh each round: AdamW, linear warm-up, then cosine to zero. Only the plan's
    `train_factors` move; its `learning_rate`, `epochs` or `steps` win over the site's settings.

    Raises:
        FedMedLoRAError: There is nothing to train on, or the loss is not a number.
        ModelError: The model's layers cannot be computed again.
    """
    if not examples:
        raise FedMedLoRAError("local training: the site has no training examples.")
    started = time.perf_counter()
    model.load(adapter)
    parameters = model.parameters(frozenset(plan.train_factors))
    received = [parameter.detach().clone() for parameter in parameters] if plan.proximal_mu else []
    batches = list(_batches(examples, plan, settings))
    peak = plan.learning_rate if plan.learning_rate is not None else settings.learning_rate
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0, fused=True)
    packed = allow_packed_rows(model.backbone)
    weights = task_weights(examples, settings.relation_share)
    loss_sums: dict[Task, float] = dict.fromkeys(weights, 0.0)
    num_targets: dict[Task, int] = dict.fromkeys(weights, 0)
    num_tokens = 0
    memory = recomputed_layers(model.backbone) if settings.recompute_layers else nullcontext()
    with memory:
        for step, indices in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = peak * schedule(step, len(batches), settings.warmup_fraction)
            optimiser.zero_grad(set_to_none=True)  # also of what a broken-off round left behind
            chosen = [examples[index] for index in indices]
            passes = _passes(model, chosen, settings.micro_batch_tokens, packed=packed)
            # Not weighted: a step that happens to hold one task alone keeps that task's weight.
            count = sum(example.num_targets for example in chosen)
            step_loss = 0.0
            for batch, some in passes:
                losses = token_losses(
                    model.backbone, model.base.output_weight, batch, batch.targets
                )
                for task, part in _by_task(batch, some, losses.detach()).items():
                    loss_sums[task] += float(part.sum())
                    num_targets[task] += part.numel()
                if len(weights) > 1:
                    losses = losses * _by_target(batch, [weights[e.task] for e in some], losses)
                step_loss += float(losses.detach().sum())
                if not math.isfinite(step_loss):
                    raise FedMedLoRAError(
                        f"local training: the loss is not a number at step {step + 1}. "
                        'Lower training.learning_rate, or set model.dtype = "float32".'
                    )
                (losses.sum() / count).backward()  # type: ignore[no-untyped-call]
            for parameter, start in zip(parameters, received, strict=False):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - start, alpha=plan.proximal_mu)
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
            optimiser.step()
            step_tokens = sum(batch.num_tokens for batch, _ in passes)
            num_tokens += step_tokens
            observer.advance(step_tokens, loss=step_loss / count)
    return LocalResult(
        model.state(),
        {task: loss_sums[task] / count for task, count in num_targets.items() if count},
        len(batches),
        sum(len(indices) for indices in batches),
        num_tokens,
        time.perf_counter() - started,
    )


def _passes(
    model: LoRAModel,
    examples: Sequence[EncodedExample],
    max_tokens: int | None,
    *,
    packed: bool,
    whole: bool = False,
) -> list[tuple[Batch | PackedBatch, list[EncodedExample]]]:
    """The examples, in order, as what the network reads pass by pass; each with its examples."""
    device = model.base.output_weight.device
    pad_id = model.base.tokenizer.end_id
    found: list[tuple[Batch | PackedBatch, list[EncodedExample]]] = []
    for row in cut_rows(examples, max_tokens=max_tokens, packed=packed):
        some = [examples[index] for index in row]
        if packed:
            found.append((pack(some, whole=whole, device=device), some))
        else:
            found.append((collate(some, pad_id, whole=whole, device=device), some))
    return found


def task_weights(
    examples: Sequence[EncodedExample], relation_share: float | None
) -> dict[Task, float]:
    """The weight of a completion token of each task that there are examples of.

    With both tasks the weights give relations their share of the loss; their mean over all tokens
    is 1, so that the learning rate means the same as for one task.
    """
    counts: dict[Task, int] = {}
    for example in examples:
        counts[example.task] = counts.get(example.task, 0) + example.num_completion_tokens
    if relation_share is None or len(counts) < 2:
        return dict.fromkeys(counts, 1.0)
    shares: dict[Task, float] = {"entities": 1 - relation_share, "relations": relation_share}
    total = sum(counts.values())
    return {task: shares[task] * total / count for task, count in counts.items()}


def _by_task(
    batch: Batch | PackedBatch, examples: Sequence[EncodedExample], losses: torch.Tensor
) -> dict[Task, torch.Tensor]:
    """The losses of a pass by task."""
    if len({example.task for example in examples}) == 1:
        return {examples[0].task: losses}
    parts: dict[Task, list[torch.Tensor]] = {}
    for example, part in zip(examples, batch.by_example(losses), strict=True):
        parts.setdefault(example.task, []).append(part)
    return {task: torch.cat(found) for task, found in parts.items()}


def _by_target(
    batch: Batch | PackedBatch, values: Sequence[float], losses: torch.Tensor
) -> torch.Tensor:
    """One value an example as one a target, in the order of `losses`."""
    found = torch.empty_like(losses)
    order = torch.arange(len(losses), device=losses.device)
    for places, value in zip(batch.by_example(order), values, strict=True):
        found[places] = value
    return found


def schedule(step: int, num_steps: int, warmup_fraction: float) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then cosine towards 0."""
    warmup = max(1, math.ceil(warmup_fraction * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / max(1, num_steps - warmup + 1)))


def _batches(
    examples: Sequence[EncodedExample], plan: LocalPlan, settings: LocalSettings
) -> Iterator[list[int]]:
    """The round's batches: `steps` of them, or `epochs` passes with a last partial one."""
    epochs = plan.epochs if plan.epochs is not None else settings.epochs
    remaining = plan.steps
    epoch = 0
    while True:
        address = (plan.seed, "batches", epoch)
        batches = plan_batches(examples, batch_tokens=settings.batch_tokens, address=address)
        if plan.steps is None:
            whole = math.floor(epochs)
            share = 1.0 if epoch < whole else epochs - whole
            batches = batches[: math.ceil(share * len(batches))] if share < 1 else batches
            yield from batches
            if epoch + 1 >= epochs:
                return
        elif remaining is not None:
            yield from batches[:remaining]
            remaining -= len(batches)
            if remaining <= 0:
                return
        epoch += 1


Reading = Literal["completion", "sequence"]


def example_losses(
    model: LoRAModel,
    examples: Sequence[EncodedExample],
    *,
    batch_tokens: int,
    reading: Reading = "completion",
) -> list[tuple[float, int]]:
    """For each example, its summed loss and the number of tokens that it sums over.

    Args:
        model: Holds the adapter to judge.
        examples: What to judge it on.
        batch_tokens: Tokens a forward pass may hold.
        reading: `completion` counts the answer; `sequence` counts prompt and answer, as the
            paper's public code does.
    """
    order = sorted(range(len(examples)), key=lambda index: _likeness(examples[index]))
    chosen = [examples[index] for index in order]
    packed = allow_packed_rows(model.backbone)
    parts: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch, _ in _passes(
            model, chosen, batch_tokens, packed=packed, whole=reading == "sequence"
        ):
            losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
            parts += batch.by_example(losses)
    by_index = dict(zip(order, parts, strict=True))
    found = (by_index[index] for index in range(len(examples)))
    return [(float(part.double().sum()), part.numel()) for part in found]


def answer_states(
    model: LoRAModel, examples: Sequence[EncodedExample], *, batch_tokens: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """By example, its index and the hidden states that predict its answer, `(tokens, hidden)`.

    In an order of its own, and without gradients if the caller switched them off.

    Args:
        model: Holds the adapter.
        examples: Each with a prompt.
        batch_tokens: Tokens a forward pass may hold.
    """
    order = sorted(range(len(examples)), key=lambda index: _likeness(examples[index]))
    packed = allow_packed_rows(model.backbone)
    at = 0
    for batch, some in _passes(model, [examples[i] for i in order], batch_tokens, packed=packed):
        states = predicting_states(model.backbone, batch, batch.targets)
        rows = batch.by_example(torch.arange(len(states), device=states.device))
        for index, places in zip(order[at:], rows, strict=False):
            yield index, states[places]
        at += len(some)


def _likeness(example: EncodedExample) -> tuple[tuple[int, ...], int]:
    """Sorts examples so that those that make a good batch stand side by side."""
    return example.token_ids[: example.num_shared_tokens], len(example.token_ids)
