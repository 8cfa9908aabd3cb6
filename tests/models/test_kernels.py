"""oneDNN's products are torch's products."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fedmedlora.models.kernels import (
    OneDnnLinear,
    kernel_of,
    linear,
    linear_onto,
    onednn_available,
    use_kernel,
    whole_rows,
    writes_programs,
)
from fedmedlora.models.load import BaseModel, load_base

Tiny = Callable[..., BaseModel]
pytestmark = pytest.mark.skipif(not onednn_available(), reason="this torch lacks oneDNN")
IDS = torch.tensor([[5, 99, 300, 7, 81, 12, 44]])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 7), (3, 2, 7), (0, 7)])
def test_products_and_sums_of_products_are_the_same(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(5, 7)
    offset = torch.randn(5) if bias else None
    expected = torch.nn.functional.linear(x, weight, offset)

    torch.testing.assert_close(linear(x, weight, offset, "onednn"), expected)
    torch.testing.assert_close(linear(expected, weight.t(), None, "onednn"), expected @ weight)
    flat, total = x.reshape(-1, 7), torch.randn(x.numel() // 7, 5)
    for kernel in ("torch", "onednn"):
        found = linear_onto(total.clone(), flat, weight, kernel)  # type: ignore[arg-type]
        torch.testing.assert_close(found, total + flat @ weight.t())


def test_a_model_computes_the_same_and_its_input_gets_the_same_gradient(tiny: Tiny) -> None:
    base = tiny("qwen3")
    model = copy.deepcopy(base.model)
    use_kernel(model, "onednn")
    embedded = base.model.get_input_embeddings()(IDS)
    gradients = []
    for network in (base.model, model):
        inputs = embedded.clone().requires_grad_(True)
        logits = network(inputs_embeds=inputs).logits
        logits.square().mean().backward()
        gradients.append(inputs.grad)
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, base.model(IDS).logits, rtol=1e-4, atol=1e-4)

    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    assert kernel_of(model.model.layers[0].mlp.up_proj) == "onednn"
    assert kernel_of(base.model.model.layers[0].mlp.up_proj) == "torch"


def test_only_float32_layers_change_and_only_if_asked(tiny: Tiny) -> None:
    folder = tiny("llama").model.name_or_path

    def kernels(dtype: torch.dtype, kernel: str) -> set[type]:
        model = load_base(folder, dtype=dtype, kernel=kernel).model  # type: ignore[arg-type]
        return {type(m) for m in model.modules() if isinstance(m, torch.nn.Linear)}

    assert kernels(torch.float32, "onednn") == {OneDnnLinear}
    assert kernels(torch.bfloat16, "onednn") == {torch.nn.Linear}
    assert kernels(torch.float32, "torch") == {torch.nn.Linear}


# In a process of its own, which says of each product whether oneDNN had a program for it.
_MANY_SHAPES = """
import torch
from fedmedlora.models.kernels import linear, whole_rows

def multiply(num_rows):
    linear(torch.ones(num_rows, 64), torch.ones(96, 64), None, "onednn")

for count in range(1, 800, 2):
    multiply(whole_rows(count))
print("every number of rows", flush=True)
for count in range(1, 101):
    multiply(count)
print("the first of them, and the last", flush=True)
multiply(1)
multiply(100)
"""


def test_products_of_many_row_counts_share_few_programs_and_no_more_than_64_are_kept() -> None:
    """A program takes half a megabyte; oneDNN by itself keeps 1,024 of them."""
    told = subprocess.run(
        [sys.executable, "-c", _MANY_SHAPES],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"ONEDNN_VERBOSE": "profile_create"},
    )
    rounded, as_they_are, again = (
        ["cache_miss" in line for line in part.splitlines() if ",create:cache_" in line]
        for part in re.split("^every .*$|^the first .*$", told.stdout, flags=re.MULTILINE)
    )

    assert (len(rounded), sum(rounded)) == (400, 25)
    assert len(as_they_are) == 100
    assert again == [True, False]


def test_bfloat16_needs_programs_only_where_onednn_takes_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tiny("llama", 0, torch.bfloat16).model
    for takes in (True, False):
        monkeypatch.setattr("fedmedlora.models.kernels.onednn_takes_bfloat16", lambda t=takes: t)
        assert writes_programs(half) is takes
        assert not writes_programs(tiny("llama").model)


@pytest.mark.parametrize(("count", "rounded"), [(0, 0), (1, 32), (32, 32), (33, 64), (800, 800)])
def test_row_counts_are_rounded_up_to_few(count: int, rounded: int) -> None:
    assert whole_rows(count) == rounded
