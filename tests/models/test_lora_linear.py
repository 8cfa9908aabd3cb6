"""LoRA's forward and backward, against peft on the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.models.catalog import ALL_LINEAR, ATTENTION
from fedmedlora.models.kernels import Kernel, onednn_available, use_kernel
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.models.lora_linear import LoRALinear, attach
from fedmedlora.testing.tiny import SHAPES

Tiny = Callable[..., BaseModel]
Grads = dict[str, torch.Tensor]
IDS = torch.tensor([[5, 99, 300, 7, 81, 12, 44], [40, 41, 42, 43, 44, 45, 46]])
KERNELS: list[Any] = [
    "torch",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(not onednn_available(), reason="this torch lacks oneDNN"),
    ),
]


def drawn(base: BaseModel, targets: tuple[str, ...] = ALL_LINEAR) -> AdapterState:
    start = initial_adapter(base, rank=4, alpha=6.0, target_modules=targets, seed=3)
    generator = torch.Generator().manual_seed(3)
    pairs = {
        name: LoRAPair(A=pair.A, B=0.1 * torch.randn(pair.B.shape, generator=generator))
        for name, pair in start.pairs.items()
    }
    return AdapterState(start.spec, pairs)


def with_peft(base: BaseModel, adapter: AdapterState) -> tuple[Any, dict[str, nn.Parameter]]:
    """A copy of the model that peft wraps, and its factors by our names."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.spec.rank,
        lora_alpha=int(adapter.spec.alpha),
        target_modules=list(adapter.spec.target_modules),
        lora_dropout=0.0,
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(copy.deepcopy(base.model), config, autocast_adapter_dtype=False)
    factors = {}
    for name, pair in adapter.pairs.items():
        layer = model.get_submodule(f"base_model.model.{name}")
        for factor, value in (("A", pair.A), ("B", pair.B)):
            linear = getattr(layer, f"lora_{factor}")["default"].float()
            linear.weight.data.copy_(value)
            factors[f"{name}.{factor}"] = linear.weight
    return model, factors


def with_ours(
    base: BaseModel, adapter: AdapterState, factors: str = "AB"
) -> tuple[Any, dict[str, nn.Parameter]]:
    model = LoRAModel(base, adapter.spec)
    model.load(adapter)
    model.parameters(frozenset(factors))
    names = adapter.pairs
    layers = {name: model.network.get_submodule(name) for name in names}
    return model.network, {
        f"{name}.{factor}": getattr(layer, f"lora_{factor}")
        for name, layer in layers.items()
        for factor in "AB"
    }


def loss_of(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=IDS, labels=IDS).loss
    return loss


def trained_step(model: Any, factors: dict[str, nn.Parameter]) -> tuple[float, Grads]:
    loss = loss_of(model)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in factors.items() if p.grad is not None
    }


