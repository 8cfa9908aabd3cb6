"""LoRA on a base model: what it computes, and that the base model stays what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmedlora.adapters.files import load_adapter, save_adapter
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError
from fedmedlora.models.catalog import ALL_LINEAR, ATTENTION
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.testing.tiny import SHAPES

Tiny = Callable[..., BaseModel]
IDS = torch.tensor([[5, 99, 300, 7, 81, 12], [40, 41, 42, 43, 44, 45]])
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)


def fresh(base: BaseModel, targets: tuple[str, ...] = ALL_LINEAR, seed: int = 0) -> AdapterState:
    return initial_adapter(base, rank=4, alpha=6.0, target_modules=targets, seed=seed)


def trained(
    base: BaseModel, seed: int, targets: tuple[str, ...] = ALL_LINEAR, *, rslora: bool = False
) -> AdapterState:
    """An adapter whose `B` is not zero, so that it changes what the model says."""
    start = fresh(base, targets, seed)
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: LoRAPair(A=pair.A, B=0.3 * torch.randn(pair.B.shape, generator=generator))
        for name, pair in start.pairs.items()
    }
    return AdapterState(replace(start.spec, rslora=rslora), pairs)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found.clone()


def by_hand(base: BaseModel, adapter: AdapterState) -> torch.Tensor:
    """Logits of a copy whose weights are `W + scaling * B @ A`, summed in float64."""
    model = copy.deepcopy(base.model)
    weights = model.state_dict()
    scaling = adapter.spec.alpha / (adapter.spec.rank ** (0.5 if adapter.spec.rslora else 1))
    for name, pair in adapter.pairs.items():
        delta = scaling * pair.B.double() @ pair.A.double()
        weights[f"{name}.weight"] = (weights[f"{name}.weight"].double() + delta).float()
    model.load_state_dict(weights)
    return logits(model)


def with_lora(base: BaseModel, adapter: AdapterState) -> LoRAModel:
    model = LoRAModel(base, adapter.spec)
    model.load(adapter)
    return model


def test_a_fresh_adapter_depends_on_its_seed_and_on_each_modules_name_only(tiny: Tiny) -> None:
    base = tiny("llama")
    state = torch.random.get_rng_state()
    everything, attention = fresh(base), fresh(base, ATTENTION)

    assert fresh(base) == everything
    assert fresh(base, seed=1) != everything
    for name, pair in attention.pairs.items():
        assert torch.equal(pair.A, everything.pairs[name].A)
    assert torch.equal(torch.random.get_rng_state(), state)
    starts = {pair.A.flatten()[0].item() for pair in everything.pairs.values()}
    assert len(starts) == len(everything.pairs)


@EVERY_SHAPE
def test_a_fresh_adapter_changes_nothing_yet(tiny: Tiny, shape: str) -> None:
    base = tiny(shape)
    adapter = fresh(base)

    assert torch.equal(logits(with_lora(base, adapter).network), logits(base.model))
    assert len(adapter.pairs) == 2 * len(ALL_LINEAR)
    for pair in adapter.pairs.values():
        assert pair.A.abs().max() <= pair.A.shape[1] ** -0.5  # Kaiming uniform, as peft draws it
        assert pair.A.abs().max() > 0.8 * pair.A.shape[1] ** -0.5


def test_a_fresh_adapter_for_modules_that_are_not_there_is_an_error(tiny: Tiny) -> None:
    with pytest.raises(AdapterMismatchError, match=r"no linear module is named c_attn.*lora\."):
        fresh(tiny("llama"), ("c_attn",))


@EVERY_SHAPE
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_the_forward_pass_adds_scaling_times_b_times_a(
    tiny: Tiny, shape: str, rslora: bool
) -> None:
    base = tiny(shape)
    adapter = trained(base, 1, rslora=rslora)
    expected = by_hand(base, adapter)

    assert (expected - logits(base.model)).abs().max() > 0.1
    torch.testing.assert_close(
        logits(with_lora(base, adapter).network), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(logits(merged(base, adapter).model), expected, rtol=1e-4, atol=1e-4)


@EVERY_SHAPE
def test_the_base_model_is_the_same_before_and_after(tiny: Tiny, shape: str) -> None:
    base = tiny(shape)
    before = logits(base.model)
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    adapter = trained(base, 2)
    model = with_lora(base, adapter)
    logits(model.network)
    merged(base, adapter)

    assert torch.equal(logits(base.model), before)
    assert base.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(base.model.state_dict()[name], weights[name]) for name in weights)


def test_lora_and_merging_share_what_they_do_not_change(tiny: Tiny) -> None:
    base = tiny("llama")
    adapter = trained(base, 3, ATTENTION)
    ours = {tensor.data_ptr() for tensor in base.model.parameters()}
    wrapped = with_lora(base, adapter).network.named_parameters()
    changed = merged(base, adapter).model.named_parameters()

    assert all(p.data_ptr() in ours for name, p in wrapped if "lora_" not in name)
    fresh_weights = {name for name, p in changed if p.data_ptr() not in ours}
    assert fresh_weights == {f"{name}.weight" for name in adapter.pairs}


def test_without_an_adapter_merging_gives_the_base_model(tiny: Tiny) -> None:
    assert merged(tiny("llama"), None) is tiny("llama")


def test_adapters_swapped_back_and_forth_compute_the_same_bits(tiny: Tiny) -> None:
    base = tiny("qwen3")
    one, other = trained(base, 4), trained(base, 5)
    model = with_lora(base, one)
    first = logits(model.network)
    model.load(other)
    between = logits(model.network)
    model.load(one)

    assert torch.equal(logits(model.network), first)
    assert not torch.equal(between, first)
    assert model.state() == one


def test_a_state_is_a_copy_of_the_present_values(tiny: Tiny) -> None:
    base = tiny("llama")
    one, other = trained(base, 4), trained(base, 5)
    model = with_lora(base, one)
    state = model.state()
    model.load(other)

    assert state == one
    assert model.state() == other


def test_only_the_factors_in_question_are_trainable(tiny: Tiny) -> None:
    model = with_lora(tiny("llama"), fresh(tiny("llama")))

    for factors in ({"A"}, {"B"}, {"A", "B"}):
        chosen = model.parameters(frozenset(factors))
        trainable = [p for p in model.network.parameters() if p.requires_grad]
        assert {id(p) for p in chosen} == {id(p) for p in trainable}
        assert len(chosen) == 2 * len(ALL_LINEAR) * len(factors)


def test_on_a_bfloat16_base_model_the_adapter_stays_float32(tiny: Tiny) -> None:
    base = tiny("llama", 0, torch.bfloat16)
    adapter = trained(base, 6)
    model = with_lora(base, adapter)
    exact = logits(with_lora(tiny("llama"), adapter).network)

    assert model.state() == adapter
    assert logits(model.network).dtype == torch.bfloat16
    assert (logits(model.network).float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert merged(base, adapter).output_weight.dtype == torch.bfloat16


def test_a_bfloat16_adapter_is_taken_over_as_float32(tiny: Tiny) -> None:
    base = tiny("llama")
    exact = trained(base, 6)
    spec = exact.spec.with_dtype("bfloat16")
    pairs = {n: LoRAPair(A=p.A.bfloat16(), B=p.B.bfloat16()) for n, p in exact.pairs.items()}
    state = with_lora(base, AdapterState(spec, pairs)).state()

    assert state.spec == exact.spec
    assert all(torch.equal(state.pairs[n].A, pairs[n].A.float()) for n in pairs)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@EVERY_SHAPE
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_a_saved_adapter_computes_the_same_when_peft_loads_it(
    tiny: Tiny, tmp_path: Path, shape: str, rslora: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tiny(shape)
    adapter = trained(base, 7, rslora=rslora)
    save_adapter(tmp_path, adapter)
    plain = AutoModelForCausalLM.from_pretrained(base.model.name_or_path, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path))

    torch.testing.assert_close(logits(loaded), by_hand(base, adapter), rtol=1e-4, atol=1e-4)
    ours = logits(with_lora(base, load_adapter(tmp_path)).network)
    torch.testing.assert_close(logits(loaded), ours, rtol=1e-5, atol=2e-5)


def other_modules(adapter: AdapterState) -> AdapterState:
    pairs = dict(adapter.pairs)
    pairs.pop(next(iter(pairs)))
    return AdapterState(adapter.spec, pairs)


def other_shape(adapter: AdapterState) -> AdapterState:
    pairs = dict(adapter.pairs)
    name = next(iter(pairs))
    pairs[name] = LoRAPair(A=torch.zeros(4, 5), B=pairs[name].B)
    return AdapterState(adapter.spec, pairs)


def other_scaling(adapter: AdapterState) -> AdapterState:
    return AdapterState(replace(adapter.spec, alpha=1.0), adapter.pairs)


def one_factor_only(adapter: AdapterState) -> AdapterState:
    return adapter.only({"B"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_modules, "modules are not those"),
        (other_shape, "expected shape"),
        (other_scaling, r"expected the scaling 1\.5, got 0\.25"),
        (one_factor_only, "expected shape"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tiny: Tiny, change: Callable[[AdapterState], AdapterState], words: str
) -> None:
    base = tiny("llama")
    model = LoRAModel(base, fresh(base).spec)

    with pytest.raises(AdapterMismatchError, match=words):
        model.load(change(trained(base, 8)))


def test_an_adapter_for_another_model_cannot_be_merged(tiny: Tiny) -> None:
    base = tiny("llama")
    good = trained(base, 8)
    renamed = {name.replace("layers.1", "layers.9"): pair for name, pair in good.pairs.items()}

    with pytest.raises(AdapterMismatchError, match=r"there is no linear module model\.layers\.9"):
        merged(base, AdapterState(good.spec, renamed))
    with pytest.raises(AdapterMismatchError, match="expected shape"):
        merged(base, other_shape(good))


def test_a_spec_that_names_no_module_of_the_model_is_refused(tiny: Tiny) -> None:
    spec = AdapterSpec("some-model", "", 2, 4.0, ("c_attn",))

    with pytest.raises(AdapterMismatchError, match="some-model: no linear module is named c_attn"):
        LoRAModel(tiny("llama"), spec)


def test_a_spec_may_name_modules_by_the_end_of_their_dotted_name(tiny: Tiny) -> None:
    base = tiny("llama")
    spec = AdapterSpec(base.name, "", 2, 4.0, ("layers.1.mlp.up_proj",))

    assert list(LoRAModel(base, spec).state().pairs) == ["model.layers.1.mlp.up_proj"]


def test_lora_on_the_output_layer_is_refused(tiny: Tiny) -> None:
    base = tiny("deepseek-distill")
    spec = AdapterSpec(base.name, "", 2, 4.0, ("q_proj", "lm_head"))

    with pytest.raises(AdapterMismatchError, match="LoRA on the output layer is not"):
        LoRAModel(base, spec)
