"""One site, one round: the whole local training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.training.batches import EncodedExample, collate, plan_batches
from fedmedlora.training.objectives import token_losses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedmedlora.adapters.exchange import LocalPlan
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.records import Observer
    from fedmedlora.models.lora import LoRAModel


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a site trains. `batch_tokens` counts padding; losses are means over an optimiser step."""

    learning_rate: float
    epochs: float
    batch_tokens: int
    warmup_fraction: float = 0.05
    max_gradient_norm: float = 1.0


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
    loss_sum, num_targets, num_tokens = 0.0, 0, 0
    for step, indices in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = peak * schedule(step, len(batches), settings.warmup_fraction)
        batch = collate([examples[index] for index in indices], model.base.tokenizer.end_id)
        losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
        loss = losses.mean()
        if not math.isfinite(float(loss.detach())):
            raise FedMedLoRAError(
                f"local training: the loss is not a number at step {step + 1}. "
                'Lower training.learning_rate, or set model.dtype = "float32".'
            )
        optimiser.zero_grad(set_to_none=True)  # also of what a round that broke off left behind
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, start in zip(parameters, received, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=plan.proximal_mu)
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
        optimiser.step()
        loss_sum += float(losses.detach().sum())
        num_targets += losses.numel()
        num_tokens += batch.num_tokens
        observer.advance(batch.num_tokens, loss=float(loss.detach()))
    return LocalResult(
        model.state(),
        loss_sum / num_targets if num_targets else None,
        len(batches),
        sum(len(indices) for indices in batches),
        num_tokens,
        time.perf_counter() - started,
    )


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
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].token_ids))
    found: list[tuple[float, int]] = [(0.0, 0)] * len(examples)
    pad_id = model.base.tokenizer.end_id
    start = 0
    with torch.inference_mode():
        while start < len(order):
            stop = start + 1
            while (
                stop < len(order)
                and len(examples[order[stop]].token_ids) * (stop + 1 - start) <= batch_tokens
            ):
                stop += 1
            chosen = order[start:stop]
            batch = collate([examples[index] for index in chosen], pad_id)
            targets = batch.targets
            if reading == "sequence":
                targets = torch.zeros_like(targets)
                for row, index in enumerate(chosen):
                    targets[row, 1 : len(examples[index].token_ids)] = True
            losses = token_losses(model.backbone, model.base.output_weight, batch, targets)
            counts = targets.sum(dim=1).tolist()
            for index, part in zip(chosen, torch.split(losses, counts), strict=True):
                found[index] = (float(part.double().sum()), part.numel())
            start = stop
    return found
