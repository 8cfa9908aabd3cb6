"""A language model that reads many rows of different length in one pass, without padding.

All rows begin with one instruction, which is computed once. A pass feeds any number of tokens to
any of the rows, packed one behind the other, so that every product of the network works on real
tokens only. Keys and values stand at the place of their position: what a row is fed at a position
replaces what was there, so that taking back a wrong guess costs nothing.

It works with every model of transformers that asks the attention registry for its attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import InferenceError, cause
from fedmedlora.models.kernels import nearly_whole_rows, whole_rows, writes_programs
from fedmedlora.models.lora import same_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.models.load import BaseModel

_NAME = "fedmedlora_packed"
# Rows are attended apart by how many tokens they are fed, so that little is padded.
_WIDTHS = (0, 6, 16, 1 << 30)
_MANY_ROWS = 4
# What a model may ask of its attention that is not done here.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux")


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens for one row.

    Attributes:
        row: Which row, below the model's `num_rows`.
        start: Position of the first token behind the instruction; all before it is in the cache.
        tokens: At least one.
    """

    row: int
    start: int
    tokens: Sequence[int]


@dataclass(slots=True)
class _Group:
    """Rows that are attended together, padded to as many queries.

    Attributes:
        rows: Which rows of the cache; None for the first ones in order.
        num_rows: How many.
        take: For each query, padding included, the token that asks.
        put: The queries that are no padding.
        targets: The tokens that they are.
        bias: What each query may not see, `(rows, 1, heads that share a key * queries, length)`.
    """

    rows: torch.Tensor | None
    num_rows: int
    take: torch.Tensor
    put: torch.Tensor
    targets: torch.Tensor
    bias: torch.Tensor


@dataclass(slots=True)
class _Pass:
    """Where the tokens of one pass belong; the same for all layers."""

    write_at: torch.Tensor
    groups: list[_Group]


@dataclass(slots=True)
class _Layer:
    """One layer's keys and values, `(rows, length, key heads, width)`."""

    key: torch.Tensor
    value: torch.Tensor


@dataclass
class _Cache:
    layers: dict[int, _Layer] = field(default_factory=dict)
    num_rows: int = 0
    length: int = 0


class PackedModel:
    """A base model with a cache of `num_rows` rows behind a shared instruction.

    Raises:
        InferenceError: The model has layers that do not see the whole text, or its attention cannot
            be replaced (`start` finds out).
    """

    def __init__(self, base: BaseModel) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attention)
        model = same_weights(base.model)
        model.config._attn_implementation = _NAME
        self._backbone: Any = model.base_model
        self._few_shapes = writes_programs(model)
        self._dtype, self._device = base.output_weight.dtype, base.output_weight.device
        config = model.config
        self._num_layers: int = config.num_hidden_layers
        num_key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._num_sharing: int = config.num_attention_heads // num_key_heads
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(config, "attention_chunk_size", None):
            raise InferenceError(
                f"{base.name}: has layers that do not see the whole text; packed extraction does "
                "not support them. Use the step decoder."
            )
        self._name = base.name
        self._cache = _Cache()
        self._instruction: tuple[int, ...] = ()
        self._prefix_length = 0

    def start(self, instruction: Sequence[int], num_rows: int, length: int) -> None:
        """Make rows begin with this instruction, with room for about this length; forgets them.

        The instruction is computed only if it is not the one of the call before.

        Raises:
            InferenceError: The model's attention cannot be replaced.
        """
        if tuple(instruction) == self._instruction and num_rows <= self._cache.num_rows:
            return  # what is in the rows is never read: all that a row sees was fed to it
        self._instruction = ()
        self._cache = _Cache(num_rows=num_rows, length=len(instruction) + length)
        self._prefix_length = len(instruction)
        ids = torch.tensor([list(instruction)], device=self._device)
        with torch.inference_mode():
            try:
                self._run(ids, torch.arange(len(instruction), device=self._device)[None], None)
            except TypeError as error:  # it does not hand our arguments on to its attention
                raise InferenceError(
                    f"{self._name}: the attention of this model cannot be replaced "
                    f"({cause(error)}). Use the step decoder."
                ) from error
        if len(self._cache.layers) != self._num_layers:
            raise InferenceError(
                f"{self._name}: the attention of this model cannot be replaced; expected "
                f"{self._num_layers} layers, got {len(self._cache.layers)}. Use the step decoder."
            )
        self._instruction = tuple(instruction)

    def feed(self, feeds: Sequence[Feed]) -> torch.Tensor:
        """The hidden state behind every token, `(tokens of all feeds, hidden)`, in order."""
        cache = self._cache
        starts = torch.tensor([feed.start + self._prefix_length for feed in feeds])
        counts = torch.tensor([len(feed.tokens) for feed in feeds])
        needed = int((starts + counts).max())
        if needed > cache.length:
            # Until all layers have grown, nobody may take this cache for a whole one.
            instruction, self._instruction = self._instruction, ()
            _grow(cache, max(needed, 2 * cache.length))
            self._instruction = instruction
        firsts = counts.cumsum(0) - counts
        owners = torch.arange(len(feeds)).repeat_interleave(counts)
        positions = torch.arange(len(owners)) - firsts[owners] + starts[owners]
        rows = torch.tensor([feed.row for feed in feeds])
        alike = [(low < counts) & (counts <= high) for low, high in pairwise(_WIDTHS)]
        current = _Pass(
            write_at=(rows[owners] * cache.length + positions).to(self._device),
            groups=[
                self._group(rows[some], firsts[some], starts[some], counts[some])
                for some in alike
                if bool(some.any())
            ],
        )
        tokens = [token for feed in feeds for token in feed.tokens]
        # What stands behind the tokens is fed to no row and seen by none.
        filling = nearly_whole_rows(len(tokens)) - len(tokens) if self._few_shapes else 0
        ids = torch.tensor([tokens + tokens[:1] * filling])
        positions = torch.nn.functional.pad(positions, (0, filling))
        states = self._run(ids.to(self._device), positions[None].to(self._device), current)
        return states[: len(tokens)]

    def _group(
        self, rows: torch.Tensor, firsts: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor
    ) -> _Group:
        width, length = int(counts.max()), int((starts + counts).max())
        if self._few_shapes:  # keys behind a row's own are masked
            length = min(whole_rows(length), self._cache.length)
        # Padding repeats the last token.
        step = torch.arange(width)[None].minimum(counts[:, None] - 1)
        hidden = torch.arange(length) > (starts[:, None] + step)[..., None]
        bias = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, -math.inf)
        take = (firsts[:, None] + step).reshape(-1)
        put = torch.nonzero((torch.arange(width) < counts[:, None]).reshape(-1)).squeeze(1)
        in_order = torch.equal(rows, torch.arange(len(rows)))
        return _Group(
            rows=None if in_order else rows.to(self._device),
            num_rows=len(rows),
            take=take.to(self._device),
            put=put.to(self._device),
            targets=take[put].to(self._device),
            bias=bias[:, None].repeat(1, 1, self._num_sharing, 1).to(self._device),
        )

    def _run(
        self, ids: torch.Tensor, positions: torch.Tensor, current: _Pass | None
    ) -> torch.Tensor:
        output = self._backbone(
            input_ids=ids,
            position_ids=positions,
            use_cache=False,
            packed_cache=self._cache,
            packed_pass=current,
        )
        states: torch.Tensor = output.last_hidden_state[0]
        return states


