"""Extraction as users run it: an adapter, some files, a folder to write to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.adapters.files import CONFIG_FILE, load_adapter
from fedmedlora.core.errors import AdapterMismatchError, ConfigError, RunStoreError
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.brat_writer import note_files, write_brat
from fedmedlora.corpora.jsonl import JsonlReader, is_jsonl, write_jsonl
from fedmedlora.corpora.text import read_text_note
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import merged
from fedmedlora.prompts.registry import get_format
from fedmedlora.runs.store import RunStore
from fedmedlora.study.config import PromptConfig
from fedmedlora.study.run import INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter folder, what the model read and ran in when it was trained, and which it was."""

    folder: Path
    prompt: PromptConfig
    dtype: str
    base: str | None
    base_fingerprint: str | None


def extract_to(
    inputs: Sequence[Path],
    adapter: Path,
    out: Path,
    to: Literal["jsonl", "brat"],
    observer: Observer,
    *,
    model: str | None = None,
    labels: tuple[str, ...] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """What was read and written, as plain values; the predictions are below `out`.

    Raises:
        ConfigError: An input is missing, a label is not an entity label of the schema, or `out`
            holds other notes.
        CorpusError: A note cannot be read exactly, or BRAT cannot hold it.
        RunStoreError: `adapter` is neither a run nor an adapter folder.
        ModelError: The base model cannot be loaded.
        AdapterMismatchError: The adapter is for another base model.
    """
    import torch

    wanted = _labels_in_order(labels)
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty; expected a new folder, so that no notes are lost.")
    documents = list(_read(inputs))
    if to == "brat":
        for document in documents:
            note_files(document)  # raises now what writing would raise after hours
    trained = find_adapter(adapter)
    state = load_adapter(trained.folder)
    out.mkdir(parents=True, exist_ok=True)
    name = model or trained.base or state.spec.base_model
    observer.message(f"loading {name} with {trained.folder}")
    dtype = torch.bfloat16 if trained.dtype == "bfloat16" else torch.float32
    base = load_base(
        name,
        revision=state.spec.revision,
        dtype=dtype,
        say=observer.message,
    )
    if trained.base_fingerprint is None:
        observer.message(
            "the adapter is not in a run directory: assuming the default prompt, "
            f"{trained.prompt.format} with {trained.prompt.window_tokens} tokens a window"
        )
    bound = state.spec.revision.startswith("sha256-") and state.spec.revision != base.revision
    if bound or trained.base_fingerprint not in (None, base.fingerprint):
        raise AdapterMismatchError(
            f"{base.name}: is not the base model that {trained.folder} was trained on; expected "
            f"revision {state.spec.revision}, got {base.revision}. Name the right one with --model."
        )
    tags = get_format(trained.prompt.format)
    decoder = StepDecoder(merged(base, state), tags, batch_size=batch_size)
    extractor = Extractor(decoder, base.tokenizer, tags, window_tokens=trained.prompt.window_tokens)
    observer.stage("extraction", len(documents), "notes")
    predicted = list(extractor.extract(documents, wanted, observer))
    written = out / "documents.jsonl" if to == "jsonl" else out
    if to == "jsonl":
        write_jsonl(written, predicted)
    else:
        write_brat(out, predicted)
    return {
        "written": str(written),
        "documents": len(predicted),
        "entities": sum(len(document.entities) for document in predicted),
        "labels": list(wanted),
        "adapter": str(trained.folder),
    }


def find_adapter(path: Path) -> Trained:
    """The adapter at `path`: a run's last global adapter, or a peft folder.

    A peft folder outside a run was trained elsewhere: the default prompt and float32 are assumed.

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
    fingerprint = store.read_json(INPUTS)["base_fingerprint"]
    return Trained(folder, prompt, model["dtype"], model["base"], fingerprint)


def _labels_in_order(labels: Sequence[str] | None) -> tuple[str, ...]:
    """The labels in question, each once and in the schema's order, as in training."""
    known = tuple(default_schema().entity_labels)
    unknown = sorted(set(labels or ()) - set(known))
    if unknown:
        raise ConfigError(f"--labels: unknown {', '.join(unknown)}; expected {', '.join(known)}.")
    return tuple(label for label in known if labels is None or label in labels)


def _read(inputs: Sequence[Path]) -> Iterator[Document]:
    """The notes of files and folders, in name order; ids are unique over all inputs."""
    seen: set[str] = set()
    for path in inputs:
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix == ".txt" or is_jsonl(f))
            if not files:
                raise ConfigError(f"{path}: holds no .txt and no JSON lines file.")
            pairs = [(file, file.relative_to(path).with_suffix("").as_posix()) for file in files]
        elif path.is_file():
            pairs = [(path, path.stem)]
        else:
            raise ConfigError(f"{path}: no such file or folder.")
        for file, name in pairs:
            found = JsonlReader(file) if is_jsonl(file) else [read_text_note(file, name)]
            for document in found:
                if document.id in seen:
                    raise ConfigError(f"{file}: the id of a note occurs twice among the inputs.")
                seen.add(document.id)
                yield document.with_entities(())
