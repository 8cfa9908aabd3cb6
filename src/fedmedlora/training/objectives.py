"""The training loss: cross-entropy on the answer's tokens, and on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from fedmedlora.models.kernels import whole_rows
from fedmedlora.models.packed_attention import read_packed
from fedmedlora.training.packed import PackedBatch

if TYPE_CHECKING:
    from fedmedlora.training.batches import Batch

# Positions whose logits exist at one time: 128 x 49,152 float32 values are 25 MB.
CHUNK_POSITIONS = 128


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy by position, whose logits never exist all at once.

    The output layer is frozen, so the only gradient is that of the hidden states; it is computed
    with the loss, chunk by chunk, and scaled on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        num_targets = len(targets)
        hidden, targets = _in_whole_rows(hidden, targets)
        losses = torch.empty(len(targets), dtype=exact, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), CHUNK_POSITIONS):
            chunk = slice(start, start + CHUNK_POSITIONS)
            wanted = targets[chunk, None]
            logits = functional.linear(hidden[chunk], weight).to(exact)
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[chunk] = (normaliser - logits.gather(1, wanted)).squeeze(1)
            # softmax minus one at the target
            probabilities = logits.sub_(normaliser).exp_()
            rows = torch.arange(len(wanted), device=hidden.device)
            probabilities[rows, targets[chunk]] -= 1
            gradient[chunk] = probabilities.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient[:num_targets])
        return losses[:num_targets]

    @staticmethod
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outgoing[0][:, None].to(gradient.dtype), None, None


def _in_whole_rows(
    hidden: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with some more rows, so that products of the last chunk have few shapes."""
    filling = whole_rows(len(targets)) - len(targets)
    return functional.pad(hidden, (0, 0, 0, filling)), functional.pad(targets, (0, filling))


def predicting_states(
    backbone: Any, batch: Batch | PackedBatch, targets: torch.Tensor
) -> torch.Tensor:
    """The hidden state that predicts each target token, `(targets, hidden)`, in row order.

    For arguments and errors see `token_losses`.
    """
    if isinstance(batch, PackedBatch):
        states = read_packed(backbone, batch.token_ids, batch.layout)
        return states.index_select(0, batch.layout.predecessors[targets])
    hidden: torch.Tensor = backbone(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][targets[:, 1:]]


def token_losses(
    backbone: Any,
    output_weight: torch.Tensor,
    batch: Batch | PackedBatch,
    targets: torch.Tensor,
) -> torch.Tensor:
    """The loss of every target token, float32 (float64 of a float64 model), in row order.

    The output layer, a fifth of a small model's work, runs only at the positions that predict a
    target.

    Args:
        backbone: The network without its output layer.
        output_weight: `(vocabulary, hidden)`, frozen.
        batch: Padded or packed; packed only if `allow_packed_rows` has said yes to the network.
        targets: Which positions count, bool, as `batch.targets`; a first one must not.

    Raises:
        ModelError: The network cannot read packed rows.
    """
    predicting = predicting_states(backbone, batch, targets)
    wanted = batch.token_ids[targets]
    if torch.is_grad_enabled():
        apply: Any = _ChunkedLoss.apply
        losses: torch.Tensor = apply(predicting, output_weight, wanted)
        return losses
    exact = torch.promote_types(predicting.dtype, torch.float32)
    num_targets = len(wanted)
    predicting, wanted = _in_whole_rows(predicting, wanted)
    parts = [
        functional.cross_entropy(
            functional.linear(predicting[at : at + CHUNK_POSITIONS], output_weight).to(exact),
            wanted[at : at + CHUNK_POSITIONS],
            reduction="none",
        )
        for at in range(0, len(wanted), CHUNK_POSITIONS)
    ]
    return torch.cat([*parts, predicting.new_empty(0, dtype=exact)])[:num_targets]
