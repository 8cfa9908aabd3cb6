"""Loading base models: whole and supported ones, from folders and GGUF files; all else is told."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from fedmedlora.core.errors import MissingExtraError, ModelError
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.testing.tiny import SHAPES, tiny_tokenizer, write_tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny: Callable[..., BaseModel], tmp_path: Path) -> Path:
    """A folder with a tiny Llama, to be damaged."""
    return Path(shutil.copytree(tiny("llama").model.name_or_path, tmp_path / "model"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loaded_model_is_frozen_and_in_evaluation_mode(
    tiny: Callable[..., BaseModel], shape: str
) -> None:
    base = tiny(shape)

    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.output_weight.shape == (len(tiny_tokenizer()), 32)


@pytest.mark.parametrize("shape", SHAPES)
def test_backbone_and_output_weight_together_give_the_models_logits(
    tiny: Callable[..., BaseModel], shape: str
) -> None:
    base = tiny(shape)
    ids = torch.arange(2, 30)[None]
    hidden = base.backbone(input_ids=ids, use_cache=False).last_hidden_state

    torch.testing.assert_close(hidden @ base.output_weight.T, base.model(ids).logits)


def test_the_shapes_are_what_their_names_say(tiny: Callable[..., BaseModel]) -> None:
    llama, qwen3, distill = (tiny(shape).model for shape in SHAPES)

    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert distill.lm_head.weight is not distill.model.embed_tokens.weight
    assert hasattr(qwen3.model.layers[0].self_attn, "q_norm")
    assert all(
        m.config.num_key_value_heads < m.config.num_attention_heads for m in (llama, qwen3, distill)
    )


def test_a_gguf_file_gives_the_same_model(tiny: Callable[..., BaseModel], tiny_gguf: Path) -> None:
    found, expected = load_base(str(tiny_gguf)), tiny("llama")
    text = "patient <|end|> é"
    ids = torch.tensor([found.tokenizer.encode(text)])

    assert found.tokenizer.encode(text) == expected.tokenizer.encode(text)
    assert found.fingerprint == expected.fingerprint
    assert torch.equal(found.model(ids).logits, expected.model(ids).logits)


def test_a_gguf_file_takes_the_asked_number_type(tiny_gguf: Path) -> None:
    assert load_base(str(tiny_gguf), dtype=torch.bfloat16).output_weight.dtype == torch.bfloat16


def test_the_fingerprint_tells_models_apart_and_does_not_depend_on_the_number_type(
    tiny: Callable[..., BaseModel],
) -> None:
    same = tiny("llama", 0, torch.bfloat16)

    assert same.output_weight.dtype == torch.bfloat16
    assert same.fingerprint == tiny("llama").fingerprint
    others = [tiny("llama", 1), tiny("qwen3"), tiny("deepseek-distill")]
    assert len({base.fingerprint for base in (same, *others)}) == 4


def test_the_fingerprint_sees_a_change_at_the_end_of_a_weight(folder: Path) -> None:
    before = load_base(str(folder)).fingerprint
    weights = load_file(folder / WEIGHTS)
    # 11,456 values: 512 of them, 22 apart and counted from the front, would not reach the end
    weights["model.embed_tokens.weight"][-5:] += 1
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    assert load_base(str(folder)).fingerprint != before


def test_a_model_from_a_folder_is_known_without_its_path_and_bound_by_its_digest(
    folder: Path, tmp_path: Path
) -> None:
    """Adapters and messages carry name and revision to other sites."""
    moved = folder.rename(tmp_path / "Jane's model")
    other = load_base(str(write_tiny_model(tmp_path / "other", "llama", seed=5)))
    found = load_base(str(moved))

    assert found.name == "Jane-s-model"
    assert found.revision == f"sha256-{found.fingerprint[:16]}"
    assert found.revision != other.revision


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", "utf-8")


def config_that_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]", "utf-8")


def config_of_another_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}), "utf-8")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", "utf-8")


def truncated_weights(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled_weights(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


DAMAGES = [
    *(no_config, broken_config, config_that_is_a_list, config_of_another_size, no_tokenizer),
    *(broken_tokenizer, truncated_weights, empty_weights, no_weights, pickled_weights),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_no_whole_safetensors_model_is_refused(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)

    with pytest.raises(
        ModelError, match=r"cannot be loaded as a causal language model \(\w+: .+\)"
    ):
        load_base(str(folder))


def test_a_model_that_lacks_a_weight_is_refused_instead_of_run_with_random_numbers(
    folder: Path,
) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"1 of the model's weights .*self_attn\.q_proj"):
        load_base(str(folder))


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such file or folder"):
        load_base(str(tmp_path / "nowhere"))


def test_a_gguf_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf: no such file"):
        load_base(str(tmp_path / "nowhere.gguf"))


@pytest.mark.parametrize("size", [0, 4, 40, 2_000, 40_000])
def test_a_truncated_gguf_file_is_refused(tmp_path: Path, tiny_gguf: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:size])

    with pytest.raises(ModelError, match=r"not a readable GGUF model \(\w+: .+\)"):
        load_base(str(path))


@pytest.mark.parametrize("library", ["accelerate", "gguf"])
def test_a_library_that_gguf_files_need_is_named_where_it_is_missing(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(MissingExtraError, match=rf"^{library}: .*'fedmedlora\[models\]'"):
        load_base(str(tiny_gguf))


def test_a_library_that_only_one_tokenizer_needs_is_named_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any, **__: Any) -> None:
        raise ValueError("`no-such-reader` is required: `pip install no-such-reader`.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreadable)

    with pytest.raises(MissingExtraError) as refused:
        load_base(str(folder))
    assert "(ValueError: `no-such-reader` is required" in str(refused.value)
    assert str(refused.value).endswith("Run: pip install no-such-reader")


def test_a_wish_for_a_newer_version_of_what_is_there_is_no_missing_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise ValueError("Unknown model type. Try `pip install --upgrade transformers`.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unknown)

    with pytest.raises(ModelError, match="Unknown model type"):
        load_base(str(folder))


def save_with_tokenizer(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_model_that_rescales_its_logits_is_refused(tmp_path: Path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        logits_scaling=8.0,
    )
    name = save_with_tokenizer(GraniteForCausalLM(config), tmp_path)

    with pytest.raises(ModelError, match=r"rescales its logits \(logits_scaling\)"):
        load_base(name)


def test_a_model_with_a_bias_in_its_output_layer_is_refused(tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    name = save_with_tokenizer(PhiForCausalLM(config), tmp_path)

    with pytest.raises(ModelError, match="the output layer has a bias"):
        load_base(name)


def test_writing_a_tiny_model_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    write_tiny_model(tmp_path, "qwen3", seed=3)

    assert torch.equal(torch.random.get_rng_state(), before)
