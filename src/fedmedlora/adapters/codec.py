"""How an adapter's tensors look on the wire, and how they are read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Mapping

CodecName = Literal["fp32", "bf16"]


class Codec(Protocol):
    """A way to write an adapter as named tensors."""

    @property
    def name(self) -> CodecName:
        """What the wire calls it."""

    def pack(self, adapter: AdapterState) -> dict[str, torch.Tensor]:
        """The adapter as tensors, in name order."""

    def unpack(self, spec: AdapterSpec, tensors: Mapping[str, torch.Tensor]) -> AdapterState:
        """The adapter that `pack` wrote, in `spec.dtype`.

        Raises:
            ExchangeError: The tensors are not what this codec writes.
            AdapterMismatchError: They contradict the spec.
        """


@dataclass(frozen=True, slots=True)
class CastCodec:
    """Every factor under `<module>.A` or `<module>.B`, cast to one dtype."""

    name: CodecName
    dtype: torch.dtype

    def pack(self, adapter: AdapterState) -> dict[str, torch.Tensor]:
        """The factors in the codec's dtype."""
        return {
            f"{module}.{factor}": tensor.to(self.dtype)
            for module, factor, tensor in adapter.tensors()
        }

    def unpack(self, spec: AdapterSpec, tensors: Mapping[str, torch.Tensor]) -> AdapterState:
        """The adapter, cast back to `spec.dtype`.

        Raises:
            ExchangeError: A factor lacks its partner, or has another dtype.
            AdapterMismatchError: A pair contradicts the spec.
        """
        factors: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            module, _, factor = name.rpartition(".")
            if not module or factor not in ("A", "B") or tensor.dtype != self.dtype:
                raise ExchangeError(
                    f"adapter on the wire: expected <module>.A and <module>.B in {self.dtype}, "
                    f"got {name!r} in {tensor.dtype}."
                )
            factors.setdefault(module, {})[factor] = tensor.to(spec.torch_dtype)
        for module, pair in factors.items():
            if len(pair) != 2:
                raise ExchangeError(
                    f"adapter on the wire: expected A and B of {module}, got {sorted(pair)}."
                )
        return AdapterState(spec, {m: LoRAPair(f["A"], f["B"]) for m, f in factors.items()})


FP32: Codec = CastCodec("fp32", torch.float32)
BF16: Codec = CastCodec("bf16", torch.bfloat16)
CODECS: dict[CodecName, Codec] = {"fp32": FP32, "bf16": BF16}
