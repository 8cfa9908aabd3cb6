"""The same product in other factors: another rank, another scale, another split in two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.adapters.algebra import check_products
from fedmedlora.adapters.stacks import largest_components, rows_beside, stack
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.seeds import derive_seed

if TYPE_CHECKING:
    from fedmedlora.adapters.stacks import Components
    from fedmedlora.adapters.state import AdapterSpec

Gauge = Literal["scaled", "balanced"]
"""How a product is split in two. `scaled`: the rows of `A` are orthogonal and as long as those of
the adapter before, all else lies in `B`; so AdamW's steps on `B` keep their size over the rounds.
`balanced`: both factors carry the root of each singular value."""


def change_rank(
    adapter: AdapterState, rank: int, alpha: float | None = None, rslora: bool | None = None
) -> AdapterState:
    """The same product with another rank and scale, or the nearest one of a lower rank.

    Without `alpha` or `rslora` those of the adapter stay. No pair of a column of `B` and a row of
    `A` is zero on both sides, so all can be trained.

    Raises:
        AdapterMismatchError: The rank or alpha is none, or a factor is missing.
        AggregationError: A number is not finite, and the rank is to be lower.
    """
    check_products(adapter, adapter, "change of rank")
    old = adapter.spec
    spec = replace(
        old,
        rank=rank,
        alpha=old.alpha if alpha is None else alpha,
        rslora=old.rslora if rslora is None else rslora,
    )
    if rank >= old.rank:
        ratio = old.scaling / spec.scaling
        pairs = {m: _widened(pair, m, rank, ratio) for m, pair in adapter.pairs.items()}
        return AdapterState(spec, pairs)
    return _regauged(adapter, spec, "scaled")


def regauge(adapter: AdapterState, gauge: Gauge) -> AdapterState:
    """The same product, split into factors by `gauge`.

    Raises:
        AdapterMismatchError: A factor is missing.
        AggregationError: A number is not finite.
    """
    check_products(adapter, adapter, "change of gauge")
    return _regauged(adapter, adapter.spec, gauge)


def split(
    found: Components, before: torch.Tensor, module: str, spec: AdapterSpec, gauge: Gauge
) -> LoRAPair:
    """The components as a pair of `spec.rank`; beyond them `A` has rows of its own and `B` zeros.

    `before` is an `A` whose mean row length the new one takes over.
    """
    length = float(before.to(torch.float64).norm(dim=1).mean()) or 1.0
    count, num_null = len(found.sigmas), spec.rank - len(found.sigmas)
    if gauge == "scaled":
        lengths = torch.full_like(found.sigmas, length)
    else:
        lengths = (found.sigmas / spec.scaling).sqrt()
    A = found.right * lengths[:, None]
    B = found.scaled_left / (lengths * spec.scaling)
    if num_null:
        seed = derive_seed("null-directions", module, count, spec.rank)
        A = torch.cat([A, length * rows_beside(found.right, num_null, seed)])
        B = torch.cat([B, torch.zeros(len(B), num_null, dtype=B.dtype)], dim=1)
    return LoRAPair(A=A.to(spec.torch_dtype), B=B.to(spec.torch_dtype).contiguous())


def _regauged(adapter: AdapterState, spec: AdapterSpec, gauge: Gauge) -> AdapterState:
    pairs = {}
    for module, pair in adapter.pairs.items():
        left, right = stack([pair])
        found = largest_components(left * adapter.spec.scaling, right, spec.rank)
        pairs[module] = split(found, pair.A, module, spec, gauge)
    return AdapterState(spec, pairs)


def _widened(pair: LoRAPair, module: str, rank: int, ratio: float) -> LoRAPair:
    """The pair with `ratio` times its product and, beside its own, columns of zeros in `B`."""
    num_new = rank - pair.rank
    A, B = pair.A.to(torch.float64), pair.B.to(torch.float64) * ratio
    if num_new:
        length = float(A.norm(dim=1).mean()) or 1.0
        known = torch.linalg.qr(A.T).Q.T
        seed = derive_seed("null-directions", module, pair.rank, rank)
        A = torch.cat([A, length * rows_beside(known, num_new, seed)])
        B = torch.cat([B, torch.zeros(len(B), num_new, dtype=B.dtype)], dim=1)
    return LoRAPair(A=A.to(pair.A.dtype), B=B.to(pair.B.dtype))
