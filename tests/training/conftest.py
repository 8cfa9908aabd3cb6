"""Tiny models, an adapter with something in it, and examples of uneven length."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.document import Document, Entity
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.prompts.registry import get_format
from fedmedlora.testing.generators import LABELS
from fedmedlora.testing.tiny import tiny_base
from fedmedlora.training.batches import EncodedExample, encode_example, render_documents

TEXTS = [
    "Pain and fever. Given aspirin 81 mg daily.",
    "No fever.",
    "The patient had pain, was given aspirin, and a scan of the chest showed no mass; pain went.",
    "Scan of the chest: no mass.",
    "Fever since Monday, pain since Sunday. Aspirin was stopped.",
    "Pain.",
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseModel]:
    """A tiny base model by shape, seed and dtype; the same object for the same arguments."""

    @cache
    def build(shape: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> BaseModel:
        return tiny_base(tmp_path_factory.mktemp("tiny"), shape, seed, dtype)  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def notes() -> list[Document]:
    """Notes in which every pain and fever is a problem and every aspirin a drug."""
    made = []
    for number, text in enumerate(TEXTS):
        entities = []
        for word, label in (("pain", "problem"), ("fever", "problem"), ("aspirin", "drug")):
            at = text.lower().find(word)
            while at >= 0:
                entities.append(Entity.at(f"T{len(entities)}", label, at, at + len(word)))
                at = text.lower().find(word, at + 1)
        made.append(Document(f"note-{number}", text, tuple(entities)))
    return made


@pytest.fixture(scope="session")
def examples(tiny: Callable[..., BaseModel], notes: list[Document]) -> list[EncodedExample]:
    """One example a window, of very different lengths. All shapes share one tokenizer."""
    tokenizer = tiny("llama").tokenizer
    rendered = render_documents(notes, get_format("compact"), tokenizer, LABELS, window_tokens=60)
    return [encode_example(example, tokenizer) for example in rendered]


@pytest.fixture(scope="session")
def adapter_of(tiny: Callable[..., BaseModel]) -> Callable[..., AdapterState]:
    """An adapter for a tiny model; `scale` is the size of `B`, 0 for a fresh one."""

    def build(base: BaseModel, seed: int = 0, scale: float = 0.0) -> AdapterState:
        start = initial_adapter(base, rank=4, alpha=8.0, target_modules=ALL_LINEAR, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        pairs = {
            name: LoRAPair(A=p.A, B=scale * torch.randn(p.B.shape, generator=generator))
            for name, p in start.pairs.items()
        }
        return AdapterState(start.spec, pairs)

    return build


@pytest.fixture(scope="session")
def lora_of(adapter_of: Callable[..., AdapterState]) -> Callable[[BaseModel], LoRAModel]:
    """The one LoRA model of a base model; tests load the adapter that they need."""

    @cache
    def build(key: int) -> LoRAModel:
        base = bases[key]
        return LoRAModel(base, adapter_of(base).spec)

    bases: dict[int, BaseModel] = {}

    def find(base: BaseModel) -> LoRAModel:
        bases[id(base)] = base
        return build(id(base))

    return find
