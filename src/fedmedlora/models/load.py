"""Loading base models: a catalog name, a local folder, a GGUF file or a hub id."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import MissingExtraError, ModelError, cause
from fedmedlora.core.libraries import missing_library, not_installed, require
from fedmedlora.models.catalog import PRESETS
from fedmedlora.models.fetch import RECEIPT, fetch, verify
from fedmedlora.models.gguf_once import read_once
from fedmedlora.models.kernels import use_kernel
from fedmedlora.models.quantised import quantise
from fedmedlora.models.tokens import PieceTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from fedmedlora.models.kernels import Kernel
    from fedmedlora.models.quantised import Quantisation

# Read by the hub's client at import; nothing here may report usage.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model with its tokenizer.

    `fingerprint` is a SHA-256 over the weights' identity; two sites with the same fingerprint
    hold the same model.
    """

    name: str
    revision: str
    fingerprint: str
    model: Any
    tokenizer: PieceTokenizer

    @property
    def backbone(self) -> nn.Module:
        """The network without its output layer: token ids in, hidden states out."""
        module: nn.Module = self.model.base_model
        return module

    @property
    def output_weight(self) -> torch.Tensor:
        """The output layer's weight, `(vocabulary, hidden)`."""
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_weight.device


def is_path(name: str) -> bool:
    """Whether a base model's name can only be a place on this machine, never a hub id."""
    return name.endswith(".gguf") or name.startswith((".", "/", "~")) or Path(name).exists()


def load_base(
    name: str,
    *,
    revision: str = "",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    kernel: Kernel = "torch",
    quantisation: Quantisation = "none",
    say: Callable[[str], None] = lambda _: None,
) -> BaseModel:
    """A base model, frozen and in evaluation mode.

    A model that was not named by catalog or hub id is known to others by the last part of its path:
    adapters and messages carry the name, and a whole path may name a person. Without a hub revision
    a digest of the weights takes its place, so that an adapter fits one model only.

    Args:
        name: A catalog name, a folder, a `.gguf` file or a hub id.
        revision: The hub's revision; ignored for local files.
        dtype: Of the weights and activations.
        device: Where the weights are put once they have been read.
        kernel: Of products with float32 weights on a CPU.
        quantisation: `4bit` holds all linear layers but the output layer in NF4; the fingerprint
            stays that of the exact weights.
        say: Told if the model must be downloaded first.

    Raises:
        ModelError: It cannot be found, is damaged, or is of a kind that is not supported.
        MissingExtraError: A library that is needed for it is not installed.
    """
    require("transformers", "safetensors")
    path = Path(name).expanduser()
    if is_path(name) and not path.exists():
        raise ModelError(f"{name}: no such file or folder. Pass a GGUF file, a folder or a hub id.")
    if name.endswith(".gguf"):
        model, tokenizer = read_gguf(path)
        model = model.to(dtype)
    elif name in PRESETS and isinstance(PRESETS[name].source, str):
        model, tokenizer = _read(str(PRESETS[name].source), revision, dtype)
    elif name in PRESETS:
        folder = fetch(name, say)
        verify(folder)
        model, tokenizer = _read(str(folder), "", dtype)
    else:
        model, tokenizer = _read(str(path) if path.is_dir() else name, revision, dtype)
    _refuse_unsupported(model, name)
    model.requires_grad_(False)
    model.eval()
    fingerprint = _fingerprint(model)
    if quantisation == "4bit":
        quantise(model, device)
    model = model.to(device)
    use_kernel(model, kernel)
    if is_path(name) or not isinstance(PRESETS[name].source if name in PRESETS else name, str):
        revision = f"sha256-{fingerprint[:16]}"
    shown = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.resolve().name) if is_path(name) else name
    return BaseModel(shown, revision, fingerprint, model, PieceTokenizer(tokenizer, name))


def read_gguf(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, dequantised to float32.

    Raises:
        ModelError: The file is not a GGUF causal language model that can be read.
        MissingExtraError: A library that is needed for it is not installed.
    """
    require("transformers", "gguf", "accelerate")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _silence_transformers()
    try:
        # Its reader draws a bar of its own that no setting turns off.
        with read_once(), redirect_stderr(StringIO()):
            model, report = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise refusal(f"{path}: not a readable GGUF model ({cause(error)}).", error) from error
    _refuse_incomplete(report, str(path))
    # Otherwise save_pretrained would write the quantised format's own configuration.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _read(source: str, revision: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _silence_transformers()
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise refusal(
            f"{source}: cannot be loaded as a causal language model ({cause(error)}). "
            "Expected a catalog name, a folder with config.json and safetensors, a .gguf file or "
            "a reachable hub id. `fedmedlora model list` shows the catalog.",
            error,
        ) from error
    _refuse_incomplete(report, source)
    return model, tokenizer


def refusal(text: str, error: Exception) -> ModelError | MissingExtraError:
    """This text, and what to install if the reader fell over a library that is not there."""
    if (library := missing_library(error, ask_text=True)) is not None:
        return MissingExtraError(f"{text} {not_installed(library)}")
    return ModelError(text)


def _silence_transformers() -> None:
    """Its progress bars and warnings would mix with ours; its errors are raised anyway."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def _refuse_incomplete(report: Mapping[str, Any], source: str) -> None:
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"{source}: {len(missing)} of the model's weights are not in its files "
            f"({', '.join(missing[:3])}). Use a complete copy."
        )


def _refuse_unsupported(model: Any, name: str) -> None:
    """Our own loss and choice logits multiply hidden states by the output weight, and no more."""
    config = model.config
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(f"{name}: the output layer has a bias or is missing; not supported.")
    for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise ModelError(f"{name}: the model rescales its logits ({key}); not supported yet.")


def _fingerprint(model: Any) -> str:
    """A digest of the shapes and of a fixed sample of every weight, in bfloat16.

    Reading every byte of an 8B model at each start would take longer than a round's overhead may;
    up to 512 values spread over each tensor tell any two real models apart.
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        flat = value.detach().reshape(-1)
        step = max(1, -(-flat.numel() // 512))
        sample = flat[::step].to(torch.bfloat16).view(torch.int16).cpu().numpy()
        digest.update(json.dumps([key, list(value.shape)]).encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()


__all__ = ["RECEIPT", "BaseModel", "load_base", "read_gguf", "refusal"]
