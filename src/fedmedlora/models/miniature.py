"""What can be had of a base model without its weights: its tokenizer, and a layer of its shape."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import cause
from fedmedlora.models.catalog import PRESETS
from fedmedlora.models.fetch import fetch
from fedmedlora.models.gguf_once import read_once
from fedmedlora.models.kernels import use_kernel
from fedmedlora.models.load import BaseModel, refusal
from fedmedlora.models.tokens import PieceTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fedmedlora.models.kernels import Kernel

# Steps of larger ones take longer than is worth waiting for, and their products fill all cores.
_MOST_PARAMETERS = 32_000_000


def miniature(
    name: str,
    *,
    revision: str = "",
    dtype: torch.dtype = torch.float32,
    kernel: Kernel = "torch",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[BaseModel, int] | None:
    """A model of one layer and of that layer's share of the vocabulary; how many layers there are.

    Its weights are drawn, and its tokenizer is none. None where a model's layer is too large, or of
    a kind that cannot stand alone.

    Raises:
        ModelError: A catalog model cannot be fetched.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source, options = _source(name, revision, say)
    try:
        with _reading(options):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        num_layers = int(config.num_hidden_layers)
        config.num_hidden_layers = 1
        if isinstance(getattr(config, "layer_types", None), list):
            config.layer_types = config.layer_types[:1]
        config.vocab_size = max(64, config.vocab_size // num_layers)
        for special in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, special, None)
        with torch.device("meta"):
            size = sum(w.numel() for w in AutoModelForCausalLM.from_config(config).parameters())
        if size > _MOST_PARAMETERS:
            return None
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception:  # whoever loads the model itself will say what is wrong with it
        return None
    model.requires_grad_(False)
    model.eval()
    use_kernel(model, kernel)
    nothing: Any = None
    return BaseModel(name, revision, "", model, nothing), num_layers


def load_tokenizer(
    name: str, *, revision: str = "", say: Callable[[str], None] = lambda _: None
) -> PieceTokenizer:
    """A base model's tokenizer, without the model.

    Raises:
        ModelError: A catalog model cannot be fetched, or there is no tokenizer that can be read.
        MissingExtraError: A library that is needed for it is not installed.
    """
    from transformers import AutoTokenizer

    source, options = _source(name, revision, say)
    try:
        with _reading(options):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise refusal(f"{name}: its tokenizer cannot be loaded ({cause(error)}).", error) from error
    return PieceTokenizer(tokenizer, name)


def _reading(options: dict[str, Any]) -> AbstractContextManager[None]:
    """A GGUF file, which transformers would open several times, is read once."""
    return read_once() if "gguf_file" in options else nullcontext()


def _source(name: str, revision: str, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """Where a model's configuration is, and how it is read."""
    if name in PRESETS:
        source = PRESETS[name].source
        if not isinstance(source, str):
            return str(fetch(name, say)), {}
        return source, {"revision": revision} if revision else {}
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        return str(path), {}
    return name, {"revision": revision} if revision else {}
