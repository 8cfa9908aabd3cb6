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
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import PackedBatch, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedmedlora.adapters.exchange import LocalPlan
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.records import Observer
    from fedmedlora.models.lora import LoRAModel


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a site trains. The loss is the mean over all completion tokens of an optimiser step.

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
    """

    learning_rate: float
    epochs: float
    batch_tokens: int
    warmup_fraction: float = 0.05
    max_gradient_norm: float = 1.0
    micro_batch_tokens: int | None = None
    recompute_layers: bool = False


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The trained adapter and what the round cost.

    `train_loss` is per completion token; None if the plan asked for no step.
    """

    adapter: AdapterState
    train_loss: float | None
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
    loss_sum, num_targets, num_tokens = 0.0, 0, 0
    memory = recomputed_layers(model.backbone) if settings.recompute_layers else nullcontext()
    with memory:
        for step, indices in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = peak * schedule(step, len(batches), settings.warmup_fraction)
            optimiser.zero_grad(set_to_none=True)  # also of what a broken-off round left behind
            chosen = [examples[index] for index in indices]
            passes = _passes(model, chosen, settings.micro_batch_tokens, packed=packed)
            count = sum(int(batch.targets.sum()) for batch in passes)
            step_loss = 0.0
            for batch in passes:
                losses = token_losses(
                    model.backbone, model.base.output_weight, batch, batch.targets
                )
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
            loss_sum += step_loss
            num_targets += count
            step_tokens = sum(batch.num_tokens for batch in passes)
            num_tokens += step_tokens
            observer.advance(step_tokens, loss=step_loss / count)
    return LocalResult(
        model.state(),
        loss_sum / num_targets if num_targets else None,
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
) -> list[Batch | PackedBatch]:
    """The examples, in order, as what the network reads pass by pass."""
    device = model.base.output_weight.device
    pad_id = model.base.tokenizer.end_id
    found: list[Batch | PackedBatch] = []
    for row in cut_rows(examples, max_tokens=max_tokens, packed=packed):
        some = [examples[index] for index in row]
        if packed:
            found.append(pack(some, whole=whole, device=device))
        else:
            found.append(collate(some, pad_id, whole=whole, device=device))
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
        for batch in _passes(
            model, chosen, batch_tokens, packed=packed, whole=reading == "sequence"
        ):
            losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
            parts += batch.by_example(losses)
    by_index = dict(zip(order, parts, strict=True))
    found = (by_index[index] for index in range(len(examples)))
    return [(float(part.double().sum()), part.numel()) for part in found]


def _likeness(example: EncodedExample) -> tuple[tuple[int, ...], int]:
    """Sorts examples so that those that make a good batch stand side by side."""
    return example.token_ids[: example.num_shared_tokens], len(example.token_ids)
