"""Adapters in a quarter of their size: 8-bit numbers with one scale a row.

A stored number q stands for q times its row's scale. Scales are bfloat16, so that float32 holds
every such product exactly: what is read is the same adapter on every machine, bit for bit.
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

    Rows of both factors: for `B`, whose columns could share a scale, that is the smaller error.
    """
    tensors: dict[str, torch.Tensor] = {}
    for module, factor, tensor in adapter.tensors():
        name = f"base_model.model.{module}.lora_{factor}.weight"
        exact = tensor.to("cpu", torch.float32)
        largest = exact.abs().amax(dim=1, keepdim=True)
        scale = (largest / _MOST).clamp_min(torch.finfo(torch.bfloat16).tiny).to(torch.bfloat16)
        tensors[name] = (exact / scale.float()).round().clamp(-_MOST, _MOST).to(torch.int8)
        tensors[name + _SCALE] = scale
    blob: bytes = save_tensors(tensors, metadata={"format": "int8"})
    return blob


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
        fits = scale is not None and scale.dtype == torch.bfloat16 and tensor.dtype == torch.int8
        if scale is None or not fits:
            raise RunStoreError(
                f"{path}: damaged; expected 8-bit numbers and bfloat16 scales for {name}. Use an "
                "intact copy of the folder."
            )
        found[name] = tensor.float() * scale.float()
    return found
