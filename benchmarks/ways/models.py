"""The base model with an adapter merged, by prompt format and number type, on one device."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from benchmarks.ways.adapters import trained_adapter
from fedmedlora.adapters.files import load_adapter
from fedmedlora.models.dtype import choose_dtype
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import merged
from fedmedlora.prompts.registry import get_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.ways.adapters import Training
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.models.load import BaseModel
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat

FormatName = Literal["html", "compact"]
CACHE = Path(__file__).resolve().parents[1] / "cache"


class Models:
    """What is extracted with. An adapter is trained in the main number type and merged in any.

    `given` holds adapter folders by format; where there is none, an adapter is trained.
    """

    def __init__(
        self,
        name: str,
        dtype: str,
        device: str,
        given: Mapping[FormatName, Path | None],
        training: Training,
        say: Callable[[str], None],
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            choice = choose_dtype()
            say(choice.reason)
            dtype = choice.name if device == "cpu" else "bfloat16"
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.device = device
        load = cache(lambda wanted: _load(name, wanted, say))
        self._base: Callable[[torch.dtype], BaseModel] = load
        # All now, on the CPU: merged models share weights with the base and move them to the GPU.
        self._adapters = {
            name: self._adapter(get_format(name), folder, training, say)
            for name, folder in given.items()
        }

    @property
    def adapter_digests(self) -> dict[FormatName, str]:
        """SHA-256 of the adapters by format."""
        return {name: adapter.digest() for name, adapter in self._adapters.items()}

    @property
    def tokenizer(self) -> PieceTokenizer:
        """The base model's."""
        return self._base(self.dtype).tokenizer

    def merged(self, format_name: FormatName, dtype: torch.dtype) -> tuple[BaseModel, TagFormat]:
        """The model with the format's adapter in it, and the format."""
        tags = get_format(format_name)
        ready = merged(self._base(dtype), self._adapters[format_name])
        ready.model.to(self.device)
        return ready, tags

    def _adapter(
        self,
        tags: TagFormat,
        folder: Path | None,
        training: Training,
        say: Callable[[str], None],
    ) -> AdapterState:
        if folder is not None:
            return load_adapter(folder)
        return trained_adapter(self._base(self.dtype), tags, training, CACHE, say)


def _load(name: str, dtype: torch.dtype, say: Callable[[str], None]) -> BaseModel:
    if name != "tiny":
        return load_base(name, dtype=dtype, say=say)
    from fedmedlora.testing.tiny import tiny_base

    with tempfile.TemporaryDirectory() as folder:
        return tiny_base(Path(folder) / "tiny", dtype=dtype)
