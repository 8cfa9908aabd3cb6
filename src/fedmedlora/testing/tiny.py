"""Tiny random language models and a tiny tokenizer: real architectures, no download."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from fedmedlora.models.load import BaseModel, load_base

if TYPE_CHECKING:
    from pathlib import Path

Shape = Literal["llama", "qwen3", "deepseek-distill"]
SHAPES: tuple[Shape, ...] = ("llama", "qwen3", "deepseek-distill")

_WORDS = (
    "Copy the text and tag each problem, treatment, test, drug. Text: Tagged: </> <problem> "
    "patient with pain and fever was given aspirin 81 mg daily; scan of the chest showed no mass."
)


@cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer with a few merges; any text survives it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>"
    )


def tiny_config(shape: Shape) -> Any:
    """A two-layer configuration: grouped heads throughout; tied output for `llama` only."""
    from transformers import LlamaConfig, Qwen3Config

    size: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if shape == "llama":
        return LlamaConfig(**size, tie_word_embeddings=True)
    if shape == "qwen3":
        return Qwen3Config(**size, head_dim=16, tie_word_embeddings=False)
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    return LlamaConfig(**size, tie_word_embeddings=False, rope_parameters=scaling)


def write_tiny_model(folder: Path, shape: Shape = "llama", seed: int = 0) -> Path:
    """A folder that loads like any downloaded model: safetensors, config and tokenizer."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(shape))
        # The usual start (deviation 0.02) gives nearly equal logits; decoding tests need choices.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_base(
    folder: Path,
    shape: Shape = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """A tiny base model, written to `folder` and loaded through the usual door."""
    return load_base(str(write_tiny_model(folder, shape, seed)), dtype=dtype)
