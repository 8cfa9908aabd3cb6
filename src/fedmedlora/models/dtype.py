"""Which number type and which kernel is fastest here, by measurement."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.models.kernels import linear, onednn_available

if TYPE_CHECKING:
    from fedmedlora.models.kernels import Kernel

# Below this gain the exact type, or torch's own kernel, wins.
WORTHWHILE = 1.2
# Tokens, d_in and d_out of the products that are timed: those of a training step.
_SIZE = (512, 576, 1536)
# So much of the tokens tells whether a type is emulated.
_SHARE = 16


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """The chosen number type and kernel, and what was measured.

    Seconds are those of one training-sized product and its input gradient. None where there is
    nothing to measure: oneDNN is not there, or the model runs on a GPU.
    """

    name: str
    kernel: Kernel
    float32_seconds: float | None = None
    onednn_seconds: float | None = None
    bfloat16_seconds: float | None = None

    @property
    def bfloat16_is_not_slower(self) -> bool:
        """Whether bfloat16 costs no time here, though it may not be worth its rounding."""
        if self.float32_seconds is None or self.bfloat16_seconds is None:
            return self.name == "bfloat16"
        exact = min(self.float32_seconds, self.onednn_seconds or self.float32_seconds)
        return self.bfloat16_seconds <= exact

    @property
    def reason(self) -> str:
        """One line for people."""
        if self.float32_seconds is None or self.bfloat16_seconds is None:
            return f"{self.name}: what this GPU is made for"
        ratio = self.float32_seconds / self.bfloat16_seconds
        text = f"{self.name}: bfloat16 products run {ratio:.1f} times as fast as float32 here"
        if self.onednn_seconds is not None:
            ratio = self.float32_seconds / self.onednn_seconds
            text += f", float32 ones by oneDNN {ratio:.1f} times"
        return text

    def to_json(self) -> dict[str, Any]:
        """Plain values for `environment.json`."""
        return asdict(self) | {"reason": self.reason}


def choose_dtype(device: torch.device | str = "cpu") -> DtypeChoice:
    """bfloat16 where it is clearly faster than the best float32, and the kernel for float32.

    Adapters, optimiser and losses are float32 either way; only the frozen base model and the
    activations change. Processors without bfloat16 instructions emulate it, slower than float32.
    """
    if torch.device(device).type == "cuda":
        return DtypeChoice("bfloat16" if torch.cuda.is_bf16_supported() else "float32", "torch")
    exact = _seconds(torch.float32, "torch")
    onednn = _seconds(torch.float32, "onednn") if onednn_available() else None
    half = _seconds(torch.bfloat16, "torch", hopeless=2 * exact)
    faster = onednn is not None and exact > WORTHWHILE * onednn
    best = onednn if faster and onednn is not None else exact
    name = "bfloat16" if best > WORTHWHILE * half else "float32"
    return DtypeChoice(name, "onednn" if faster else "torch", exact, onednn, half)


def _seconds(dtype: torch.dtype, kernel: Kernel, hopeless: float = float("inf")) -> float:
    """The shortest of a few times: what else the machine does only adds to them.

    What takes longer than `hopeless` is not timed to the end: emulated products are slow. Where
    they are many times slower, a small share of the tokens shows it, and the rest is reckoned.
    """
    few = _SIZE[0] // _SHARE
    if hopeless < float("inf"):
        reckoned = _SHARE * _shortest(dtype, kernel, few, 3, hopeless / _SHARE)
        if reckoned > 4 * hopeless:
            return reckoned
    return _shortest(dtype, kernel, _SIZE[0], 7, hopeless)


def _shortest(
    dtype: torch.dtype, kernel: Kernel, num_tokens: int, tries: int, hopeless: float
) -> float:
    _, d_in, d_out = _SIZE
    x = torch.ones(num_tokens, d_in, dtype=dtype)
    dy = torch.ones(num_tokens, d_out, dtype=dtype)
    weight = torch.ones(d_out, d_in, dtype=dtype)
    taken: list[float] = []
    with torch.inference_mode():
        while len(taken) < tries:
            started = time.perf_counter()
            linear(x, weight, None, kernel)
            linear(dy, weight.t(), None, kernel)
            taken.append(time.perf_counter() - started)
            if len(taken) > 1 and min(taken) > hopeless:
                break
    return min(taken)
