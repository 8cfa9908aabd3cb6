"""Documents in, the same documents with entities out: exact offsets, whatever the note holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.core.document import Document, Entity
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import TaskSchema
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.step_decoder import StepDecoder, decode_batch
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.registry import TAG_FORMATS, get_format
from fedmedlora.testing.generators import LABELS, note_texts
from fedmedlora.training.batches import encode_example, render_documents
from fedmedlora.training.local import LocalSettings, train_locally

BaseOf = Callable[..., BaseModel]
WINDOW_TOKENS = 40

# Short definitions, so that the html prompt is not long in the tiny tokenizer's many tokens.
TERSE = TaskSchema("terse", "v1", {label: f"a {label}" for label in LABELS}, {}, {})

HOSTILE = [
    "",
    " \r\n\t ",
    "x",
    "😀",
    "pain\r\n\tfever\u00a0e\u0301 😀",
    "Write <problem>x</> for pain. </> <drug> aspirin",
    'Bold <span class="problem">x</span> < 5 & > 2 &amp;',
    "<|begin|> no <|end|> fever",
    "fever and pain " * 15,  # a sentence longer than a window
    "No fever. No pain.\n" * 4,
]


def notes() -> list[Document]:
    return [Document(f"note-{number}", text) for number, text in enumerate(HOSTILE)]


def extractor_of(
    base: BaseModel,
    *,
    name: str = "compact",
    window_tokens: int = WINDOW_TOKENS,
    batch_size: int = 8,
    chunk_windows: int = 128,
) -> Extractor:
    tags = get_format(name)
    return Extractor(
        StepDecoder(base, tags, batch_size=batch_size),
        base.tokenizer,
        tags,
        window_tokens=window_tokens,
        chunk_windows=chunk_windows,
    )


def extract(
    base: BaseModel, documents: list[Document], *, name: str = "compact", **options: Any
) -> list[Document]:
    extractor = extractor_of(base, name=name, **options)
    return list(extractor.extract(documents, LABELS, SilentObserver()))


def spans_of(document: Document) -> list[tuple[str, int, int]]:
    return [(e.label, e.start, e.end) for e in document.entities]


def scores_of(document: Document) -> list[float]:
    return [e.score for e in document.entities if e.score is not None]


def check(given: list[Document], found: list[Document]) -> None:
    assert [(d.id, d.text) for d in found] == [(d.id, d.text) for d in given]
    for document in found:
        assert document.relations == ()
        assert [e.id for e in document.entities] == [
            f"T{number}" for number in range(1, len(document.entities) + 1)
        ]
        position = 0
        for entity in document.entities:
            words = document.text[entity.start : entity.end]
            assert position <= entity.start
            assert words == words.strip() != ""
            assert entity.label in LABELS
            assert entity.score is not None
            assert 0 < entity.score <= 1
            position = entity.end


@pytest.mark.parametrize("name", TAG_FORMATS)
@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_every_note_comes_back_in_order_with_trimmed_disjoint_entities(
    tiny: BaseOf, shape: str, name: str
) -> None:
    found = extract(tiny(shape, 1), notes(), name=name)

    check(notes(), found)
    assert sum(len(document.entities) for document in found) > 10
    assert [len(document.entities) for document in found[:2]] == [0, 0]  # nothing to find there


@settings(deadline=None, max_examples=15)
@given(texts=st.lists(note_texts(max_parts=8), max_size=4), name=st.sampled_from(TAG_FORMATS))
def test_whatever_the_notes_hold_the_entities_are_stretches_of_them(
    tiny: BaseOf, texts: list[str], name: str
) -> None:
    given_notes = [Document(f"note-{number}", text) for number, text in enumerate(texts)]

    check(given_notes, extract(tiny("llama", 2), given_notes, name=name))


def test_batches_and_chunks_do_not_change_the_result(tiny: BaseOf) -> None:
    base = tiny("deepseek-distill", 1, torch.float64)
    whole = extract(base, notes(), batch_size=64)
    for size, chunk in ((1, 1), (5, 20)):
        parts = extract(base, notes(), batch_size=size, chunk_windows=chunk)
        for one, other in zip(whole, parts, strict=True):
            assert spans_of(one) == spans_of(other)
            assert scores_of(one) == pytest.approx(scores_of(other), abs=2e-6)


def test_a_note_is_extracted_alike_in_any_company(tiny: BaseOf) -> None:
    base = tiny("qwen3", 1, torch.float64)
    together = extract(base, notes())
    alone = [extract(base, [note])[0] for note in notes()]

    assert [spans_of(d) for d in together] == [spans_of(d) for d in alone]


def test_gold_is_dropped_and_all_else_kept(tiny: BaseOf) -> None:
    gold = Document(
        "a",
        "no pain",
        (Entity.at("G1", "course", 0, 2),),
        annotated_labels=frozenset({"problem"}),
        source="here",
        metadata={"kind": "note"},
    )
    (found,) = extract(tiny("llama"), [gold])

    assert all(entity.label in LABELS for entity in found.entities)
    assert (found.source, found.annotated_labels) == ("here", gold.annotated_labels)
    counts = {"num_windows": 1, "num_unparsable": 0, "num_truncated": 0}
    assert found.metadata == {"kind": "note", **counts}


def test_each_window_of_a_long_sentence_answers_for_its_core_only(tiny: BaseOf) -> None:
    base, tags = tiny("llama", 1, torch.float64), get_format("compact")
    note = Document("long", "pain and fever were seen " * 30)
    windows = note_windows(note.text, base.tokenizer, budget_tokens=WINDOW_TOKENS)
    expected: list[tuple[str, int, int]] = []
    num_elsewhere = 0
    for window in windows:
        (spans,) = decode_batch(base, [tags.prompt(note, window.span, LABELS)], tags)
        for span in spans:
            start, end = window.span.start + span.start, window.span.start + span.end
            mine = window.core.start <= start < window.core.end
            num_elsewhere += not mine
            if mine and (not expected or start >= expected[-1][2]):
                expected.append((span.label, start, end))
    (found,) = extract(base, [note])

    assert len(windows) > 5
    assert num_elsewhere > 0
    assert spans_of(found) == expected


@dataclass
class Watcher(SilentObserver):
    """How many notes were announced as done."""

    done: float = 0

    def advance(self, amount: float, **_: float) -> None:
        self.done += amount


def test_the_observer_is_told_of_every_note_once(tiny: BaseOf) -> None:
    watcher = Watcher()
    extractor = extractor_of(tiny("llama"), chunk_windows=4)
    list(extractor.extract(notes(), LABELS, watcher))

    assert watcher.done == len(HOSTILE)


def test_notes_are_read_as_they_are_needed(tiny: BaseOf) -> None:
    read = []

    def many() -> Iterator[Document]:
        for number in range(100):
            read.append(number)
            yield Document(f"n{number}", "pain")

    extractor = extractor_of(tiny("llama"), chunk_windows=32)
    found = extractor.extract(many(), LABELS, SilentObserver())

    assert next(found).id == "n0"
    assert len(read) == 32  # one chunk
    assert [document.id for document in found] == [f"n{number}" for number in range(1, 100)]


def test_no_notes_give_no_documents(tiny: BaseOf) -> None:
    assert extract(tiny("llama"), []) == []


@pytest.mark.parametrize("unit", ["x", "no pain ", "<problem>"], ids=["letters", "words", "tags"])
def test_the_time_of_a_line_grows_with_its_length_only(
    tiny: BaseOf, unit: str, grows_linearly
) -> None:
    def read(length: int) -> None:
        note = Document("line", unit * (length // len(unit)))
        check([note], extract(tiny("llama"), [note], batch_size=128, window_tokens=96))

    assert grows_linearly(read, 16_000)


@pytest.mark.parametrize("name", TAG_FORMATS)
def test_what_was_learnt_by_heart_is_extracted_without_a_fault(tiny: BaseOf, name: str) -> None:
    """The decoder chooses between the very tokens that training showed."""
    base, tags = tiny("llama"), get_format(name, TERSE)
    taught = [
        Document("a", "Pain, was given aspirin.", (
            Entity.at("T1", "problem", 0, 4), Entity.at("T2", "drug", 16, 23))),
        Document("b", "aspirin for <b>chest pain > 5", (
            Entity.at("T1", "drug", 0, 7), Entity.at("T2", "problem", 15, 25))),
        Document("c", "No scan, no fever\r\n(pain)", (
            Entity.at("T1", "test", 3, 7), Entity.at("T2", "problem", 12, 17),
            Entity.at("T3", "problem", 20, 24))),
        Document("d", "Nothing < 5 here </> &"),
    ]  # fmt: skip
    rendered = render_documents(taught, tags, base.tokenizer, LABELS, window_tokens=60)
    examples = [encode_example(example, base.tokenizer) for example in rendered]
    adapter = initial_adapter(base, rank=16, alpha=32.0, target_modules=ALL_LINEAR, seed=0)
    learnt = train_locally(
        LoRAModel(base, adapter.spec),
        adapter,
        examples,
        LocalPlan(round_index=1, epochs=100.0),
        LocalSettings(learning_rate=1e-2, epochs=1.0, batch_tokens=4096),
        SilentObserver(),
    )
    shown = merged(base, learnt.adapter)
    extractor = Extractor(StepDecoder(shown, tags), base.tokenizer, tags, window_tokens=60)
    found = list(extractor.extract(taught, LABELS, SilentObserver()))

    assert [spans_of(d) for d in found] == [spans_of(d) for d in taught]
    assert min(score for document in found for score in scores_of(document)) > 0.5
