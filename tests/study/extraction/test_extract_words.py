"""What an extraction says and chooses: the machine, the notes that hold nothing, its folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.extract import _in_words, default_out
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.dtype import DtypeChoice
from fedmedlora.study import extraction_machine
from fedmedlora.study.extract import ExtractionRequest, extract_to
from fedmedlora.study.extraction_machine import Machine, MachineRequest, choose_machine

RequestOf = Callable[..., ExtractionRequest]


class Listener(SilentObserver):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    ("inputs", "out"),
    [
        (["ward/note.txt"], "note-marked"),
        (["ward/notes.jsonl.gz"], "notes-marked"),
        (["table.v2.csv"], "table.v2-marked"),
        (["ward/"], "ward-marked"),
        (["-"], "stdin-marked"),
        (["a.txt", "b.txt"], "notes-marked"),
    ],
)
def test_the_folder_is_named_after_the_input(inputs: list[str], out: str) -> None:
    assert default_out([Path(name) for name in inputs]) == Path(out)


def test_what_is_dropped_is_told_by_kind() -> None:
    summary = {
        "documents": 1,
        "entities": 2,
        "modifiers": 0,
        "relations": 1,
        "threshold": 0.99,
        "dropped_entities": 8,
        "dropped_modifiers": 0,
        "windows": 1,
        "unparsable": 0,
        "truncated": 0,
        "unaligned": 1,
    }

    assert _in_words(summary) == (
        "1 note, 2 entities (8 below 0.99 dropped), 0 modifiers (0 below 0.99 dropped), "
        "1 relation; of 1 window 0 unparsable and 0 truncated; 1 mention not in their note"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [(b"", "stdin: empty"), (b"\xff\xfe", "is not UTF-8"), (b'{"id": 1}\n', "stdin:1: ")],
)
def test_standard_input_that_cannot_be_read_is_refused_before_a_model_is_loaded(
    request_of: RequestOf, monkeypatch: pytest.MonkeyPatch, given: bytes, told: str
) -> None:
    monkeypatch.setattr("fedmedlora.study.extract.load_extractor", None)
    request = request_of(inputs=(Path("-"),))

    with pytest.raises(CorpusError, match=told):
        extract_to(request, SilentObserver(), stdin=io.BytesIO(given))
    assert not request.out.exists()


def test_the_note_that_was_looked_at_is_marked_with_the_others(
    request_of: RequestOf, marker: Any
) -> None:
    lines = b'{"id": "a", "text": "aspirin"}\n{"id": "b", "text": "fever"}\n'

    summary = extract_to(request_of(inputs=(Path("-"),)), SilentObserver(), stdin=io.BytesIO(lines))

    assert summary["documents"] == 2
    assert marker.documents == ["a", "b"]


def test_rows_without_a_note_are_told_with_their_lines(
    request_of: RequestOf, marker: Any, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text('id,text\n1,aspirin\n\n2,\n3,"fever\nagain"\n4, \n\n', "utf-8")
    listener = Listener()

    extract_to(request_of(inputs=(table,)), listener)

    assert f"{table}: passed over blank lines 3, 8" in listener.said
    assert (
        f"{table}: no text in the rows at lines 4, 7; nothing can be marked there" in listener.said
    )


# What it runs on.

SLOW = DtypeChoice("float32", "onednn", 2.0, 1.0, 9.0)
EQUAL = DtypeChoice("float32", "torch", 1.0, None, 0.9)
FAST = DtypeChoice("bfloat16", "torch", 3.0, None, 1.0)


@pytest.mark.parametrize(
    ("trained", "measured", "chosen"),
    [
        ("auto", SLOW, ("float32", "onednn")),
        ("auto", FAST, ("bfloat16", "torch")),
        ("bfloat16", FAST, ("bfloat16", "torch")),
        ("bfloat16", EQUAL, ("bfloat16", "torch")),
        ("bfloat16", SLOW, ("float32", "onednn")),
        ("float32", None, ("float32", "torch")),
    ],
)
def test_the_number_type_is_that_of_training_unless_it_is_slow_here(
    trained: str,
    measured: DtypeChoice | None,
    chosen: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extraction_machine, "choose_dtype", lambda _: measured)
    listener = Listener()

    found = choose_machine(MachineRequest(device="cpu"), trained, None, listener)

    assert (found.dtype, found.kernel, found.device) == (*chosen, "cpu")
    switched = trained == "bfloat16" and chosen[0] == "float32"
    assert any("--dtype bfloat16 keeps it" in text for text in listener.said) == switched


def test_what_is_asked_for_is_taken_and_a_resumed_extraction_keeps_what_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extraction_machine, "choose_dtype", None)
    before = Machine("float32", "onednn", "cpu")
    asked = MachineRequest(device="cpu", dtype="bfloat16")

    assert choose_machine(asked, "auto", None, SilentObserver()).dtype == "bfloat16"
    assert choose_machine(MachineRequest(), "auto", before.to_json(), SilentObserver()) == before


@pytest.mark.parametrize(("asked", "taken"), [(None, 2), (5, 5)])
def test_without_a_word_on_threads_the_quota_of_a_container_counts(
    asked: int | None, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    monkeypatch.setattr(extraction_machine, "usable_cores", lambda: 2)

    choose_machine(MachineRequest(asked, "cpu"), "float32", None, SilentObserver())

    assert chosen == [taken]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(ConfigError, match="--device cuda: this machine has no GPU"):
        choose_machine(MachineRequest(device="cuda"), "float32", None, SilentObserver())
