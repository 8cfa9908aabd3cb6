"""An adapter and its base model as an extractor of notes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.files import load_adapter
from fedmedlora.core.errors import AdapterMismatchError, ModelError
from fedmedlora.core.records import SilentObserver
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.relation_extractor import RelationExtractor
from fedmedlora.models.catalog import PRESETS
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import merged
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_formats import get_relation_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoders import DecoderName
    from fedmedlora.study.extraction_machine import Machine
    from fedmedlora.study.trained_adapter import Trained


class NoteExtractor:
    """Entities, then their modifiers and relations, in one go.

    `relations` is None where only entities are extracted.
    """

    def __init__(self, entities: Extractor, relations: RelationExtractor | None) -> None:
        self._entities = entities
        self._relations = relations

    def extract_chunks(
        self,
        documents: Iterable[Document],
        labels: Sequence[str],
        modifiers: Sequence[str],
        observer: Observer,
    ) -> Iterator[list[Document]]:
        """The documents with what was found, chunk by chunk; see `Extractor`."""
        for chunk in self._entities.extract_chunks(documents, labels, observer):
            if self._relations is None or not modifiers:
                yield chunk
            else:
                yield list(self._relations.extract(chunk, modifiers, SilentObserver()))


def load_extractor(
    trained: Trained,
    observer: Observer,
    machine: Machine,
    *,
    model: str | None = None,
    decoder: DecoderName = "copy",
    batch_size: int = 64,
    chunk_windows: int = 512,
) -> tuple[NoteExtractor, str]:
    """The extractor, and the fingerprint of the base model in it.

    Args:
        trained: The adapter.
        observer: Told what is loaded.
        machine: What the model runs on and in.
        model: The base model's name or place; by default the adapter's own.
        decoder: Which one.
        batch_size: Windows decoded side by side.
        chunk_windows: See `Extractor`.

    Raises:
        RunStoreError: The adapter is damaged.
        ModelError: The base model cannot be loaded.
        AdapterMismatchError: The adapter is for another base model.
    """
    state = load_adapter(trained.folder)
    name = model or trained.base or state.spec.base_model
    is_local = state.spec.revision.startswith("sha256-") and name not in PRESETS
    if model is None and is_local and not Path(name).expanduser().exists():
        raise ModelError(
            f"{trained.folder}: was trained on the local base model {name}, which cannot be "
            "found. Say where it is with --model."
        )
    observer.message(f"loading {name}")
    base = load_base(
        name,
        revision=state.spec.revision,
        dtype=torch.bfloat16 if machine.dtype == "bfloat16" else torch.float32,
        device=machine.device,
        kernel=machine.kernel,
        say=observer.message,
    )
    prompt = trained.prompt
    if not trained.fits(state.spec, base):
        raise AdapterMismatchError(
            f"{base.name}: is not the base model that {trained.folder} was trained on; expected "
            f"revision {state.spec.revision}, got {base.revision}. Name the right one with --model."
        )
    tags = get_format(prompt.format)
    base = merged(base, state)
    entities = Extractor(
        make_decoder(decoder, base, tags, batch_size, trained.opening.get("entities", 0.0)),
        base.tokenizer,
        tags,
        window_tokens=prompt.window_tokens,
        chunk_windows=chunk_windows,
    )
    relations = None
    if trained.modifiers and decoder != "generate":
        formatted = get_relation_format(prompt.format)
        relations = RelationExtractor(
            make_decoder(
                decoder, base, formatted, batch_size, trained.opening.get("relations", 0.0)
            ),
            base.tokenizer,
            formatted,
            window_tokens=prompt.window_tokens,
            linked=trained.linked,
            chunk_windows=chunk_windows,
        )
    return NoteExtractor(entities, relations), base.fingerprint
