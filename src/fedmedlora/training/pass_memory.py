"""What training holds in memory at its peak, found with a ghost of the model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.errors import ModelError
from fedmedlora.models.kernels import whole_rows
from fedmedlora.models.live_bytes import LiveBytes, ghost
from fedmedlora.models.lora import LoRAModel
from fedmedlora.models.packed_attention import allow_packed_rows, allow_untried
from fedmedlora.training.batches import EncodedExample, cut_rows, plan_batches
from fedmedlora.training.checkpointing import recomputed_layers
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.training.local import LocalSettings

# Of so many steps, those with the most tokens, the passes are looked at.
_LARGEST_STEPS = 4


@dataclass(frozen=True, slots=True)
class PassMemory:
    """What one pass takes beside the weights.

    Attributes:
        live_bytes: Of the tensors that exist together at its peak, the adapter's slopes included.
        largest_bytes: Of the largest of them that comes from the heap.
        num_products: Matrix products of different shape in it.
    """

    live_bytes: int = 0
    largest_bytes: int = 0
    num_products: int = 0

    @classmethod
    def of(cls, counted: LiveBytes) -> PassMemory:
        """What was counted."""
        return cls(counted.peak, counted.largest, len(counted.products))


class PassMeter:
    """Measures passes of a network without computing them.

    Args:
        model: The real one; stays as it is.
        rank: Of the adapter, if it is not the model's own.

    Raises:
        ModelError: The network does not read packed rows. What torch's attention keeps of padded
            ones is not known without numbers.
    """

    def __init__(self, model: LoRAModel, rank: int | None = None) -> None:
        if not allow_packed_rows(model.backbone):
            raise ModelError(
                f"{model.base.name}: the memory of padded batches cannot be told before; expected "
                "a model that reads packed rows. Watch the memory in the first minutes."
            )
        spec = model.spec if rank is None else replace(model.spec, rank=rank)
        self._model = LoRAModel(ghost(model.base), spec)
        self._model.parameters(frozenset("AB"))
        allow_untried(self._model.backbone)

    def largest_pass(
        self, examples: Sequence[EncodedExample], settings: LocalSettings, seeds: Iterable[int]
    ) -> list[EncodedExample]:
        """The examples of the longest pass of training on these in the orders of these seeds."""
        steps: list[list[EncodedExample]] = []
        for seed in seeds:
            address = (seed, "batches", 0)
            batches = plan_batches(examples, batch_tokens=settings.batch_tokens, address=address)
            steps += [[examples[index] for index in batch] for batch in batches]
        steps.sort(key=lambda step: -sum(example.num_own_tokens for example in step))
        return self._longest(steps[:_LARGEST_STEPS], settings.micro_batch_tokens)

    def lengths(
        self, examples: Sequence[EncodedExample], settings: LocalSettings, seed: int
    ) -> set[int]:
        """About how many tokens passes have, each number once."""
        address = (seed, "batches", 0)
        batches = plan_batches(examples, batch_tokens=settings.batch_tokens, address=address)
        steps = [sum(examples[index].num_own_tokens for index in batch) for batch in batches]
        most = settings.micro_batch_tokens or max(steps)
        return {whole_rows(min(most, step)) for step in steps}

    def num_tokens(self, examples: Sequence[EncodedExample]) -> int:
        """That a pass with these examples reads."""
        return pack(examples).token_ids.numel()

    def largest_reading(
        self, examples: Sequence[EncodedExample], batch_tokens: int
    ) -> list[EncodedExample]:
        """The examples of the longest pass that reads these in passes of so many tokens."""
        return self._longest([examples], batch_tokens) if examples else []

    def _longest(
        self, steps: Sequence[Sequence[EncodedExample]], max_tokens: int | None
    ) -> list[EncodedExample]:
        passes = [
            [step[index] for index in row]
            for step in steps
            for row in cut_rows(step, max_tokens=max_tokens, packed=True)
        ]
        return max(passes, key=lambda some: sum(example.num_own_tokens for example in some))

    def training(self, examples: Sequence[EncodedExample], *, recompute: bool) -> PassMemory:
        """Of a pass forward and back."""
        batch, model, counted = pack(examples), self._model, LiveBytes()
        with counted, recomputed_layers(model.backbone) if recompute else nullcontext():
            losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        for parameter in model.network.parameters():
            parameter.grad = None
        return PassMemory.of(counted)

    def reading(self, examples: Sequence[EncodedExample]) -> PassMemory:
        """Of a pass that only judges."""
        if not examples:
            return PassMemory()
        batch, model, counted = pack(examples), self._model, LiveBytes()
        with torch.inference_mode(), counted:
            token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
        return PassMemory.of(counted)
