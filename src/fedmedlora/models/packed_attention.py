"""Rows that hold many sequences behind a prefix which they share, and the attention over them.

A row is one or several segments: a prefix, then the sequences that continue it, one behind the
other without padding. The positions of each sequence continue its prefix, and each of its tokens
sees the prefix and what stands before it in its own sequence, so that the network computes what it
would compute for prefix and sequence alone, but the prefix once.

It works with every model of transformers that asks the attention registry for its attention; a
trial tells whether one does. The plain operations here run on all devices; on GPUs FlexAttention
can take their place (`attention_choice`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import ModelError
from fedmedlora.models.flex_attention import attend, block_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.nn.attention.flex_attention import BlockMask

_NAME = "fedmedlora_shared_prefix"
_FLEX_NAME = "fedmedlora_shared_prefix_flex"
# Sequences are attended together, padded, down to this share of the longest one's length.
_SIMILAR = 0.7
# Groups have few widths, as oneDNN keeps memory for every new shape of a product (`kernels`).
_WHOLE_WIDTH = 32
# What a model may ask of its attention that is not done here.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux")
# Rounding errors of bfloat16 are a tenth of it; a token that sees too much or too little, far more.
_MAX_TRIAL_ERROR = 0.1


@dataclass(frozen=True, slots=True)
class Segment:
    """A prefix of this length, which may be 0, and the lengths of the sequences behind it."""

    prefix_length: int
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of one segment that are attended together, padded to one width.

    Attributes:
        size: How many.
        width: Queries of each.
        prefix: The positions in the row that all see.
        take: Position in the row of every query, `(size * width,)`; padding repeats the sequence's
            last token.
        padding: The queries that are padding.
        see: Position in the row of every key, `(size * (prefix + width),)`.
        future: Minus infinity at the own keys that a query must not see, `(width, width)`.
    """

    size: int
    width: int
    prefix: slice
    take: torch.Tensor
    padding: torch.Tensor
    see: torch.Tensor
    future: torch.Tensor

    @property
    def num_shared(self) -> int:
        """Keys that all sequences see."""
        return int(self.prefix.stop - self.prefix.start)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the sequences of a row stand; the same for all layers.

    Attributes:
        position_ids: `(1, tokens)`; each sequence's continue those of its prefix.
        predecessors: Where the token stands that comes before each, `(1, tokens)`: for the first
            of a sequence the last of its prefix. A token without one has its own place.
        groups: For the attention.
        places: Where each token of the row stands among the queries of all groups, `(tokens,)`.
        seen_layers: The layers that have asked for this attention so far.
    """

    position_ids: torch.Tensor
    predecessors: torch.Tensor
    groups: tuple[_Group, ...]
    places: torch.Tensor
    seen_layers: set[int] = field(default_factory=set)


def lay_out(segments: Sequence[Segment], device: torch.device | str = "cpu") -> RowLayout:
    """The layout of a row that holds these segments one behind the other."""
    positions: list[torch.Tensor] = []
    predecessors: list[torch.Tensor] = []
    groups: list[_Group] = []
    start = 0
    for segment in segments:
        prefix = slice(start, start + segment.prefix_length)
        if segment.prefix_length:
            groups.append(_group([(start, segment.prefix_length)], slice(start, start), device))
            positions.append(torch.arange(segment.prefix_length))
            predecessors.append((torch.arange(prefix.start, prefix.stop) - 1).clamp(min=start))
        start = prefix.stop
        sequences = []
        for length in segment.lengths:
            sequences.append((start, length))
            positions.append(torch.arange(length) + segment.prefix_length)
            before = torch.arange(start, start + length) - 1
            before[0] = prefix.stop - 1 if segment.prefix_length else start
            predecessors.append(before)
            start += length
        groups += [_group(some, prefix, device) for some in _similar(sequences)]
    places, offset = torch.empty(start, dtype=torch.long, device=device), 0
    for group in groups:
        is_token = torch.ones_like(group.take, dtype=torch.bool).index_fill_(
            0, group.padding, False
        )
        places[group.take[is_token]] = is_token.nonzero().squeeze(1) + offset
        offset += len(group.take)
    return RowLayout(
        torch.cat(positions)[None].to(device),
        torch.cat(predecessors)[None].to(device),
        tuple(groups),
        places,
    )


def _similar(sequences: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The sequences, each a start and a length, parted into some of similar length."""
    found: list[list[tuple[int, int]]] = []
    for start, length in sorted(sequences, key=lambda sequence: (-sequence[1], sequence[0])):
        if not found or length < _SIMILAR * found[-1][0][1]:
            found.append([])
        found[-1].append((start, length))
    return found


