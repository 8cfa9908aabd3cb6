"""The slope of a loss over given examples, without a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedmedlora.models.packed_attention import allow_packed_rows
from fedmedlora.training.batches import Batch, EncodedExample, collate, cut_rows
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import PackedBatch, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.models.lora import LoRAModel


def add_gradients(
    model: LoRAModel,
    examples: Sequence[EncodedExample],
    shares: Sequence[float],
    *,
    batch_tokens: int,
) -> float:
    """The examples' summed completion losses, each times its share.

    Its slope is added to the gradients of the model's parameters that take one.

    Args:
        model: Holds the adapter.
        examples: What to read.
        shares: One an example, for each of its completion tokens.
        batch_tokens: Tokens that one pass may read, instructions and padding included.
    """
    device = model.base.output_weight.device
    packed = allow_packed_rows(model.backbone)
    total = 0.0
    order = sorted(
        range(len(examples)),
        key=lambda i: (
            examples[i].token_ids[: examples[i].num_shared_tokens],
            len(examples[i].token_ids),
        ),
    )
    alike = [examples[index] for index in order]
    for row in cut_rows(alike, max_tokens=batch_tokens, packed=packed):
        some = [alike[index] for index in row]
        batch: Batch | PackedBatch = (
            pack(some, device=device)
            if packed
            else collate(some, model.base.tokenizer.end_id, device=device)
        )
        losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
        weights = torch.empty_like(losses)
        places = batch.by_example(torch.arange(len(losses), device=losses.device))
        for place, index in zip(places, row, strict=True):
            weights[place] = shares[order[index]]
        loss = (losses * weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total