def distance(found: Grads, expected: Grads) -> float:
    """Relative, over all gradients at once."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[n].double() - g).square().sum()) for n, g in expected.items())
    return (difference / sum(float(g.double().square().sum()) for g in expected.values())) ** 0.5


def on_kernel(base: BaseModel, kernel: Kernel) -> BaseModel:
    from dataclasses import replace

    model = copy.deepcopy(base.model)
    use_kernel(model, kernel)
    return replace(base, model=model)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("targets", [ALL_LINEAR, ATTENTION, ("v_proj", "q_proj", "up_proj")])
def test_in_float32_loss_and_gradients_equal_pefts(
    tiny: Tiny, shape: str, kernel: Kernel, targets: tuple[str, ...]
) -> None:
    base = tiny(shape)
    adapter = drawn(base, targets)
    loss, gradients = trained_step(*with_ours(on_kernel(base, kernel), adapter))
    expected_loss, expected = trained_step(*with_peft(base, adapter))

    assert loss == pytest.approx(expected_loss, rel=1e-6)
    # These models amplify rounding; in float64 nothing of the difference is left, see below.
    assert distance(gradients, expected) < 2e-6
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert gradient.is_contiguous()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_float64_loss_and_gradients_are_pefts_to_the_last_digits(tiny: Tiny, shape: str) -> None:
    base, adapter = tiny(shape), drawn(tiny(shape))
    (ours, our_factors), (pefts, peft_factors) = with_ours(base, adapter), with_peft(base, adapter)
    ours = copy.deepcopy(ours).double()  # not the base model's own weights
    our_factors = {
        f"{name}.{factor}": getattr(ours.get_submodule(name), f"lora_{factor}")
        for name in adapter.pairs
        for factor in "AB"
    }
    loss, gradients = trained_step(ours, our_factors)
    expected_loss, expected = trained_step(pefts.double(), peft_factors)

    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert distance(gradients, expected) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_the_error_is_that_of_rounding_as_pefts_is(tiny: Tiny, shape: str) -> None:
    base, half = tiny(shape), tiny(shape, 0, torch.bfloat16)
    adapter = drawn(base)
    exact_loss, exact = trained_step(*with_peft(base, adapter))
    peft_loss, pefts = trained_step(*with_peft(half, adapter))
    loss, gradients = trained_step(*with_ours(half, adapter))

    assert abs(loss / exact_loss - 1) < 0.01 + abs(peft_loss / exact_loss - 1)
    assert distance(gradients, exact) < 1.25 * distance(pefts, exact)
    assert distance(gradients, exact) < 0.1
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())


@pytest.mark.parametrize("factors", ["A", "B"])
def test_a_factor_that_is_not_trained_costs_no_gradient_and_the_other_is_the_same(
    tiny: Tiny, factors: str
) -> None:
    base = tiny("llama")
    adapter = drawn(base)
    _, both = trained_step(*with_ours(base, adapter))
    _, one = trained_step(*with_ours(base, adapter, factors))

    assert one.keys() == {name for name in both if name.endswith(f".{factors}")}
    assert all(torch.equal(one[name], both[name]) for name in one)


def kept_bytes(model: Any) -> int:
    """What the graph of one pass holds on to, weights left out, each memory counted once."""
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_of(model)
    del loss
    return sum(kept.values())


def test_less_is_kept_for_the_way_back_than_by_peft_and_less_still_for_b_alone(tiny: Tiny) -> None:
    half = tiny("llama", 0, torch.bfloat16)
    adapter = drawn(half)
    ours, only_b = (kept_bytes(with_ours(half, adapter, factors)[0]) for factors in ("AB", "B"))

    assert ours < 0.8 * kept_bytes(with_peft(half, adapter)[0])
    assert only_b < ours


class Odd(nn.Module):
    """Calls layers that usually share an input in another way."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, 6, bias=bias)
        self.k_proj = nn.Linear(width, 5, bias=bias)
        self.v_proj = nn.Linear(width, 4, bias=bias)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.q_proj(x)  # an output that nothing comes of
        parts = [self.q_proj(x), self.k_proj(y), self.v_proj(x), self.v_proj(y)]
        return torch.cat(parts, dim=-1).square().sum()


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=2),
    width=st.integers(1, 9),
    rank=st.integers(1, 3),
    bias=st.booleans(),
    kernel=st.sampled_from(["torch", "onednn"] if onednn_available() else ["torch"]),
)
def test_layers_that_do_not_share_their_input_are_computed_alone(
    shape: list[int], width: int, rank: int, bias: bool, kernel: Kernel
) -> None:
    torch.manual_seed(len(shape) + 10 * width)
    model = Odd(width, bias=bias)
    x, y = (torch.randn(*shape, 1, width, requires_grad=True) for _ in range(2))
    dense = copy.deepcopy(model)
    use_kernel(model, kernel)
    attach(model, ["q_proj", "k_proj", "v_proj"], rank=rank, scaling=1.5)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}
    for name, layer in layers.items():
        nn.init.normal_(layer.lora_A)
        nn.init.normal_(layer.lora_B)
        weight = dense.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        weight.data = weight.data + 1.5 * layer.lora_B.detach() @ layer.lora_A.detach()

    expected = dense(x, y)
    expected_dx, expected_dy = torch.autograd.grad(expected, (x, y))
    found = model(x, y)
    dx, dy = torch.autograd.grad(found, (x, y))

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dx, expected_dx, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(dy, expected_dy, rtol=1e-3, atol=1e-3)


def test_a_pass_that_broke_off_leaves_nothing_behind(tiny: Tiny) -> None:
    base = tiny("llama")
    adapter = drawn(base)
    model, factors = with_ours(base, adapter)
    expected = trained_step(model, factors)
    attention = model.model.layers[0].self_attn
    hidden = torch.randn(1, 3, 32)
    attention.q_proj(hidden)  # and no k_proj, no v_proj
    model.zero_grad()
    again = trained_step(model, factors)

    assert again[0] == expected[0]
    assert all(torch.equal(again[1][name], expected[1][name]) for name in expected[1])
    assert not any(attention.q_proj._group._ready)
