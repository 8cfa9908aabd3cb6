"""Products with frozen weights: torch's own, or oneDNN's where that is faster.

On some processors torch multiplies float32 matrices at less than half the speed that oneDNN, which
it carries too, reaches on the same memory. Both sum in float32, in another order.

oneDNN writes code for every new shape, keeps 1,024 of these programs of half a megabyte, and half
of each for ever. So it is told to keep no more than a pass needs, and those who choose how many
rows a product has round them up (`whole_rows`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn

Kernel: TypeAlias = Literal["torch", "onednn"]

# Read by oneDNN before its first product. A pass of training has about thirty shapes, which all
# layers share; a program that was dropped is made again in half a millisecond.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
_WHOLE_ROWS, _FEW_ROWS = 32, 16


def whole_rows(num_rows: int) -> int:
    """The number of rows that a product of this many is better given: it has few shapes."""
    return -(-num_rows // _WHOLE_ROWS) * _WHOLE_ROWS


def nearly_whole_rows(num_rows: int) -> int:
    """As `whole_rows`, where few rows are common and each more would cost time."""
    if num_rows <= _FEW_ROWS:
        return num_rows
    step = _WHOLE_ROWS if num_rows > 2 * _WHOLE_ROWS else _WHOLE_ROWS // 4
    return -(-num_rows // step) * step


def writes_programs(model: nn.Module) -> bool:
    """Whether oneDNN computes a model's products, so that each further shape takes memory."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return False
    by_onednn = any(isinstance(module, OneDnnLinear) for module in model.modules())
    return by_onednn or (weight.dtype == torch.bfloat16 and onednn_takes_bfloat16())


def onednn_available() -> bool:
    """Whether this torch offers oneDNN's product on plain float32 memory."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_takes_bfloat16() -> bool:
    """Whether torch leaves bfloat16 products to oneDNN; without such instructions it does not."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and bool(asked())


class OneDnnLinear(torch.nn.Linear):
    """A frozen linear layer, float32 on a CPU, computed by oneDNN. Others are turned into it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`; gradients flow to the input alone."""
        if not input.requires_grad:
            return linear(input, self.weight, self.bias, "onednn")
        apply: Any = _FrozenProduct.apply
        found: torch.Tensor = apply(input, self.weight, self.bias)
        return found


class _FrozenProduct(torch.autograd.Function):
    """`x W^T + bias` for a `W` that takes no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.weight = weight
        return linear(x, weight, bias, "onednn")

    @staticmethod
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return linear(outgoing[0], ctx.weight.t(), None, "onednn"), None, None


def use_kernel(model: nn.Module, kernel: Kernel) -> None:
    """Make a frozen model's linear layers compute with this kernel. Changes the model.

    Weights that are not float32 on a CPU stay with torch's own products.
    """
    if kernel == "torch":
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and _suits(module.weight):
            module.__class__ = OneDnnLinear


def _suits(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def kernel_of(module: nn.Module) -> Kernel:
    """The kernel that a linear layer computes with."""
    return "onednn" if isinstance(module, OneDnnLinear) else "torch"


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel: Kernel
) -> torch.Tensor:
    """`x W^T + bias`, without a gradient under oneDNN."""
    if kernel == "torch":
        return functional.linear(x, weight, bias)
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def linear_onto(
    total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, kernel: Kernel
) -> torch.Tensor:
    """`total + x W^T`, all two-dimensional; `total` must not be used any more."""
    if kernel == "torch":
        return total.addmm_(x, weight.t())
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, total, weight, None, "add")
    return found
