import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from fedmedlora.adapters.state import AdapterState
from fedmedlora.core.errors import AdapterMismatchError, FedMedLoRAError, RunStoreError
from fedmedlora.testing.adapters import random_adapter

# peft 0.21 asks transformers 5.23 by an old name; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = torch.arange(2, 14).reshape(2, 6)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    """Random weights; grouped heads, so that k_proj and v_proj are not square."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def fresh_copy(model: LlamaForCausalLM) -> LlamaForCausalLM:
    copy = LlamaForCausalLM(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def adapter_of(model: LlamaForCausalLM, *, rslora: bool) -> AdapterState:
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if name.endswith(("k_proj", "down_proj"))
    }
    return random_adapter(3, rank=3, shapes=shapes, alpha=7.0, rslora=rslora)


@torch.no_grad()
def merged_by_hand(model: LlamaForCausalLM, adapter: AdapterState) -> LlamaForCausalLM:
    """The base model with s * B @ A added to its weights."""
    merged = fresh_copy(model)
    for name, pair in adapter.pairs.items():
        merged.get_submodule(name).weight += adapter.spec.scaling * pair.B @ pair.A
    return merged


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_computes_with_a_saved_adapter_what_the_formula_says(
    llama: LlamaForCausalLM, tmp_path: Path, rslora: bool
) -> None:
    adapter = adapter_of(llama, rslora=rslora)
    save_adapter(tmp_path, adapter)
    loaded = peft.PeftModel.from_pretrained(fresh_copy(llama), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), logits(merged_by_hand(llama, adapter)))
    assert not torch.allclose(logits(loaded), logits(llama), atol=1e-2)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_peft_saved_is_read_with_its_meaning(
    llama: LlamaForCausalLM, tmp_path: Path, rslora: bool
) -> None:
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["q_proj", "v_proj"],
        use_rslora=rslora,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(fresh_copy(llama), config).eval()
    model.save_pretrained(str(tmp_path))
    adapter = load_adapter(tmp_path)
    assert adapter.spec.target_modules == ("q_proj", "v_proj")
    assert len(adapter.pairs) == 4
    torch.testing.assert_close(logits(merged_by_hand(llama, adapter)), logits(model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_saving_and_loading_gives_the_same_bits_and_spec(tmp_path: Path, dtype: str) -> None:
    adapter = random_adapter(0, dtype=dtype, alpha=2.5, rslora=True)
    save_adapter(tmp_path / "new" / "folder", adapter)
    assert load_adapter(tmp_path / "new" / "folder") == adapter


def test_an_adapter_that_lacks_a_factor_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatchError, match="both factors"):
        save_adapter(tmp_path, random_adapter(0).only({"A"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_something_new": {"level": 1}}, "use_something_new"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"target_modules": ".*q_proj"}, "target_modules"),
        ({"r": "8"}, "lora_alpha"),
        ({"r": 5}, "rank"),
    ],
)
def test_an_adapter_that_we_would_compute_wrongly_is_refused(
    tmp_path: Path, change: dict, named: str
) -> None:
    save_adapter(tmp_path, random_adapter(0))
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | change))
    with pytest.raises(AdapterMismatchError, match=named):
        load_adapter(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_or_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    save_adapter(tmp_path, random_adapter(0))
    whole = (tmp_path / name).read_bytes()
    for length in (0, 1, 9, len(whole) // 2, len(whole) - 3):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(RunStoreError, match=name):
            load_adapter(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunStoreError, match=name):
        load_adapter(tmp_path)


def test_any_altered_byte_of_the_header_gives_a_clear_error_or_an_adapter(tmp_path: Path) -> None:
    """The tensors themselves carry no checksum here; those of rounds are in round.json."""
    save_adapter(tmp_path, random_adapter(0))
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for position in range(header):
        broken = bytearray(whole)
        broken[position] ^= 0x11
        (tmp_path / WEIGHTS_FILE).write_bytes(bytes(broken))
        try:
            load_adapter(tmp_path)
        except FedMedLoRAError:
            refused += 1
    assert refused > header / 2


def test_a_folder_of_something_else_is_refused(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    with pytest.raises(RunStoreError, match="expected a folder with"):
        load_adapter(tmp_path / "nowhere")
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(fresh_copy(llama), config)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(AdapterMismatchError, match="lora_embedding_A"):
        load_adapter(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunStoreError, match="cannot be written"):
        save_adapter(tmp_path / "file", random_adapter(0))


def test_an_unknown_revision_stays_unknown(tmp_path: Path) -> None:
    adapter = random_adapter(0)
    adapter = replace(adapter, spec=replace(adapter.spec, revision=""))
    save_adapter(tmp_path, adapter)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["revision"] is None
    assert load_adapter(tmp_path) == adapter
