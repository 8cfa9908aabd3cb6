"""Which way the attention over packed rows is computed here, by trial."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from fedmedlora.core.errors import ModelError, cause
from fedmedlora.models.flex_attention import attend, block_mask
from fedmedlora.models.packed_attention import (
    Segment,
    allow_packed_rows,
    attend_in_groups,
    lay_out,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Attention: TypeAlias = Literal["plain", "flex"]

# Where FlexAttention is compiled, with a gradient.
_DEVICES = ("cuda",)
# Of what packed rows may differ from sequences alone, relative to the norm.
_MAX_ERRORS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
# Blocks of all kinds: seen by all, by some, by none. Another length, then a short one: torch makes
# further kernels for these.
_TRIALS = (
    (Segment(300, (40, 7, 200)), Segment(0, (33,)), Segment(2, (1, 20))),
    (Segment(5, (70, 12)), Segment(0, (130,))),
    (Segment(3, (4, 7)), Segment(0, (2,))),
)


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The chosen way, why, and the largest error of the trial if there was one."""

    name: Attention
    reason: str
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `environment.json`."""
        return asdict(self)


def choose_attention(
    backbone: Any, wanted: Literal["auto", "plain", "flex"] = "auto"
) -> AttentionChoice:
    """How this network computes the attention over packed rows from now on. Changes the network.

    Args:
        backbone: A network on its device.
        wanted: `auto`: by FlexAttention on a GPU on which it agrees with the plain way.

    Raises:
        ModelError: `flex` is wanted, but the trial says no.
    """
    if wanted == "plain":
        return AttentionChoice("plain", "as set")
    choice = _tried(backbone)
    if wanted == "flex" and choice.name != "flex":
        raise ModelError(
            f'model.attention = "flex": {choice.reason}. Set model.attention = "auto" or "plain".'
        )
    return choice


def _tried(backbone: Any) -> AttentionChoice:
    """What a trial with this network's heads on its device says."""
    weight, config = backbone.get_input_embeddings().weight, backbone.config
    if weight.device.type not in _DEVICES:
        return AttentionChoice("plain", "FlexAttention is for GPUs")
    if (allowed := _MAX_ERRORS.get(weight.dtype)) is None:
        return AttentionChoice("plain", f"FlexAttention is not tried in {weight.dtype}")
    num_heads = config.num_attention_heads
    heads = num_heads, getattr(config, "num_key_value_heads", None) or num_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    error = None
    try:
        error = flex_error(heads, width, weight.dtype, weight.device)
        if not error <= allowed:  # not a number, too
            reason = f"FlexAttention is off by {error:.1e}; at most {allowed:.0e} is exact enough"
            return AttentionChoice("plain", reason, error)
        if not allow_packed_rows(backbone, flex=True):
            return AttentionChoice("plain", "this model does not work with FlexAttention", error)
    except (
        Exception
    ) as problem:  # torch, triton and the C compiler raise whatever they stumble over
        reason = f"FlexAttention does not run here ({cause(problem, folders=False)})"
        return AttentionChoice("plain", reason, error)
    reason = f"FlexAttention is off by {error:.1e}; {allowed:.0e} is exact enough"
    return AttentionChoice("flex", reason, error)


def flex_error(
    heads: tuple[int, int], width: int, dtype: torch.dtype, device: torch.device | str
) -> float:
    """How far FlexAttention is from the plain way in float32 on the same drawn numbers.

    The largest, relative to the norm, of the output and the three gradients.

    Args:
        heads: Of queries and of keys.
        width: Of a head.
        dtype: That FlexAttention computes in.
        device: Where both compute.
    """
    errors = []
    for segments in _TRIALS:
        row = lay_out(segments, device)
        num_tokens, scale = row.position_ids.shape[1], width**-0.5
        generator = torch.Generator().manual_seed(0)
        *drawn, outgoing = (
            torch.randn(1, num_tokens, number, width, generator=generator).to(device, dtype)
            for number in (heads[0], heads[1], heads[1], heads[0])
        )
        plain = partial(attend_in_groups, row=row, scale=scale)
        flex = partial(attend, mask=block_mask(row), scale=scale)
        expected = _computed(plain, [x.float() for x in drawn], outgoing.float())
        errors += [
            (found.float() - exact).norm() / exact.norm()
            for found, exact in zip(_computed(flex, drawn, outgoing), expected, strict=True)
        ]
    # Python's max() would pass over what is not a number.
    return float(torch.stack(errors).max())


def _computed(
    way: Callable[..., torch.Tensor], drawn: Sequence[torch.Tensor], outgoing: torch.Tensor
) -> list[torch.Tensor]:
    """The output and the gradients of query, key and value; heads lie in memory as a model's do."""
    inputs = [x.transpose(1, 2).requires_grad_() for x in drawn]
    found = way(*inputs)
    return [found.detach(), *torch.autograd.grad(found, inputs, outgoing)]
