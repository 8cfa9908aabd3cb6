"""A language model that reads many rows of different length in one pass, without padding.

All rows share an instruction, whose keys and values are computed once. A pass feeds any number of
tokens to any of the rows, packed one behind the other, so that every product of the network works
on real tokens only. Each row keeps its own keys and values at fixed places: what a row is fed at a
position replaces what was there, so that taking back a wrong guess costs nothing.

It works with every model of transformers that asks the attention registry for its attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import InferenceError
from fedmedlora.models.lora import same_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.models.load import BaseModel

_NAME = "fedmedlora_packed"
# Rows that are fed more than this are attended apart from those that are fed less.
_FEW_TOKENS = 16
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
    """Rows that are attended together: `rows` of them, `width` queries each with their padding."""

    rows: torch.Tensor
    take: torch.Tensor
    put: torch.Tensor
    bias: torch.Tensor


@dataclass(slots=True)
class _Pass:
    """Where the tokens of one pass belong; the same for all layers."""

    write_at: torch.Tensor
    groups: list[_Group]
    length: int


@dataclass(slots=True)
class _Layer:
    """One layer's keys and values: `(1, heads, P, width)` and `(rows, length, heads, width)`."""

    prefix_key: torch.Tensor
    prefix_value: torch.Tensor
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
        InferenceError: The model's attention cannot be replaced (`start` finds out).
    """

    def __init__(self, base: BaseModel) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attention)
        model = same_weights(base.model)
        model.config._attn_implementation = _NAME
        self._backbone: Any = model.base_model
        self._output_weight = base.output_weight
        self._num_layers: int = model.config.num_hidden_layers
        self._name = base.name
        self._cache = _Cache()
        self._prefix_length = 0

    def start(self, instruction: Sequence[int], num_rows: int, length: int) -> None:
        """Compute the instruction and make room for rows of about this length; forgets all rows.

        Raises:
            InferenceError: The model's attention cannot be replaced.
        """
        self._cache = _Cache(num_rows=num_rows, length=length)
        self._prefix_length = len(instruction)
        ids = torch.tensor([list(instruction)])
        with torch.inference_mode():
            self._run(ids, torch.arange(len(instruction))[None], None)
        if len(self._cache.layers) != self._num_layers:
            raise InferenceError(
                f"{self._name}: the attention of this model cannot be replaced; expected "
                f"{self._num_layers} layers, got {len(self._cache.layers)}. Use the step decoder."
            )

    def feed(self, feeds: Sequence[Feed]) -> torch.Tensor:
        """The hidden state behind every token, `(tokens of all feeds, hidden)`, in order."""
        cache = self._cache
        needed = max(feed.start + len(feed.tokens) for feed in feeds)
        if needed > cache.length:
            _grow(cache, max(needed, 2 * cache.length))
        starts = [feed.start for feed in feeds]
        counts = [len(feed.tokens) for feed in feeds]
        offsets = [0]
        for count in counts:
            offsets.append(offsets[-1] + count)
        slots = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, counts, strict=True)])
        rows = torch.tensor([feed.row for feed in feeds])
        owners = rows.repeat_interleave(torch.tensor(counts))
        few = [i for i, count in enumerate(counts) if count <= _FEW_TOKENS]
        many = [i for i, count in enumerate(counts) if count > _FEW_TOKENS]
        weight_type = self._output_weight.dtype
        current = _Pass(
            write_at=owners * cache.length + slots,
            groups=[
                _group(feeds, chosen, offsets, weight_type) for chosen in (few, many) if chosen
            ],
            length=needed,
        )
        ids = torch.tensor([[token for feed in feeds for token in feed.tokens]])
        return self._run(ids, slots[None] + self._prefix_length, current)

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


def _group(
    feeds: Sequence[Feed], chosen: Sequence[int], offsets: Sequence[int], dtype: torch.dtype
) -> _Group:
    width = max(len(feeds[i].tokens) for i in chosen)
    length = max(feeds[i].start + len(feeds[i].tokens) for i in chosen)
    first = torch.tensor([offsets[i] for i in chosen])[:, None]
    count = torch.tensor([len(feeds[i].tokens) for i in chosen])[:, None]
    start = torch.tensor([feeds[i].start for i in chosen])[:, None]
    step = torch.arange(width)[None].minimum(count - 1)  # padding repeats the last token
    visible = torch.arange(length) <= (start + step)[..., None]
    bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -math.inf)
    real = torch.arange(width) < count
    return _Group(
        rows=torch.tensor([feeds[i].row for i in chosen]),
        take=(first + step).reshape(-1),
        put=torch.nonzero(real.reshape(-1)).squeeze(1),
        bias=bias[:, None],
    )


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
    heads, shared = query.shape[1], query.shape[1] // key.shape[1]
    if packed_pass is None:
        rows, room = packed_cache.num_rows, packed_cache.length
        packed_cache.layers[module.layer_idx] = _Layer(
            key,
            value,
            key.new_zeros(rows, room, key.shape[1], key.shape[3]),
            value.new_zeros(rows, room, value.shape[1], value.shape[3]),
        )
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(shared, 1),
            value.repeat_interleave(shared, 1),
            is_causal=True,
            scale=scale,
        )
        return out.transpose(1, 2), None

    layer = packed_cache.layers[module.layer_idx]
    for kept, new in ((layer.key, key), (layer.value, value)):
        kept.view(-1, *kept.shape[2:]).index_copy_(0, packed_pass.write_at, new[0].transpose(0, 1))
    # Heads that share their keys stand side by side as further queries: (tokens, heads, width) ->
    # (key heads, sharing * tokens, width); no key is ever repeated.
    flat = query[0].transpose(0, 1)
    num_tokens = flat.shape[0]
    folded = query.reshape(1, heads // shared, shared * num_tokens, -1)
    whole, whole_lse = _attend(folded, layer.prefix_key, layer.prefix_value, None, scale)
    out = whole.reshape(heads, num_tokens, -1).transpose(0, 1)
    out_lse = whole_lse.reshape(heads, num_tokens).transpose(0, 1)
    own, own_lse = torch.empty_like(out), torch.empty_like(out_lse)
    for group in packed_pass.groups:
        count, length = len(group.rows), group.bias.shape[-1]
        width = len(group.take) // count
        asking = flat[group.take].view(count, width, heads // shared, shared, -1)
        asking = asking.permute(0, 2, 3, 1, 4).reshape(count, heads // shared, shared * width, -1)
        part, part_lse = _attend(
            asking,
            layer.key[group.rows, :length].transpose(1, 2),
            layer.value[group.rows, :length].transpose(1, 2),
            group.bias.repeat(1, 1, shared, 1),
            scale,
        )
        part = (
            part.reshape(count, heads, width, -1).transpose(1, 2).reshape(count * width, heads, -1)
        )
        part_lse = (
            part_lse.reshape(count, heads, width).transpose(1, 2).reshape(count * width, heads)
        )
        target = group.take[group.put]
        own[target] = part[group.put]
        own_lse[target] = part_lse[group.put]
    share = torch.sigmoid(own_lse - out_lse).unsqueeze(-1).to(out.dtype)
    return torch.lerp(out, own, share).unsqueeze(0), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, and the logarithm of its normaliser by query, so that parts can be merged."""
    if query.device.type == "cpu":
        kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        found: tuple[torch.Tensor, torch.Tensor] = kernel(
            query, key, value, attn_mask=bias, scale=scale
        )
        return found
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    normaliser = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - normaliser[..., None]).to(value.dtype)
    return weights @ value, normaliser
