"""Adapters in a quarter of their size: 8-bit numbers with a scale for each row or column.

A stored number q stands for q times its scale, a product that IEEE arithmetic rounds alike on every
machine: what is read is the same adapter everywhere, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as save_tensors

from fedmedlora.core.errors import RunStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterState

PACKED_FILE = "adapter_int8.safetensors"

_SCALE = ".scale"
_MOST = 127


def packed_bytes(adapter: AdapterState) -> bytes:
    """The adapter as a safetensors file of 8-bit numbers, with the names that peft gives factors.

    Rows of `A` and columns of `B` belong to one direction of the adapter each, and directions
    differ in size far more than the numbers within one: each has a scale of its own.
    """
    tensors: dict[str, torch.Tensor] = {}
    for module, factor, tensor in adapter.tensors():
        name = f"base_model.model.{module}.lora_{factor}.weight"
        scale = _scale(tensor.float(), axis=1 if factor == "A" else 0)
        tensors[name] = _nearest(tensor.float(), scale)
        tensors[name + _SCALE] = scale.contiguous()
    blob: bytes = save_tensors(tensors, metadata={"format": "int8"})
    return blob


def _scale(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Of those tried, the one with the least squared error; in float32, kept for broadcasting."""
    largest = tensor.abs().amax(dim=axis, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    best = largest / _MOST
    least = _error(tensor, best, axis)
    # A smaller scale cuts off a few large numbers and holds the many small ones better.
    for share in range(99, 69, -1):
        scale = largest * (share / 100) / _MOST
        error = _error(tensor, scale, axis)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def _error(tensor: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    difference = _nearest(tensor, scale).float() * scale - tensor
    return difference.square().sum(dim=axis, keepdim=True)


def _nearest(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (tensor / scale).round().clamp(-_MOST, _MOST).to(torch.int8)


def unpacked(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The float32 tensors that stand in a packed file, by their names.

    Raises:
        RunStoreError: A number has no scale, or is not of 8 bits.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE):
            continue
        scale = tensors.get(name + _SCALE)
        fits = scale is not None and scale.dtype == torch.float32 and tensor.dtype == torch.int8
        if scale is None or not fits:
            raise RunStoreError(
                f"{path}: damaged; expected 8-bit numbers and a float32 scale for {name}. Use an "
                "intact copy of the folder."
            )
        found[name] = tensor.float() * scale
    return found
