"""An adapter as it lies on disk, what else must be as in its training, and both as an extractor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from fedmedlora.core.errors import AdapterMismatchError, RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.relation_extractor import RelationExtractor
from fedmedlora.models.fetch import file_sha256
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import merged
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.runs.store import RunStore
from fedmedlora.study.config import PromptConfig
from fedmedlora.study.opening import OPENING
from fedmedlora.study.run import ADAPTERS
from fedmedlora.study.sites import INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoders import DecoderName


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter folder, what the model read and ran in when it was trained, and which it was.

    `modifiers` are those that it was trained to mark, `linked` says whether with what they belong
    to; none where it was not trained for relations. `opening` says by task how readily its tags
    open, as the run found.
    """

    folder: Path
    prompt: PromptConfig
    dtype: str
    base: str | None
    base_fingerprint: str | None
    tasks: tuple[Task, ...] = ("entities",)
    modifiers: tuple[str, ...] = ()
    linked: bool = False
    opening: Mapping[Task, float] = field(default_factory=dict)

    def sha256(self) -> str:
        """Of the adapter's weights and configuration, wherever the folder lies."""
        files = [file_sha256(self.folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)]
        return hashlib.sha256("".join(files).encode()).hexdigest()


def find_adapter(path: Path) -> Trained:
    """The adapter at `path`: a run's last global adapter, or a peft folder.

    A peft folder outside a run was trained elsewhere: the default prompt, float32 and the task
    entities are assumed.

    Raises:
        RunStoreError: There is no adapter.
    """
    if (path / CONFIG_FILE).is_file():
        for parent in path.resolve().parents:
            if (parent / "config.json").is_file() and (parent / "adapters").is_dir():
                return _of_run(RunStore.open(parent), path)
        return Trained(path, PromptConfig(), "float32", None, None)
    if (path / "config.json").is_file():
        checkpoint = Checkpoint(path / "adapters")
        rounds = checkpoint.rounds()
        if not rounds:
            raise RunStoreError(
                f"{path}: the run has no finished federated round. Resume it, or name one of the "
                "adapter folders below its adapters folder."
            )
        return _of_run(RunStore.open(path), checkpoint.round_folder(rounds[-1]))
    raise RunStoreError(
        f"{path}: neither a run directory nor a peft adapter folder; expected {CONFIG_FILE} or "
        "config.json in it."
    )


def _of_run(store: RunStore, folder: Path) -> Trained:
    prompt = PromptConfig.model_validate(store.config.get("prompt", {}))
    model = store.config["model"]
    inputs = store.read_json(INPUTS)
    place = folder.resolve().parent.relative_to(store.path.resolve()).as_posix()
    taught = inputs.get(ADAPTERS, {}).get(place, {"tasks": ["entities"]})
    return Trained(
        folder,
        prompt,
        model["dtype"],
        model["base"],
        inputs["base_fingerprint"],
        tuple(taught["tasks"]),
        tuple(taught.get("modifiers", ())),
        taught.get("linked", False),
        store.read_json(OPENING).get(place, {}) if store.has(OPENING) else {},
    )


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
    *,
    model: str | None = None,
    decoder: DecoderName = "copy",
    batch_size: int = 64,
    chunk_windows: int = 512,
) -> tuple[NoteExtractor, str]:
    """The extractor, and the fingerprint of the base model in it.

    Args:
        trained: The adapter.
        observer: Told what is loaded and what is assumed.
        model: The base model's name or place; by default the adapter's own.
        decoder: Which one.
        batch_size: Windows decoded side by side.
        chunk_windows: See `Extractor`.

    Raises:
        RunStoreError: The adapter is damaged.
        ModelError: The base model cannot be loaded.
        AdapterMismatchError: The adapter is for another base model.
    """
    import torch

    state = load_adapter(trained.folder)
    name = model or trained.base or state.spec.base_model
    observer.message(f"loading {name} with {trained.folder}")
    dtype = torch.bfloat16 if trained.dtype == "bfloat16" else torch.float32
    base = load_base(name, revision=state.spec.revision, dtype=dtype, say=observer.message)
    prompt = trained.prompt
    if trained.base_fingerprint is None:
        observer.message(
            "the adapter is not in a run directory: assuming that it was trained for entities "
            f"alone with the default prompt, {prompt.format} with {prompt.window_tokens} tokens a "
            "window"
        )
    bound = state.spec.revision.startswith("sha256-") and state.spec.revision != base.revision
    if bound or trained.base_fingerprint not in (None, base.fingerprint):
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
