"""Arithmetic on adapters that needs no model. Sums run in float64; nothing is changed in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.stacks import inner_products, stack
from fedmedlora.core.errors import AdapterMismatchError

if TYPE_CHECKING:
    from fedmedlora.adapters.state import AdapterState, LoRAPair


def change_norm(before: AdapterState, after: AdapterState) -> float:
    """Frobenius norm of the change of all factors that both adapters hold.

    The norm of the factors' change, not of the products'; accumulated in float64.
    """
    total = 0.0
    for (_, _, old), (_, _, new) in zip(before.tensors(), after.tensors(), strict=True):
        if new.numel() and old.numel():
            total += float((new.to(torch.float64) - old.to(torch.float64)).square().sum())
    return math.sqrt(total)


def product_norm(adapter: AdapterState) -> float:
    """Frobenius norm of `scaling * B @ A` over all modules.

    Raises:
        AdapterMismatchError: The adapter lacks a factor.
    """
    check_products(adapter, adapter, "norm of an adapter")
    squares = (float(inner_products(*stack([pair])).sum()) for pair in adapter.pairs.values())
    return adapter.spec.scaling * math.sqrt(max(0.0, math.fsum(squares)))


def product_distance(a: AdapterState, b: AdapterState) -> float:
    """Frobenius norm of the difference of what two adapters compute; ranks and scales may differ.

    Formed of the factors' differences, so it is exact also for adapters that are nearly equal.

    Raises:
        AdapterMismatchError: Base model, modules or shapes differ, or a factor is missing.
    """
    check_products(a, b, "distance of two adapters")
    rank = max(a.spec.rank, b.spec.rank)
    squares = []
    for module in a.pairs:
        left_a, right_a = _scaled_and_padded(a, module, rank)
        left_b, right_b = _scaled_and_padded(b, module, rank)
        left = torch.cat([left_a - left_b, left_b], dim=1)
        right = torch.cat([right_a, right_a - right_b], dim=0)
        squares.append(float(inner_products(left, right).sum()))
    return math.sqrt(max(0.0, math.fsum(squares)))


def check_products(expected: AdapterState, other: AdapterState, where: str) -> None:
    """Nothing, if the products may be added: ranks, scales and dtypes may differ, the rest not.

    Raises:
        AdapterMismatchError: Base model, modules or shapes differ, or a factor is missing.
    """
    check_modules(expected, other, where)
    for module, pair in other.pairs.items():
        check_pair(product_shape(expected.pairs[module]), pair, f"{where}, {module}")


def check_modules(expected: AdapterState, other: AdapterState, where: str) -> None:
    """Nothing, if both adapt the same modules of the same base model; reads no tensor.

    Raises:
        AdapterMismatchError: They do not.
    """
    for name in ("base_model", "revision"):
        wanted, got = getattr(expected.spec, name), getattr(other.spec, name)
        if wanted != got:
            key = "base_model_name_or_path" if name == "base_model" else name
            raise AdapterMismatchError(
                f"{where}: {name} differs; expected {wanted!r}, got {got!r}. Adapters of two base "
                "models have nothing in common. If it is one under two names, write the same "
                f"{key} into both adapter_config.json."
            )
    if list(expected.pairs) != list(other.pairs):
        num_missing = len(expected.pairs.keys() - other.pairs.keys())
        num_extra = len(other.pairs.keys() - expected.pairs.keys())
        raise AdapterMismatchError(
            f"{where}: modules differ; {num_missing} missing, {num_extra} unexpected. "
            "Train all adapters with the same target_modules."
        )


def check_pair(shape: tuple[int, int], pair: LoRAPair, where: str) -> None:
    """Nothing, if the pair's product is of this shape, `(d_out, d_in)`.

    Raises:
        AdapterMismatchError: It is not, or a factor is missing.
    """
    if not pair.A.numel() or not pair.B.numel():
        raise AdapterMismatchError(f"{where}: a factor is missing. Fill the adapter in first.")
    if product_shape(pair) != shape:
        raise AdapterMismatchError(
            f"{where}: another shape; expected {shape}, got {product_shape(pair)}."
        )


def product_shape(pair: LoRAPair) -> tuple[int, int]:
    """`(d_out, d_in)`."""
    return pair.B.shape[0], pair.A.shape[1]


def _scaled_and_padded(
    adapter: AdapterState, module: str, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = stack([adapter.pairs[module]])
    missing = rank - adapter.spec.rank
    left = torch.nn.functional.pad(left * adapter.spec.scaling, (0, missing))
    return left, torch.nn.functional.pad(right, (0, 0, 0, missing))
