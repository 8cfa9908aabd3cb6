"""The small operations of a frozen network as few passes over memory, backward written out.

Between its products a network such as Llama normalises, turns queries and keys by their position
and gates the MLP. Written as tensor operations these are a dozen passes over all activations each,
and autograd keeps several copies of them for the way back. Here each is one function that keeps its
input. On a processor without fast memory, or with fast products, that is a good part of a step.

Whether a module is one of these is not read off its name: its class is tried on some numbers, and
one that computes anything else stays as it is.
"""

from __future__ import annotations

import copy
import inspect
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

_ROTATION = "apply_rotary_pos_emb"


def make_lean(network: torch.nn.Module) -> None:
    """Let a frozen network's modules compute with the functions of this file where they can.

    Changes the modules, not the weights.
    """
    for module in list(network.modules()):
        kind = type(module)
        if getattr(kind, "lean", False):
            continue
        if _is_norm(module):
            module.__class__ = _lean(kind, _norm_forward)
        elif _is_gated(module):
            module.__class__ = _lean(kind, _gated_forward)
        elif (forward := _with_lean_rotation(kind)) is not None:
            module.__class__ = _lean(kind, forward)


@cache
def _lean(kind: type[torch.nn.Module], forward: Any) -> type[torch.nn.Module]:
    """A class that differs in its `forward` alone, and is one of the old kind to whoever asks."""
    return type(f"Lean{kind.__name__}", (kind,), {"forward": forward, "lean": True})


def _is_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or weight is None or weight.dim() != 1:
        return False
    return hasattr(module, "variance_epsilon") and _computes_a_norm(type(module))


@cache
def _computes_a_norm(kind: type[torch.nn.Module]) -> bool:
    x, weight = _numbers(2, 5, 8), _numbers(8)
    # A large epsilon shows where it stands.
    found = _tried(kind, {"variance_epsilon": 0.1, "weight": weight}, x)
    return _same(found, _norm(x, weight, 0.1)[0])


def _norm_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    x, weight, epsilon = hidden_states, self.weight, self.variance_epsilon
    if weight.requires_grad or weight.dtype != x.dtype:
        plain: torch.Tensor = super(type(self), self).forward(x)
        return plain
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _norm(x, weight, epsilon)[0]
    apply: Any = _Norm.apply
    found: torch.Tensor = apply(x, weight, epsilon)
    return found


def _norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` over its root mean square, times the weight; and one over that root."""
    wide = x.float()  # whatever the network's type is, as the models' own files do
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = scale.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (wide * scale).to(x.dtype).mul_(weight), scale


class _Norm(torch.autograd.Function):
    """With s = 1 / sqrt(mean(x^2) + eps) and g = dy w:  dx = s g - s^3 x sum(g x) / n."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        found, scale = _norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        dx = (outgoing[0] * weight).to(scale.dtype)
        along = (dx * wide).sum(dim=-1, keepdim=True)
        along.mul_(scale.pow(3)).div_(-x.shape[-1])
        return dx.mul_(scale).addcmul_(wide, along).to(x.dtype), None, None


def _is_gated(module: torch.nn.Module) -> bool:
    parts = dict(module.named_children())
    wanted = {"gate_proj", "up_proj", "down_proj", "act_fn"}
    return parts.keys() == wanted and _computes_a_gate(type(module), type(parts["act_fn"]))


@cache
def _computes_a_gate(kind: type[torch.nn.Module], activation: type[torch.nn.Module]) -> bool:
    # Products that a mistaken order or place would show.
    gate, up, down = _Times(2.0), _Times(-3.0), _Times(5.0)
    x = _numbers(2, 5, 8)
    try:
        parts = {"gate_proj": gate, "up_proj": up, "down_proj": down, "act_fn": activation()}
    except TypeError:
        return False
    return _same(_tried(kind, parts, x), down(_gate(gate(x), up(x))))


class _Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def _gated_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    found: torch.Tensor
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        apply: Any = _Gate.apply
        found = self.down_proj(apply(gate, up))
    else:
        found = self.down_proj(_gate(gate, up))
    return found


def _gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return functional.silu(gate).mul_(up)


class _Gate(torch.autograd.Function):
    """`silu(gate) * up`; `silu(gate)` is not kept but computed again."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _gate(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        d_gate = torch.ops.aten.silu_backward(outgoing[0] * up, gate)
        return d_gate, functional.silu(gate).mul_(outgoing[0])


@cache
def _with_lean_rotation(kind: type[torch.nn.Module]) -> Any:
    """The class's own `forward` with `rotate` in place of the rotation that its file defines."""
    forward = kind.__dict__.get("forward")
    if not inspect.isfunction(forward) or _ROTATION not in forward.__code__.co_names:
        return None
    plain = forward.__globals__.get(_ROTATION)
    q, k, cos, sin = (
        _numbers(1, 4, 5, 8),
        _numbers(1, 2, 5, 8),
        _numbers(1, 5, 8),
        _numbers(1, 5, 8),
    )
    try:
        expected = plain(q, k, cos, sin)  # type: ignore[misc]
    except (RuntimeError, TypeError, ValueError):
        return None
    if not all(map(_same, rotate(q, k, cos, sin), expected)):
        return None
    lean = FunctionType(
        forward.__code__,
        forward.__globals__ | {_ROTATION: rotate},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    lean.__kwdefaults__ = forward.__kwdefaults__
    return lean


def rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys turned by their positions, as in the models' own files.

    Args:
        q: `(batch, heads, tokens, width)`.
        k: The same, maybe with fewer heads.
        cos: `(batch, tokens, width)`.
        sin: The same.
        unsqueeze_dim: Where the heads are.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    if not torch.is_grad_enabled():
        return _turn(q, cos, sin), _turn(k, cos, sin)
    apply: Any = _Rotation.apply
    return apply(q, cos, sin), apply(k, cos, sin)


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    found = x * cos
    found[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    found[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return found


class _Rotation(torch.autograd.Function):
    """`x cos + rotate_half(x) sin`; nothing of `x` is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outgoing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        dy, half = outgoing[0], outgoing[0].shape[-1] // 2
        dx = dy * cos
        dx[..., :half].addcmul_(dy[..., half:], sin[..., half:])
        dx[..., half:].addcmul_(dy[..., :half], sin[..., :half], value=-1)
        return dx, None, None


def _numbers(*shape: int) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.linspace(0.3, 9.7, count).sin().mul(2).reshape(shape)


def _tried(kind: type[torch.nn.Module], parts: dict[str, Any], x: torch.Tensor) -> Any:
    """What a module of this class, made of these parts alone, makes of `x`; None if it cannot."""
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    for name, part in parts.items():
        setattr(module, name, copy.copy(part))
    try:
        with torch.no_grad():
            return module(x)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None


def _same(found: Any, expected: torch.Tensor) -> bool:
    return (
        isinstance(found, torch.Tensor)
        and found.shape == expected.shape
        and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    )
