"""The attention over packed rows by torch's FlexAttention: one fused kernel, scores never stored.

For GPUs, where it is compiled. Elsewhere torch computes it step by step, as slowly as it can, and
on a CPU without a gradient: good enough to test the mask.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from fedmedlora.models.packed_attention import RowLayout


def block_mask(row: RowLayout) -> BlockMask:
    """Which tokens of the row see which; the same for all layers.

    Raises:
        ImportError: This torch has no FlexAttention.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    positions, predecessors = row.position_ids[0], row.predecessors[0]
    places = torch.arange(len(positions), device=positions.device)
    # Where a token does not continue the one beside it, a sequence starts (or a prefix, which its
    # first sequence continues). It sees as many tokens before it as its position says.
    starts = torch.where(predecessors == places - 1, 0, places).cummax(0).values
    prefix_stops = predecessors[starts] + 1
    prefix_starts = prefix_stops - positions[starts]

    def sees(
        _batch: torch.Tensor, _head: torch.Tensor, asking: torch.Tensor, asked: torch.Tensor
    ) -> torch.Tensor:
        own = (starts[asking] <= asked) & (asked <= asking)
        return own | ((prefix_starts[asking] <= asked) & (asked < prefix_stops[asking]))

    size = len(positions)
    return create_block_mask(sees, None, None, size, size, device=positions.device)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scale: float
) -> torch.Tensor:
    """`(1, tokens, heads, width)` from `(1, heads, tokens, width)`; keys may have fewer heads."""
    found: torch.Tensor = _function(query.device.type)(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=True
    )
    return found.transpose(1, 2)


@cache
def _function(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Compiled for the first length of a row, then once more for all others.
    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention
