"""Which number type is fastest here, by measurement."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

# Below this gain the exact type wins.
WORTHWHILE = 1.2


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """The chosen type, and the seconds of one training-sized product in both."""

    name: str
    float32_seconds: float
    bfloat16_seconds: float

    @property
    def reason(self) -> str:
        """One line for people."""
        ratio = self.float32_seconds / self.bfloat16_seconds
        return f"{self.name}: bfloat16 products run {ratio:.1f} times as fast as float32 here"


def choose_dtype() -> DtypeChoice:
    """bfloat16 where the processor multiplies it clearly faster than float32, else float32.

    Adapters, optimiser and losses are float32 either way; only the frozen base model and the
    activations change. Processors without bfloat16 instructions emulate it, slower than float32.
    """
    exact, half = _seconds(torch.float32), _seconds(torch.bfloat16)
    name = "bfloat16" if exact > WORTHWHILE * half else "float32"
    return DtypeChoice(name, exact, half)


def _seconds(dtype: torch.dtype) -> float:
    """The median time of a product of the size that training makes."""
    rows = torch.ones(1024, 576, dtype=dtype)
    weight = torch.ones(1536, 576, dtype=dtype)
    taken = []
    with torch.inference_mode():
        for _ in range(7):
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
