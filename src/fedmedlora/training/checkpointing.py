"""Layers whose activations are not kept but computed again: time for memory."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from fedmedlora.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def recomputed_layers(backbone: Any) -> Iterator[None]:
    """Within it, the network keeps only the input of each layer until its gradient is asked for.

    Raises:
        ModelError: The network has no layers that can be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [part for part in backbone.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            "local training: the layers of this model cannot be computed again. "
            "Turn recompute_layers off and lower micro_batch_tokens instead."
        )
    # The switch of transformers works in training mode only, which would turn dropout on.
    for layer in layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
