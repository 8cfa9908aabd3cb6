"""4-bit weights: what they stand for, and LoRA trained on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.models.quantised import (
    FourBitLinear,
    dequantised,
    dequantised_by_bitsandbytes,
)

Tiny = Callable[..., BaseModel]
IDS = torch.tensor([[5, 99, 300, 7, 81, 12, 44]])
# The levels of NF4, from the paper's appendix E, at the precision that it prints.
NF4 = torch.tensor(
    [
        *(-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0),
        *(0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0),
    ]
)


def layer(
    rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> FourBitLinear:
    return FourBitLinear(dense(rows, columns, seed, dtype), "cpu")


def dense(
    rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.nn.Linear:
    found = torch.nn.Linear(columns, rows, dtype=dtype).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found.weight.data = (0.05 * torch.randn(rows, columns, generator=generator)).to(dtype)
    return found


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_weight_becomes_the_nearest_level_times_the_largest_of_its_64(
    rows: int, columns: int, seed: int
) -> None:
    exact = dense(rows, columns, seed).weight.reshape(-1)
    found = layer(rows, columns, seed).weight.reshape(-1)

    for start in range(0, len(exact), 64):
        block = exact[start : start + 64]
        largest = float(block.abs().max())
        naive = NF4[(block[:, None] / largest - NF4).abs().argmin(dim=1)] * largest
        # The 8 bits of a scale hold it to 2 % at worst; printed levels, to half of the last digit.
        off = (found[start : start + 64] - naive).abs()
        assert float((off <= 0.025 * largest).float().mean()) > 0.98  # ties may fall either way


def test_a_weight_takes_about_4_bits_and_loses_about_a_tenth() -> None:
    exact, held = dense(256, 256), layer(256, 256)
    num_bytes = sum(buffer.nbytes for buffer in held.buffers())

    assert 8 * num_bytes / exact.weight.numel() == pytest.approx(4.127, abs=0.01)
    assert float((held.weight - exact.weight).norm() / exact.weight.norm()) == pytest.approx(
        0.092, abs=0.005
    )


def test_a_weight_of_zeros_stays_one() -> None:
    zeros = dense(8, 64)
    zeros.weight.data.zero_()

    assert torch.equal(FourBitLinear(zeros, "cpu").weight, zeros.weight)


@pytest.mark.skipif(
    find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed; run: pip install 'fedmedlora[quantised]'",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitsandbytes_reads_our_codes_as_we_do_and_makes_the_same(dtype: torch.dtype) -> None:
    from bitsandbytes.functional import quantize_4bit

    held = layer(96, 128, 0, dtype)
    codes, state = quantize_4bit(
        dense(96, 128, 0, dtype).weight, quant_type="nf4", compress_statistics=True
    )

    assert torch.equal(dequantised_by_bitsandbytes(held), held.weight)
    assert torch.equal(codes.view(-1), held.codes)
    assert torch.equal(state.state2.absmax, held.scale_scales)
    assert (state.absmax.int() - held.scale_codes.int()).abs().max() <= 1  # near ties


def in_4_bits(base: BaseModel) -> BaseModel:
    return load_base(base.model.name_or_path, dtype=base.output_weight.dtype, quantisation="4bit")


def drawn(base: BaseModel) -> AdapterState:
    start = initial_adapter(base, rank=4, alpha=6.0, target_modules=ALL_LINEAR, seed=3)
    generator = torch.Generator().manual_seed(3)
    pairs = {
        name: LoRAPair(A=pair.A, B=0.1 * torch.randn(pair.B.shape, generator=generator))
        for name, pair in start.pairs.items()
    }
    return AdapterState(start.spec, pairs)


def logits(base: BaseModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = base.model(IDS).logits
    return found.clone()


@pytest.mark.parametrize("shape", ["llama", "deepseek-distill"])
def test_a_model_is_held_in_4_bits_but_for_its_embeddings_and_output(
    tiny: Tiny, shape: str
) -> None:
    exact = tiny(shape)
    base = in_4_bits(exact)
    kinds = {name: type(module) for name, module in base.model.named_modules()}

    assert all(kinds[name] is FourBitLinear for name in drawn(exact).pairs)
    assert torch.equal(base.output_weight, exact.output_weight)
    assert (base.fingerprint, base.revision) == (exact.fingerprint, exact.revision)
    torch.testing.assert_close(logits(base), logits(dequantised(base)))
    assert not any(isinstance(m, FourBitLinear) for m in dequantised(base).model.modules())
    assert not torch.allclose(logits(base), logits(exact), atol=1e-3)


def gradients(base: BaseModel, adapter: AdapterState) -> tuple[float, list[torch.Tensor]]:
    model = LoRAModel(base, adapter.spec)
    model.load(adapter)
    chosen = model.parameters(frozenset("AB"))
    loss = model.network(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss.detach()), [p.grad for p in chosen if p.grad is not None]


def test_lora_on_4_bits_trains_as_on_the_dense_weights_that_they_stand_for(tiny: Tiny) -> None:
    base = in_4_bits(tiny("qwen3"))
    adapter = drawn(base)
    loss, found = gradients(base, adapter)
    expected_loss, expected = gradients(dequantised(base), adapter)

    assert loss == pytest.approx(expected_loss, rel=1e-6)
    torch.testing.assert_close(found, expected)


def test_layers_without_lora_pass_gradients_on(tiny: Tiny) -> None:
    base = in_4_bits(tiny("llama"))
    start = initial_adapter(base, rank=2, alpha=4.0, target_modules=("q_proj",), seed=0)
    pairs = {n: LoRAPair(A=p.A, B=torch.full_like(p.B, 0.1)) for n, p in start.pairs.items()}
    adapter = AdapterState(start.spec, pairs)
    _, found = gradients(base, adapter)
    _, expected = gradients(dequantised(base), adapter)

    assert len(found) == 4
    torch.testing.assert_close(found, expected)


def test_for_extraction_the_adapter_stands_beside_and_for_export_it_is_merged(tiny: Tiny) -> None:
    base = in_4_bits(tiny("llama"))
    adapter = drawn(base)
    before = logits(base)
    beside, whole = merged(base, adapter), merged(dequantised(base), adapter)

    torch.testing.assert_close(logits(beside), logits(whole), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(beside), before, atol=1e-2)
    assert torch.equal(logits(base), before)
    assert not any(p.requires_grad for p in beside.model.parameters())
    held = {buffer.data_ptr() for buffer in base.model.buffers()}
    codes = beside.model.model.layers[0].mlp.up_proj.base.codes
    assert codes.data_ptr() in held  # shared, not copied
    copy.deepcopy(beside.model)  # as decoders do
    assert replace(beside, model=None).fingerprint == base.fingerprint
