"""Tiny models, built once, and the same model as a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmedlora.models.load import BaseModel
from fedmedlora.testing.tiny import tiny_base, tiny_tokenizer

_GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseModel]:
    """A tiny base model by shape, seed and dtype; the same object for the same arguments."""

    @cache
    def build(shape: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> BaseModel:
        return tiny_base(tmp_path_factory.mktemp("tiny"), shape, seed, dtype)  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Callable[..., BaseModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a GGUF file: the inverse of what reading one does."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write_gguf(path, tiny("llama").model)
    return path


def _write_gguf(path: Path, model: Any) -> None:
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    bpe = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    words = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    for name, tensor in model.model.state_dict().items():
        writer.add_tensor(*_gguf_tensor(name.removesuffix(".weight"), tensor.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_tensor(name: str, values: np.ndarray, config: Any) -> tuple[str, np.ndarray]:
    if not name.startswith("layers."):
        return f"{_GGUF_NAMES[name]}.weight", values
    _, layer, module = name.split(".", 2)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if (num_heads := heads.get(module.rpartition(".")[2])) is not None:
        # GGUF interleaves the two halves that rotary embedding turns.
        halves = values.reshape(num_heads, 2, -1, values.shape[1]).swapaxes(1, 2)
        values = np.ascontiguousarray(halves.reshape(values.shape))
    return f"blk.{layer}.{_GGUF_NAMES[module]}.weight", values
