"""Frozen linear layers held in 4 bits: NF4 with double quantisation, as in QLoRA.

The weights are kept in the layout of bitsandbytes and dequantised each time they are used. Plain
tensor operations do it on every device; on a GPU the kernels of bitsandbytes do it where that is
installed (`pip install 'fedmedlora[quantised]'`), with the same numbers. On GPUs this is untested.

Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch.nn import functional

from fedmedlora.models.lora import same_weights

if TYPE_CHECKING:
    from fedmedlora.models.load import BaseModel

Quantisation: TypeAlias = Literal["none", "4bit"]

# Weights that share a scale, and scales that share a scale.
_BLOCK, _SCALE_BLOCK = 64, 256
# Quantiles of the normal distribution, with an exact zero: appendix E of the paper.
_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class FourBitLinear(torch.nn.Linear):
    """A frozen linear layer of 4.13 bits a weight. `weight` is dequantised whenever it is read.

    Two weights share a byte, the first in its upper half. Of the scales, one for 64 weights, the
    mean is taken off; what is left is held in 8 bits, 256 to a scale of their own.
    """

    codes: torch.Tensor
    scale_codes: torch.Tensor
    scale_scales: torch.Tensor
    scale_mean: torch.Tensor

    def __init__(self, dense: torch.nn.Linear, device: torch.device | str) -> None:
        torch.nn.Module.__init__(self)  # no dense weight is made
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.dtype = dense.weight.dtype
        flat = dense.weight.detach().to(device).float().reshape(-1)
        blocks = functional.pad(flat, (0, -len(flat) % _BLOCK)).view(-1, _BLOCK)
        scales = blocks.abs().amax(dim=1)
        levels = torch.tensor(_LEVELS, device=device)
        shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        numbers = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view(-1)
        mean = scales.mean()
        scale_codes, scale_scales = _in_8_bits(scales - mean)
        self.register_buffer("codes", numbers[::2] << 4 | numbers[1::2])
        self.register_buffer("scale_codes", scale_codes)
        self.register_buffer("scale_scales", scale_scales)
        self.register_buffer("scale_mean", mean)
        self.bias = dense.bias

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight `(d_out, d_in)` that the codes stand for, made anew."""
        if self.codes.device.type == "cuda" and self.in_features % _BLOCK == 0 and _has_kernels():
            return dequantised_by_bitsandbytes(self)
        known = _dynamic_map(self.codes.device)[:, None]
        parts = functional.embedding(self.scale_codes.int(), known)
        padded = functional.pad(parts.view(-1), (0, -len(parts) % _SCALE_BLOCK))
        scales = (padded.view(-1, _SCALE_BLOCK) * self.scale_scales[:, None]).view(-1)[: len(parts)]
        pairs = functional.embedding(self.codes.int(), _level_pairs(self.codes.device))
        weight = (pairs.view(-1, _BLOCK) * (scales + self.scale_mean)[:, None]).to(self.dtype)
        size = self.out_features * self.in_features
        return weight.view(-1)[:size].view(self.out_features, self.in_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`; gradients flow to the input alone."""
        apply: Any = _FourBitProduct.apply
        found: torch.Tensor = apply(input, self)
        return found


class _FourBitProduct(torch.autograd.Function):
    """Keeps the layer, not its dense weight, for the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return outgoing[0] @ ctx.layer.weight, None


def quantise(model: Any, device: torch.device | str) -> None:
    """Hold every linear layer but the output layer in 4 bits, on this device. Changes the model."""
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not output:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, FourBitLinear(module, device))


def dequantised(base: BaseModel) -> BaseModel:
    """A copy of the base model whose 4-bit layers are dense, as merging for export needs it."""
    model = same_weights(base.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, FourBitLinear):
            dense = torch.nn.Linear(
                module.in_features, module.out_features, bias=False, device="meta"
            )
            dense.weight = torch.nn.Parameter(module.weight, requires_grad=False)
            dense.bias = module.bias
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, dense)
    return replace(base, model=model)


@cache
def _has_kernels() -> bool:
    return find_spec("bitsandbytes") is not None


def dequantised_by_bitsandbytes(layer: FourBitLinear) -> torch.Tensor:
    """A layer's dense weight, computed by bitsandbytes, which must be installed.

    Its CPU kernels are wrong where `d_in` is not a multiple of 64.
    """
    from bitsandbytes.functional import QuantState, dequantize_4bit

    device = layer.codes.device
    scales = QuantState(
        absmax=layer.scale_scales,
        blocksize=_SCALE_BLOCK,
        code=_dynamic_map(device),
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=layer.scale_codes,
        shape=torch.Size((layer.out_features, layer.in_features)),
        dtype=layer.dtype,
        blocksize=_BLOCK,
        code=torch.tensor(_LEVELS, device=device),
        quant_type="nf4",
        offset=layer.scale_mean,
        state2=scales,
    )
    found: torch.Tensor = dequantize_4bit(layer.codes.view(-1, 1), state)
    return found


def _in_8_bits(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest values of the dynamic map, as codes, and a scale for each 256."""
    blocks = functional.pad(values, (0, -len(values) % _SCALE_BLOCK)).view(-1, _SCALE_BLOCK)
    scales = blocks.abs().amax(dim=1)
    shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    known = _dynamic_map(values.device)
    codes = torch.bucketize(shares, (known[1:] + known[:-1]) / 2).to(torch.uint8)
    return codes.view(-1)[: len(values)], scales


@cache
def _dynamic_map(device: torch.device) -> torch.Tensor:
    """256 values from -0.99 to 1, ever denser towards 0: bitsandbytes' 8-bit type."""
    positive = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        positive.append(10.0 ** (exponent - 6) * (edges[1:] + edges[:-1]) / 2)
    size = torch.cat(positive)
    return torch.cat([size, -size, torch.tensor([0.0, 1.0])]).sort().values.to(device)


@cache
def _level_pairs(device: torch.device) -> torch.Tensor:
    """The two weights, before scaling, that each byte stands for, `(256, 2)`."""
    levels = torch.tensor(_LEVELS)
    return torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1).to(device)
