"""Norm, gate and rotation in few passes are those of the models' own files, slopes included."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from fedmedlora.models.lean_layers import make_lean
from fedmedlora.models.load import BaseModel

Tiny = Callable[..., BaseModel]
SHAPES = ["llama", "qwen3", "deepseek-distill"]
KINDS = ("RMSNorm", "MLP", "Attention")


def both(model: torch.nn.Module, dtype: torch.dtype) -> tuple[Any, Any]:
    """A network as it is and a lean one, with norms whose weights are not all one."""
    plain = copy.deepcopy(model).to(dtype).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for module in plain.modules():
        if "RMSNorm" in type(module).__name__:
            module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    lean = copy.deepcopy(plain)
    make_lean(lean)
    return plain, lean


def states_and_slope(model: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = model.config.hidden_size
    x = torch.randn(2, 7, size, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(2, 7, size, generator=generator).to(dtype)
    states = model.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
    (slope,) = torch.autograd.grad((states * weights).sum(), x)
    return states.detach(), slope


@pytest.mark.parametrize("shape", SHAPES)
def test_a_lean_network_computes_the_states_and_slopes_of_the_plain_one(
    tiny: Tiny, shape: str
) -> None:
    plain, lean = both(tiny(shape).model, torch.float64)

    for found, expected in zip(
        states_and_slope(lean, torch.float64), states_and_slope(plain, torch.float64), strict=True
    ):
        # Norms and rotation are computed in float32 in both.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_a_lean_network_is_no_further_from_the_truth_than_the_plain_one(
    tiny: Tiny, shape: str
) -> None:
    truth = states_and_slope(both(tiny(shape).model, torch.float64)[0], torch.float64)
    plain, lean = both(tiny(shape).model, torch.bfloat16)

    errors = [
        [
            float((found.double() - true).norm() / true.norm())
            for found, true in zip(states_and_slope(model, torch.bfloat16), truth, strict=True)
        ]
        for model in (plain, lean)
    ]

    for of_plain, of_lean in zip(*errors, strict=True):
        assert of_lean < 1.5 * of_plain


@pytest.mark.parametrize("shape", SHAPES)
def test_every_norm_gate_and_attention_of_these_models_becomes_lean(tiny: Tiny, shape: str) -> None:
    _, lean = both(tiny(shape).model, torch.float32)

    for module in lean.modules():
        name = type(module).__name__
        assert name.startswith("Lean") == name.endswith(KINDS), name


def test_without_a_slope_the_states_are_the_same_bits_as_with_one(tiny: Tiny) -> None:
    _, lean = both(tiny("llama").model, torch.float32)
    x = torch.randn(1, 5, 32)
    with torch.inference_mode():
        found = lean.base_model(inputs_embeds=x, use_cache=False).last_hidden_state

    with_slope = lean.base_model(inputs_embeds=x.requires_grad_(), use_cache=False)

    assert torch.equal(found, with_slope.last_hidden_state)


def test_norms_and_gates_of_another_kind_stay_as_they_are() -> None:
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    plain, lean = both(Gemma2ForCausalLM(config), torch.float32)

    kinds = {type(module).__name__ for module in lean.modules()}
    assert not {"LeanGemma2RMSNorm", "LeanGemma2MLP"} & kinds
    for found, expected in zip(
        states_and_slope(lean, torch.float32), states_and_slope(plain, torch.float32), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_making_a_network_lean_twice_changes_nothing_more(tiny: Tiny) -> None:
    _, lean = both(tiny("llama").model, torch.float32)
    kinds = [type(module) for module in lean.modules()]

    make_lean(lean)

    assert [type(module) for module in lean.modules()] == kinds
