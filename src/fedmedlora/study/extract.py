"""Extraction as users run it: an adapter, many notes, a folder to write to."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, Literal

from fedmedlora import __version__
from fedmedlora.core import answer_counts
from fedmedlora.core.errors import ConfigError, RunStoreError
from fedmedlora.core.schema import default_schema
from fedmedlora.core.words import counted
from fedmedlora.corpora.formats import TARGETS
from fedmedlora.runs import atomic
from fedmedlora.runs.lock import exclusive
from fedmedlora.study.extraction_inputs import Columns, NoteInputs
from fedmedlora.study.extraction_machine import MachineRequest, choose_machine
from fedmedlora.study.extraction_output import make_output, stored_as
from fedmedlora.study.extraction_progress import (
    Progress,
    chained,
    find_progress,
    refuse_other_settings,
    skip_finished,
)
from fedmedlora.study.note_extractor import load_extractor
from fedmedlora.study.trained_adapter import find_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoders import DecoderName
    from fedmedlora.study.extraction_machine import Machine
    from fedmedlora.study.extraction_output import ExtractionFormat, Output
    from fedmedlora.study.extraction_page import PageWriter
    from fedmedlora.study.trained_adapter import Trained

ENTITIES, MODIFIERS, RELATIONS = "entities", "modifiers", "relations"
DROPPED_ENTITIES, DROPPED_MODIFIERS = "dropped_entities", "dropped_modifiers"
WINDOWS, UNPARSABLE, TRUNCATED, UNALIGNED = "windows", "unparsable", "truncated", "unaligned"
COUNTS = (
    *(ENTITIES, MODIFIERS, RELATIONS, DROPPED_ENTITIES, DROPPED_MODIFIERS),
    *(WINDOWS, UNPARSABLE, TRUNCATED, UNALIGNED),
)


@dataclass(frozen=True, slots=True)
class ExtractionRequest:
    """What a user asks for.

    Attributes:
        inputs: See `NoteInputs`.
        adapter: A run directory or a peft adapter folder.
        out: A folder of its own for the output.
        to: The output's format.
        model: The base model's name or place; by default the adapter's own.
        labels: Which to mark; by default all entity labels of the schema, and all modifiers that
            the adapter was trained for.
        decoder: Which one.
        threshold: Entities and modifiers with a lower score are dropped, and their links.
        batch_size: Windows decoded side by side.
        chunk_windows: See `Extractor`; the work is saved after each chunk.
        columns: Of tables.
        prompt: Format of the prompt, before what is known of the adapter.
        window_tokens: Tokens a window, likewise.
        machine: Threads, device and number type.
        resume: Go on with what was interrupted in `out`, if anything was.
    """

    inputs: tuple[Path, ...]
    adapter: Path
    out: Path
    to: ExtractionFormat = "jsonl"
    model: str | None = None
    labels: tuple[str, ...] | None = None
    decoder: DecoderName = "copy"
    threshold: float | None = None
    batch_size: int = 64
    chunk_windows: int = 512
    columns: Columns = field(default_factory=Columns)
    prompt: Literal["compact", "html"] | None = None
    window_tokens: int | None = None
    machine: MachineRequest = field(default_factory=MachineRequest)
    resume: bool = False


def extract_to(
    request: ExtractionRequest,
    observer: Observer,
    *,
    stdin: IO[bytes] | None = None,
    started: Callable[[], None] = lambda: None,
    write_page: PageWriter | None = None,
) -> dict[str, Any]:
    """What was read and written, as plain values; the predictions are below `request.out`.

    Notes of files are all checked before a model is loaded. Then they are read as they are needed,
    and what was predicted is saved chunk by chunk: a killed extraction that is resumed ends with
    the bytes of one that was not.

    Args:
        request: What to do.
        observer: Told of each note that is done.
        stdin: What the input `-` stands for.
        started: Called once there is something to resume.
        write_page: Makes the page of the format `html`, which needs it.

    Raises:
        ConfigError: An input is missing, the adapter was not trained for entities, a label is not
            one that it marks, `out` holds something else or was begun with other settings, or the
            decoder gives no scores to compare with the threshold.
        CorpusError: A note cannot be read exactly, or the output's format cannot hold it.
        RunStoreError: `adapter` is neither a run nor an adapter folder; `out` cannot be written,
            is damaged or in use; or the notes that were done before have changed.
        ModelError: The base model cannot be loaded.
        AdapterMismatchError: The adapter is for another base model.
    """
    trained = find_adapter(request.adapter).asked_by(request.prompt, request.window_tokens)
    if "entities" not in trained.tasks:
        raise ConfigError(
            f"{trained.folder}: the adapter was trained for relations alone, which are marked "
            "between entities; expected one that was trained for entities too. Name another "
            "adapter folder of the run."
        )
    if trained.modifiers and request.decoder == "generate":
        observer.message("--decoder generate marks entities only: no modifiers, no relations")
    labels, modifiers = _labels_in_order(request, trained)
    output = make_output(request.to, request.out, write_page)
    found = find_progress(request.out, resume=request.resume)
    inputs = NoteInputs(
        request.inputs, TARGETS[stored_as(request.to)].check, request.columns, stdin
    )
    inputs.refuse_inside(request.out)
    num_notes = inputs.count()
    if num_notes is not None:
        observer.message(f"{counted(num_notes, 'note')} found")
    for remark in inputs.remarks():
        observer.message(remark)
    if trained.doubt:
        observer.message(trained.doubt)
    before = found.settings if found else None
    machine = choose_machine(request.machine, trained.dtype, before, observer)
    settings = _settings(request, trained, (*labels, *modifiers), inputs, machine)
    done = found or Progress(settings=settings)
    refuse_other_settings(request.out, done, settings)
    notes = inputs.notes()
    skip_finished(request.out, done, notes)
    if done.finished:
        observer.message(f"{request.out}: finished before; nothing is left to do")
        return _summary(request, trained, output, done, 0, 0.0)
    extractor, fingerprint = load_extractor(
        trained,
        observer,
        machine,
        model=request.model,
        decoder=request.decoder,
        batch_size=request.batch_size,
        chunk_windows=request.chunk_windows,
    )
    settings["base_model"] = fingerprint
    if found:
        refuse_other_settings(request.out, found, settings)
        observer.message(f"continuing after the {counted(found.num_notes, 'note')} already done")
    done = done.model_copy(update={"settings": settings})
    request.out.mkdir(parents=True, exist_ok=True)
    with exclusive(request.out):
        if find_progress(request.out, resume=request.resume) != found:
            raise RunStoreError(f"{request.out}: another process has worked here. Start again.")
        atomic.clear_leftovers(request.out)
        done.save(request.out)
        started()
        left = 0 if num_notes is None else num_notes - done.num_notes
        observer.stage("extraction", left, "notes")
        num_before, began = done.num_notes, time.monotonic()
        done = _write(
            extractor.extract_chunks(notes, labels, modifiers, observer), done, request, output
        )
    seconds = time.monotonic() - began
    return _summary(request, trained, output, done, done.num_notes - num_before, seconds)


def _write(
    chunks: Iterator[list[Document]], done: Progress, request: ExtractionRequest, output: Output
) -> Progress:
    """The progress at the end, after each chunk is on disk and told of."""
    output.begin(done)
    for chunk in chunks:
        counts = Counter(done.counts)
        kept = [_above(request.threshold, document, counts) for document in chunk]
        digest = done.notes_sha256
        for document in chunk:
            digest = chained(digest, document)
        num_notes = done.num_notes + len(chunk)
        done = Progress(
            settings=done.settings,
            num_notes=num_notes,
            notes_sha256=digest,
            num_bytes=output.stage(kept, num_notes),
            counts={name: counts[name] for name in COUNTS},
        )
        done.save(request.out)
        output.commit(num_notes)
    output.finish()
    done = done.model_copy(update={"finished": True})
    done.save(request.out)
    return done


def _above(threshold: float | None, document: Document, counts: Counter[str]) -> Document:
    """The document without mentions of too low a score, and without their links; counts."""
    kept = document
    if threshold is not None:
        if any(entity.score is None for entity in document.entities):
            raise ConfigError("--threshold: this decoder gives no scores. Leave the option out.")
        sure = [e for e in document.entities if e.score is not None and e.score >= threshold]
        ids = {entity.id for entity in sure}
        links = tuple(r for r in document.relations if r.head in ids and r.tail in ids)
        kept = replace(document, entities=tuple(sure), relations=links)
    (entities, modifiers), (all_entities, all_modifiers) = _by_kind(kept), _by_kind(document)
    counts[ENTITIES] += entities
    counts[MODIFIERS] += modifiers
    counts[RELATIONS] += len(kept.relations)
    counts[DROPPED_ENTITIES] += all_entities - entities
    counts[DROPPED_MODIFIERS] += all_modifiers - modifiers
    for name, key in (
        (WINDOWS, answer_counts.NUM_WINDOWS),
        (UNPARSABLE, answer_counts.NUM_UNPARSABLE),
        (TRUNCATED, answer_counts.NUM_TRUNCATED),
    ):
        counts[name] += document.metadata[key]
    counts[UNALIGNED] += sum(document.metadata.get(answer_counts.UNALIGNED, {}).values())
    return kept


def _by_kind(document: Document) -> tuple[int, int]:
    """How many entities and how many modifiers a document has."""
    modifiers = sum(e.label in default_schema().modifier_labels for e in document.entities)
    return len(document.entities) - modifiers, modifiers


def _settings(
    request: ExtractionRequest,
    trained: Trained,
    labels: Sequence[str],
    inputs: NoteInputs,
    machine: Machine,
) -> dict[str, Any]:
    """All that the output depends on and that is known before the base model is loaded."""
    return {
        "version": __version__,
        "adapter": trained.sha256(),
        "inputs": inputs.sha256,
        "text_column": request.columns.text,
        "id_column": request.columns.id,
        "format": request.to,
        "labels": list(labels),
        "decoder": request.decoder,
        "threshold": request.threshold,
        "open_bonus": dict(trained.opening),
        "prompt": trained.prompt.format,
        "window_tokens": trained.prompt.window_tokens,
        "threads": request.machine.threads,
        **machine.to_json(),
        "batch_size": request.batch_size,
        "chunk_windows": request.chunk_windows,
    }


def _labels_in_order(
    request: ExtractionRequest, trained: Trained
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entities and modifiers in question, each once and in the schema's order, as in training."""
    entities = tuple(default_schema().entity_labels)
    modifiers = () if request.decoder == "generate" else trained.modifiers
    if request.labels is None:
        return entities, modifiers
    known = (*entities, *modifiers)
    if unknown := sorted(set(request.labels) - set(known)):
        raise ConfigError(f"--labels: unknown {', '.join(unknown)}; expected {', '.join(known)}.")
    asked = tuple(label for label in entities if label in request.labels)
    if not asked:
        raise ConfigError(
            "--labels: expected at least one entity label, because modifiers are marked between "
            f"entities; got {', '.join(request.labels)}. Add some of {', '.join(entities)}."
        )
    return asked, tuple(label for label in modifiers if label in request.labels)


def _summary(
    request: ExtractionRequest,
    trained: Trained,
    output: Output,
    done: Progress,
    num_new: int,
    seconds: float,
) -> dict[str, Any]:
    """Of all notes; time and rate are those of the notes that were done now."""
    return {
        "written": str(output.path),
        "documents": done.num_notes,
        **done.counts,
        "dropped_below_threshold": sum(
            done.counts.get(name, 0) for name in (DROPPED_ENTITIES, DROPPED_MODIFIERS)
        ),
        "done_before": done.num_notes - num_new,
        "seconds": round(seconds, 3),
        "notes_per_second": round(num_new / seconds, 3) if seconds else 0.0,
        "labels": done.settings["labels"],
        "threshold": request.threshold,
        "adapter": str(trained.folder),
    }