def _group(sequences: list[tuple[int, int]], prefix: slice, device: torch.device | str) -> _Group:
    starts = torch.tensor([start for start, _ in sequences])[:, None]
    lengths = torch.tensor([length for _, length in sequences])[:, None]
    width = -(-int(lengths.max()) // _WHOLE_WIDTH) * _WHOLE_WIDTH
    step = torch.arange(width)[None]
    own = starts + step.minimum(lengths - 1)
    shared = torch.arange(prefix.start, prefix.stop).expand(len(sequences), -1)
    return _Group(
        len(sequences),
        width,
        prefix,
        own.reshape(-1).to(device),
        (step >= lengths).reshape(-1).nonzero().squeeze(1).to(device),
        torch.cat([shared, own], dim=1).reshape(-1).to(device),
        torch.zeros(width, width).masked_fill_(step > step.T, -math.inf).to(device),
    )


def allow_packed_rows(backbone: Any, *, flex: bool = False) -> bool:
    """Whether the network can read packed rows from now on; if not, it stays as it was.

    Everything else that is asked of it, it still does as before. It is tried on a few tokens: every
    layer must use this attention, and a packed sequence must get the hidden states that it gets
    alone, whatever stands beside it.

    Args:
        backbone: The network. One that reads packed rows already keeps its way.
        flex: By FlexAttention; also if it reads them in the plain way so far.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    config = backbone.config
    before = config._attn_implementation
    if before == _FLEX_NAME or (before == _NAME and not flex):
        return True
    if before not in ("sdpa", _NAME):
        return False
    name = _FLEX_NAME if flex else _NAME
    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    config._attn_implementation = name
    works = False
    try:
        works = _reads_packed_rows(backbone)
    except (RuntimeError, TypeError, ValueError):
        pass  # it asks for more than is done here, or stumbles over what it does not know
    finally:
        if not works:
            config._attn_implementation = before
    return works


def allow_untried(backbone: Any) -> None:
    """Let a network without numbers read packed rows the plain way, as one like it has passed."""
    backbone.config._attn_implementation = _NAME


def _reads_packed_rows(backbone: Any) -> bool:
    embeddings = backbone.get_input_embeddings()
    device = embeddings.weight.device
    ids = torch.linspace(0, embeddings.num_embeddings - 1, 14, device=device).long()[None]
    layout = lay_out([Segment(3, (4, 7))], device)
    with torch.inference_mode():
        packed = read_packed(backbone, ids, layout)[7:]
        other_company = torch.cat([ids[:, :3], ids[:, 3:7].flip(1), ids[:, 7:]], dim=1)
        again = read_packed(backbone, other_company, layout)[7:]
        alone = torch.cat([ids[:, :3], ids[:, 7:]], dim=1)
        expected = backbone(input_ids=alone, use_cache=False).last_hidden_state[0, 3:].float()
    errors = (packed.float() - expected).norm(dim=1) / expected.norm(dim=1)
    # The median: a single token may be far off with nothing but rounding to blame.
    return torch.equal(packed, again) and float(errors.median()) <= _MAX_TRIAL_ERROR


def read_packed(backbone: Any, token_ids: torch.Tensor, layout: RowLayout) -> torch.Tensor:
    """The hidden states of a packed row, `(tokens, hidden)`.

    Args:
        backbone: A network that `allow_packed_rows` has said yes to.
        token_ids: `(1, tokens)`.
        layout: Of the row.

    Raises:
        ModelError: The network does not read packed rows.
    """
    name = backbone.config._attn_implementation
    if name not in (_NAME, _FLEX_NAME):
        raise ModelError("packed rows: this model does not read them. Use padded batches.")
    output = backbone(
        input_ids=token_ids,
        position_ids=layout.position_ids,
        # A mask with four dimensions is passed on as it is: none is made, none is looked at.
        attention_mask=torch.empty(1, 1, 0, 0, device=token_ids.device),
        use_cache=False,
        packed_row=layout,
        packed_mask=block_mask(layout) if name == _FLEX_NAME else None,
    )
    if len(layout.seen_layers) != backbone.config.num_hidden_layers:
        raise ModelError(
            "packed rows: the attention of this model cannot be replaced; expected "
            f"{backbone.config.num_hidden_layers} layers to ask for it, got "
            f"{len(layout.seen_layers)}. Use padded batches."
        )
    states: torch.Tensor = output.last_hidden_state[0]
    return states


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    packed_row: RowLayout | None = None,
    packed_mask: BlockMask | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The registry's signature: `query` is `(1, heads, tokens, width)`, keys have fewer heads."""
    if packed_row is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return result
    asked = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if asked:
        raise ModelError(f"packed rows: the attention asks for {', '.join(asked)}; not supported.")
    packed_row.seen_layers.add(module.layer_idx)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if packed_mask is not None:
        return attend(query, key, value, packed_mask, scale), None
    return attend_in_groups(query, key, value, packed_row, scale), None


def attend_in_groups(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: RowLayout, scale: float
) -> torch.Tensor:
    """`(1, tokens, heads, width)` from `(1, heads, tokens, width)`; keys may have fewer heads."""
    apply: Any = _SharedPrefixAttention.apply
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    found: torch.Tensor = apply(*rows, row, scale)[None]
    return found


class _SharedPrefixAttention(torch.autograd.Function):
    """Attention of `(tokens, heads, width)`, group by group.

    Fused kernels are slow at short sequences of uneven length on a CPU, their backward most of all;
    products over padded groups are not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        row: RowLayout,
        scale: float,
    ) -> torch.Tensor:
        query = query * scale
        found, kept = [], []
        for group in row.groups:
            asking = _fold(query, group, key.shape[1])
            weights = _weights(asking, _keys(key, group), group)
            found.append(_unfold(torch.bmm(weights, _keys(value, group)), group, query.shape[1]))
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.row, ctx.scale = row, scale
        return torch.cat(found).index_select(0, row.places)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        row, num_heads, num_key_heads = ctx.row, query.shape[1], key.shape[1]
        d_queries, d_keys, d_values = [], [], []
        for group, weights in zip(row.groups, kept, strict=True):
            d_found = _fold(outgoing[0], group, num_key_heads, padding=0)
            d_values.append(torch.bmm(weights.transpose(1, 2), d_found))
            d_weights = torch.bmm(d_found, _keys(value, group).transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_queries.append(_unfold(torch.bmm(d_scores, _keys(key, group)), group, num_heads))
            asking = _fold(query, group, num_key_heads)
            d_keys.append(torch.bmm(d_scores.transpose(1, 2), asking))
        d_query = torch.cat(d_queries).index_select(0, row.places) * ctx.scale
        d_key, d_value = (_sum_of_keys(x, row, num_key_heads) for x in (d_keys, d_values))
        return d_query, d_key, d_value, None, None


def _weights(asking: torch.Tensor, keys: torch.Tensor, group: _Group) -> torch.Tensor:
    """`(size * key heads, queries, keys)`, summing to 1 over the keys."""
    scores = torch.bmm(asking, keys.transpose(1, 2))
    own = scores.view(len(scores), -1, group.width, scores.shape[-1])[..., group.num_shared :]
    own += group.future.to(own.dtype)
    return torch.softmax(scores, dim=-1)


def _fold(
    states: torch.Tensor, group: _Group, num_key_heads: int, padding: float | None = None
) -> torch.Tensor:
    """`(size * key heads, heads that share one * width, -)`.

    Heads that share their keys stand side by side as further queries; no key is repeated.
    """
    chosen = states.index_select(0, group.take)
    if padding is not None:
        chosen.index_fill_(0, group.padding, padding)
    parted = chosen.view(group.size, group.width, num_key_heads, -1, states.shape[-1])
    folded = parted.permute(0, 2, 3, 1, 4)
    return folded.reshape(group.size * num_key_heads, -1, states.shape[-1])


def _unfold(folded: torch.Tensor, group: _Group, num_heads: int) -> torch.Tensor:
    """The way back of `_fold`: `(size * width, heads, -)`."""
    parted = folded.view(group.size, num_heads, group.width, folded.shape[-1])
    return parted.transpose(1, 2).reshape(-1, num_heads, folded.shape[-1])


def _keys(states: torch.Tensor, group: _Group) -> torch.Tensor:
    """`(size * key heads, keys, -)`."""
    num_heads, width = states.shape[1:]
    chosen = states.index_select(0, group.see).view(group.size, -1, num_heads, width)
    return chosen.transpose(1, 2).reshape(group.size * num_heads, -1, width)


def _sum_of_keys(gradients: list[torch.Tensor], row: RowLayout, num_key_heads: int) -> torch.Tensor:
    """The gradient of the row's keys from those of what `_keys` gave: `(tokens, key heads, -)`."""
    own, shared = [], []
    for group, gradient in zip(row.groups, gradients, strict=True):
        parted = gradient.view(group.size, num_key_heads, -1, gradient.shape[-1])
        own.append(_unfold(parted[:, :, group.num_shared :].flatten(0, 1), group, num_key_heads))
        # One sum in float32 however many sequences there are.
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        shared.append(parted[:, :, : group.num_shared].sum(0, dtype=dtype).transpose(0, 1))
    total = torch.cat(own).index_select(0, row.places)
    for group, part in zip(row.groups, shared, strict=True):
        total[group.prefix] += part.to(total.dtype)
    return total