def _grow(cache: _Cache, length: int) -> None:
    for layer in cache.layers.values():
        for name in ("key", "value"):
            old = getattr(layer, name)
            new = old.new_zeros(old.shape[0], length, *old.shape[2:])
            new[:, : cache.length] = old
            setattr(layer, name, new)
    cache.length = length


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 (the registry's signature)
    *,
    scaling: float | None = None,
    packed_cache: _Cache,
    packed_pass: _Pass | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed rows; `query` is `(1, heads, tokens, width)`, keys have fewer heads."""
    asked = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if asked:
        raise InferenceError(
            f"attention: {', '.join(asked)} is not supported by packed extraction. "
            "Use the step decoder."
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    heads, sharing = query.shape[1], query.shape[1] // key.shape[1]
    if packed_pass is None:  # the instruction: the start of every row
        packed_cache.layers[module.layer_idx] = _Layer(
            _room(key, packed_cache), _room(value, packed_cache)
        )
        keys, values = (x.repeat_interleave(sharing, 1) for x in (key, value))
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, keys, values, is_causal=True, scale=scale).transpose(1, 2), None
    layer = packed_cache.layers[module.layer_idx]
    for kept, new in ((layer.key, key), (layer.value, value)):
        fed = new[0, :, : len(packed_pass.write_at)].transpose(0, 1)
        kept.view(-1, *kept.shape[2:]).index_copy_(0, packed_pass.write_at, fed)
    asking = query[0].transpose(0, 1)
    out = value.new_zeros(asking.shape[0], heads, value.shape[-1])
    for group in packed_pass.groups:
        count, length = group.num_rows, group.bias.shape[-1]
        width = len(group.take) // count
        # Heads that share their keys stand side by side as further queries; no key is repeated.
        folded = asking[group.take].view(count, width, heads // sharing, sharing, -1)
        folded = folded.permute(0, 2, 3, 1, 4).reshape(count, heads // sharing, sharing * width, -1)
        found = _attend(
            folded,
            _rows(layer.key, group, length).transpose(1, 2),
            _rows(layer.value, group, length).transpose(1, 2),
            group.bias,
            scale,
        )
        found = (
            found.view(count, heads, width, -1).transpose(1, 2).reshape(count * width, heads, -1)
        )
        out[group.targets] = found[group.put]
    return out.unsqueeze(0), None


def _rows(kept: torch.Tensor, group: _Group, length: int) -> torch.Tensor:
    """The first places of the group's rows; without a copy where they are the first rows."""
    if group.rows is None:
        return kept[: group.num_rows, :length]
    return kept[:, :length].index_select(0, group.rows)


def _room(states: torch.Tensor, cache: _Cache) -> torch.Tensor:
    """Room for all rows, each beginning with the instruction's keys or values."""
    _, heads, prefix, width = states.shape
    room = states.new_zeros(cache.num_rows, cache.length, heads, width)
    room[:, :prefix] = states.transpose(1, 2)
    return room


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of `(rows, heads, queries, width)`; `bias` is the same for all heads."""
    if query.device.type != "cpu" or query.shape[0] < _MANY_ROWS:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale
        )
    # Short queries of many rows: two products and a softmax take a third of the fused kernel's
    # time on a CPU.
    rows, heads, queries, width = query.shape
    flat = rows * heads, queries
    masked = bias.expand(rows, heads, queries, -1).reshape(*flat, -1)
    scores = torch.baddbmm(
        masked,
        (query * scale).view(*flat, width),
        key.reshape(rows * heads, -1, width).transpose(1, 2),
    )
    # In float32: a softmax over bfloat16 takes three times as long here.
    weights = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1)
    return torch.bmm(
        weights.to(value.dtype), value.reshape(rows * heads, -1, value.shape[-1])
    ).view(rows, heads, queries, -1)
