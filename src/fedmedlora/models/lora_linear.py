"""LoRA on frozen linear layers, forward and backward written out.

    u = x A^T      y = x W^T + bias + s u B^T
    v = s dy B     dx = dy W + v A      dA = v^T x      dB = s dy^T u

`W` takes no gradient, so nothing is computed or kept for it; of the activations only `x` and the
narrow `u` are kept, and only if a factor that is trained needs them. Layers that read the same `x`
(query, key and value; gate and up) are computed together: one product with their stacked `A`, one
sum for `dx`. `A` and `B` are float32 masters; products run in the number type of `x`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from fedmedlora.models.kernels import kernel_of, linear, linear_onto

if TYPE_CHECKING:
    from collections.abc import Sequence

# Layers with these names in one module read the same input.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class LoRALinear(torch.nn.Module):
    """A frozen linear layer with LoRA: `lora_A` `(rank, d_in)`, `lora_B` `(d_out, rank)`, float32.

    `base` is an `nn.Linear` or a module that has its sizes, `weight` and `bias`.
    """

    def __init__(self, base: torch.nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        device = base.weight.device
        self.base = base
        self.scaling = scaling
        self.lora_A = torch.nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.lora_B = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self._group = _Group([self])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(..., d_in)` to `(..., d_out)`, in the number type of `x`."""
        return self._group.output(self, x)


def attach(model: torch.nn.Module, names: Sequence[str], *, rank: int, scaling: float) -> None:
    """Put LoRA on the linear layers of these full names. Changes the module tree, not the weights.

    Layers that read the same input are computed together.
    """
    for name in names:
        parent, _, last = name.rpartition(".")
        layer = LoRALinear(model.get_submodule(name), rank, scaling)  # type: ignore[arg-type]
        setattr(model.get_submodule(parent), last, layer)
    for module in list(model.modules()):
        for together in _TOGETHER:
            found = [getattr(module, last, None) for last in together]
            layers = [layer for layer in found if isinstance(layer, LoRALinear)]
            group = _Group(layers)
            for layer in layers:
                layer._group = group


class _Group:
    """Layers in the order in which their network calls them.

    When the first is given an input, the outputs of all are computed; the others find theirs ready
    if they are given the same tensor, as they are in every network that is supported.
    """

    def __init__(self, layers: list[LoRALinear]) -> None:
        self._layers = layers
        self._x: torch.Tensor | None = None
        self._ready: dict[LoRALinear, torch.Tensor] = {}

    def output(self, layer: LoRALinear, x: torch.Tensor) -> torch.Tensor:
        """What this layer makes of `x`."""
        if x is not self._x or layer not in self._ready:
            # Also drops what a pass that broke off left behind.
            asked = self._layers if layer is self._layers[0] else [layer]
            self._x, self._ready = x, dict(zip(asked, _outputs(asked, x), strict=True))
        found = self._ready.pop(layer)
        if not self._ready:
            self._x = None
        return found


def _outputs(layers: Sequence[LoRALinear], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
    apply: Any = _LoRAProducts.apply
    found: tuple[torch.Tensor, ...] = apply(x, layers, *factors)
    return found


class _LoRAProducts(torch.autograd.Function):
    """The outputs of layers that read one `x`; `factors` are `A` and `B` of each in turn."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layers: Sequence[LoRALinear], *factors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        kernel = kernel_of(layers[0].base)
        flat = _rows(x)
        rank = len(factors[0])
        A = torch.cat(factors[::2]).to(x.dtype)
        B = torch.cat([B * layer.scaling for layer, B in zip(layers, factors[1::2], strict=True)])
        scaled: Sequence[torch.Tensor] = torch.split(
            B.to(x.dtype), [layer.base.out_features for layer in layers]
        )
        u = linear(flat, A, None, kernel)
        outputs = []
        for layer, part, B in zip(layers, torch.split(u, rank, dim=1), scaled, strict=True):
            out = linear(flat, layer.base.weight, layer.base.bias, kernel)
            outputs.append(linear_onto(out, part, B, kernel).view(*x.shape[:-1], -1))
        of_x, _, *of_factors = ctx.needs_input_grad
        ctx.layers, ctx.shape, ctx.rank, ctx.master = layers, x.shape, rank, factors[0].dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            flat if any(of_factors[::2]) else None,
            u if any(of_factors[1::2]) else None,
            A if of_x else None,
            *scaled,
        )
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outgoing: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        flat, u, A, *scaled = ctx.saved_tensors
        of_x, _, *of_factors = ctx.needs_input_grad
        kernel, master = kernel_of(ctx.layers[0].base), ctx.master
        dx: torch.Tensor | None = None
        of_A: list[torch.Tensor | None] = [None] * len(scaled)
        of_B: list[torch.Tensor | None] = [None] * len(scaled)
        for number, (layer, B, dy) in enumerate(zip(ctx.layers, scaled, outgoing, strict=True)):
            if dy is None:  # nothing was made of this output
                continue
            dy = _rows(dy)
            rows = slice(number * ctx.rank, (number + 1) * ctx.rank)
            if of_x:
                weight = layer.base.weight.t()
                dx = (
                    linear(dy, weight, None, kernel)
                    if dx is None
                    else linear_onto(dx, dy, weight, kernel)
                )
            if of_x or of_factors[2 * number]:
                v = linear(dy, B.t(), None, kernel)
                if dx is not None:
                    dx = linear_onto(dx, v, A[rows].t(), kernel)
                if of_factors[2 * number]:
                    of_A[number] = linear(v.t().contiguous(), flat.t(), None, kernel).to(master)
            if of_factors[2 * number + 1]:
                found = linear(u[:, rows].t().contiguous(), dy.t(), None, kernel)
                of_B[number] = found.t().to(master).contiguous() * layer.scaling
        if dx is not None:
            dx = dx.view(ctx.shape)
        pairs = zip(of_A, of_B, strict=True)
        return (dx, None, *(gradient for pair in pairs for gradient in pair))


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`(tokens, width)`, contiguous: on other memory oneDNN can be a hundred times slower."""
    return x.reshape(-1, x.shape[-1]).contiguous()
