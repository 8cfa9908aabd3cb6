"""An extraction that is killed and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.files import save_adapter
from fedmedlora.cli.extract_page import page_writer
from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError, CorpusError, RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.jsonl import document_line, read_jsonl, write_jsonl
from fedmedlora.runs.lock import exclusive
from fedmedlora.study.extract import ExtractionRequest, extract_to
from fedmedlora.study.extraction_inputs import STDIN, Columns
from fedmedlora.study.extraction_progress import PROGRESS_FILE
from fedmedlora.testing.adapters import random_adapter

FORMATS = ("jsonl", "brat", "label-studio", "html")
SECRET = "quobblefinch"
RequestOf = Callable[..., ExtractionRequest]


class Killed(BaseException):
    """What no code may swallow."""


def run(request: ExtractionRequest, **options: Any) -> dict[str, Any]:
    options = {"write_page": page_writer(request.adapter, None)} | options
    return extract_to(request, SilentObserver(), **options)


def resumed(request: ExtractionRequest, **options: Any) -> dict[str, Any]:
    return run(replace(request, resume=True), **options)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def progress_in(folder: Path) -> Any:
    return json.loads((folder / PROGRESS_FILE).read_text("utf-8"))


def refused(work: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        work()
    return str(caught.value)


# Interrupted ---------------------------------------------------------------------------------


Forked = Callable[[Callable[[], object]], int]
STEPS = ("fsync", "rename", "replace", "rmdir", "unlink", "truncate", "mkdir")
DIED = 9


def killed_at(forked: Forked, step: int, work: Callable[[], object]) -> bool:
    """Whether the work died, like by kill -9, just before its n-th change of the file system."""

    def child() -> None:
        left = step

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(DIED)
                return function(*arguments, **options)

            return called

        for name in STEPS:
            setattr(os, name, dying(getattr(os, name)))
        work()

    code = forked(child)
    assert code in (0, DIED)
    return code == DIED


def moments(every: int) -> Iterator[int]:
    yield from range(1, 10_000, every)


@pytest.mark.parametrize("to", FORMATS)
def test_killed_at_any_moment_and_resumed_the_output_is_that_of_an_uninterrupted_run(
    marker: Any, request_of: RequestOf, forked: Forked, to: str
) -> None:
    whole = request_of("whole", to=to)
    run(whole)
    expected = files_in(whole.out)
    assert marker.num_chunks >= 5

    seen: set[int] = set()
    for moment in moments(every={"jsonl": 2, "label-studio": 5, "brat": 17, "html": 4}[to]):
        cut = request_of("cut", to=to)
        shutil.rmtree(cut.out, ignore_errors=True)
        if not killed_at(forked, moment, lambda cut=cut: run(cut)):
            break
        resumed(cut)
        assert files_in(cut.out) == expected, f"killed before change {moment}"
        assert [path for path in cut.out.rglob(".*") if path.name != ".lock"] == []
        seen.add(moment)
    assert len(seen) >= 10


@pytest.mark.parametrize("to", FORMATS)
def test_killed_again_and_again_it_goes_on_and_never_loses_a_finished_chunk(
    marker: Any, request_of: RequestOf, forked: Forked, to: str
) -> None:
    whole = request_of("whole", to=to)
    run(whole)
    cut = request_of("cut", to=to)
    done = [0]
    for attempt in range(60):
        step = 5 + 3 * attempt
        if not killed_at(forked, step, lambda: resumed(cut)):
            break
        if (cut.out / PROGRESS_FILE).exists():
            done.append(progress_in(cut.out)["num_notes"])

    assert done == sorted(done)
    assert len(set(done)) > 3
    assert files_in(cut.out) == files_in(whole.out)


def stop_in_chunk(marker: Any, number: int, work: Callable[[], object]) -> None:
    """The work, stopped as by Ctrl-C while it computes a chunk."""

    def watch() -> None:
        if marker.num_chunks == number:
            raise Killed

    marker.num_chunks, marker.watch = 0, watch
    with pytest.raises(Killed):
        work()
    marker.watch = lambda: None


@pytest.mark.parametrize("to", FORMATS)
def test_only_notes_of_unfinished_chunks_are_computed_again(
    notes: list[Document], marker: Any, request_of: RequestOf, to: str
) -> None:
    whole, cut = request_of("whole", to=to), request_of("cut", to=to)
    expected = run(whole)
    stop_in_chunk(marker, 3, lambda: run(cut))
    finished = progress_in(cut.out)["num_notes"]
    marker.documents.clear()

    summary = resumed(cut)

    ids = [note.id for note in notes]
    assert 0 < finished < len(ids)
    without_text = {note.id for note in notes if not note.text}
    assert set(marker.documents) == set(ids[finished:]) - without_text
    assert files_in(cut.out) == files_in(whole.out)
    assert summary["done_before"] == finished
    for key in ("documents", "entities", "windows", "unparsable", "truncated", "unaligned"):
        assert summary[key] == expected[key]


def test_output_has_its_name_only_when_it_is_whole(marker: Any, request_of: RequestOf) -> None:
    request = request_of()
    stop_in_chunk(marker, 3, lambda: run(request))

    assert files_in(request.out).keys() == {"documents.jsonl.partial", PROGRESS_FILE}
    resumed(request)
    assert files_in(request.out).keys() == {"documents.jsonl", PROGRESS_FILE}


def test_a_half_written_tail_is_cut_off(
    notes: list[Document], marker: Any, request_of: RequestOf
) -> None:
    whole, cut = request_of("whole"), request_of("cut")
    run(whole)
    stop_in_chunk(marker, 3, lambda: run(cut))
    with (cut.out / "documents.jsonl.partial").open("ab") as file:
        file.write(document_line(notes[5])[:40])

    resumed(cut)

    assert files_in(cut.out) == files_in(whole.out)


def test_what_was_finished_and_is_gone_is_noticed(marker: Any, request_of: RequestOf) -> None:
    request = request_of()
    stop_in_chunk(marker, 3, lambda: run(request))
    partial = request.out / "documents.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:-1])

    assert "is shorter than when" in refused(lambda: resumed(request), RunStoreError)


def test_standard_input_is_gone_on_with_when_it_is_given_again(
    marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    whole, cut = request_of("whole", inputs=(STDIN,)), request_of("cut", inputs=(STDIN,))
    data = (tmp_path / "notes.jsonl").read_bytes()
    run(whole, stdin=io.BytesIO(data))
    stop_in_chunk(marker, 3, lambda: run(cut, stdin=io.BytesIO(data)))

    other = data.replace(b"aspirin", b"heparin", 1)
    told = refused(lambda: resumed(cut, stdin=io.BytesIO(other)), RunStoreError)
    resumed(cut, stdin=io.BytesIO(data))

    assert "the inputs have changed" in told
    assert files_in(cut.out) == files_in(whole.out)


def test_how_many_notes_were_done_already_is_told(stopped: ExtractionRequest) -> None:
    said: list[str] = []

    class Listener(SilentObserver):
        def message(self, text: str) -> None:
            said.append(text)

    num_done = progress_in(stopped.out)["num_notes"]
    extract_to(replace(stopped, resume=True), Listener())

    assert f"continuing after the {num_done} notes already done" in said


def test_a_bad_line_on_standard_input_can_be_repaired_and_gone_on_behind(
    notes: list[Document], marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    request = request_of(inputs=(STDIN,))
    lines = (tmp_path / "notes.jsonl").read_bytes().splitlines(keepends=True)
    broken = b"".join([*lines[:10], b'{"id": "', SECRET.encode(), b"\n", *lines[10:]])

    told = refused(lambda: run(request, stdin=io.BytesIO(broken)), CorpusError)
    assert told.startswith("stdin:11: ")
    assert SECRET not in told
    assert progress_in(request.out)["num_notes"] > 0
    assert resumed(request, stdin=io.BytesIO(b"".join(lines)))["documents"] == len(notes)


# Resumed in other circumstances ----------------------------------------------------------------


@pytest.fixture
def stopped(marker: Any, request_of: RequestOf) -> ExtractionRequest:
    """An extraction that was stopped in its third chunk."""
    request = request_of()
    stop_in_chunk(marker, 3, lambda: run(request))
    return request


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("labels", {"labels": ("drug",)}),
    ("threshold", {"threshold": 0.5}),
    ("format", {"to": "brat"}),
    ("batch_size", {"batch_size": 3}),
    ("chunk_windows", {"chunk_windows": 4}),
    ("text_column", {"columns": Columns("note")}),
    ("id_column", {"columns": Columns(id="key")}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_other_settings_are_refused_by_name(
    stopped: ExtractionRequest, name: str, change: dict[str, Any]
) -> None:
    before = files_in(stopped.out)

    told = refused(lambda: resumed(replace(stopped, **change)), ConfigError)

    assert "was begun with other settings: " in told
    assert f" {name} was " in told
    assert files_in(stopped.out) == before


def test_another_adapter_is_refused_and_the_same_in_another_place_is_not(
    notes: list[Document], stopped: ExtractionRequest, adapter: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "other", random_adapter(1))
    shutil.copytree(adapter, tmp_path / "same")

    told = refused(lambda: resumed(replace(stopped, adapter=tmp_path / "other")), ConfigError)

    assert "adapter was" in told
    assert resumed(replace(stopped, adapter=tmp_path / "same"))["documents"] == len(notes)


def test_another_base_model_is_refused(
    stopped: ExtractionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fedmedlora.study.extract.load_extractor", lambda *_, **__: (None, "e" * 64)
    )

    assert "base_model was" in refused(lambda: resumed(stopped), ConfigError)


def test_inputs_of_another_name_are_refused(stopped: ExtractionRequest, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "notes.jsonl", tmp_path / "again.jsonl")
    renamed = replace(stopped, inputs=(tmp_path / "again.jsonl",))

    assert "inputs was" in refused(lambda: resumed(renamed), ConfigError)


@pytest.mark.parametrize("change", ["text", "id", "metadata", "order", "missing"])
def test_finished_notes_that_have_changed_are_noticed_before_a_model_is_loaded(
    notes: list[Document],
    stopped: ExtractionRequest,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = list(notes)
    if change == "order":
        notes = [notes[1], notes[0], *notes[2:]]
    elif change == "missing":
        notes = notes[:2]
    else:
        other: Any = {"text": SECRET, "id": SECRET, "metadata": {"visit": 99}}[change]
        notes[1] = replace(notes[1], **{change: other})
    write_jsonl(tmp_path / "notes.jsonl", notes)
    before = files_in(stopped.out)
    monkeypatch.setattr("fedmedlora.study.extract.load_extractor", None)

    told = refused(lambda: resumed(stopped), RunStoreError)

    assert "the inputs have changed" in told
    assert SECRET not in told
    assert files_in(stopped.out) == before


def test_notes_behind_the_finished_ones_may_change(
    notes: list[Document], stopped: ExtractionRequest, tmp_path: Path
) -> None:
    notes = [*notes[:-1], Document("new", "no pain"), Document("newer", "fever")]
    write_jsonl(tmp_path / "notes.jsonl", notes)

    summary = resumed(stopped)

    assert [d.id for d in read_jsonl(Path(summary["written"]))] == [d.id for d in notes]


def test_nothing_is_left_to_do_when_it_is_finished(
    notes: list[Document],
    marker: Any,
    request_of: RequestOf,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    request = request_of()
    first = run(request)
    before = files_in(request.out)
    monkeypatch.setattr("fedmedlora.study.extract.load_extractor", None)
    said: list[str] = []

    class Listener(SilentObserver):
        def message(self, text: str) -> None:
            said.append(text)

    again = extract_to(replace(request, resume=True), Listener())

    assert any("nothing is left to do" in text for text in said)
    assert files_in(request.out) == before
    assert again["done_before"] == again["documents"] == len(notes)
    timing = {"seconds", "notes_per_second", "done_before"}
    assert {k: v for k, v in again.items() if k not in timing} == {
        k: v for k, v in first.items() if k not in timing
    }
    write_jsonl(tmp_path / "notes.jsonl", [*notes, Document("one more", "pain")])
    assert "others came after the last one" in refused(lambda: resumed(request), RunStoreError)


def test_a_folder_with_an_extraction_is_not_written_to_without_asking(
    stopped: ExtractionRequest, request_of: RequestOf
) -> None:
    told = refused(lambda: run(stopped), ConfigError)
    assert "interrupted extraction. Go on with it by the same command with --resume" in told

    resumed(stopped)
    told = refused(lambda: run(stopped), ConfigError)
    assert "holds a finished extraction. Name a new folder with --out." in told


def test_resume_where_nothing_was_begun_begins(
    notes: list[Document], marker: Any, request_of: RequestOf
) -> None:
    assert resumed(request_of())["documents"] == len(notes)


def test_other_files_are_never_taken_for_an_extraction(
    marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("a note")

    assert "not empty" in refused(lambda: run(request_of()), ConfigError)
    assert "without extraction.json" in refused(lambda: resumed(request_of()), ConfigError)
    (tmp_path / "file").touch()
    assert "is a file" in refused(lambda: run(request_of("file")), ConfigError)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": 2, "settings": {}}', "\xff"])
def test_a_damaged_progress_file_is_named(stopped: ExtractionRequest, content: str) -> None:
    path = stopped.out / PROGRESS_FILE
    path.write_bytes(content.encode("latin-1"))

    assert f"{path}: damaged" in refused(lambda: resumed(stopped), RunStoreError)


def test_two_processes_do_not_write_to_one_folder(stopped: ExtractionRequest) -> None:
    with exclusive(stopped.out):
        assert "another process" in refused(lambda: resumed(stopped), RunStoreError)


def test_the_progress_file_holds_no_text_no_id_and_no_name(
    marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    source = tmp_path / f"{SECRET}.jsonl"
    write_jsonl(source, [Document(f"{SECRET}-{i}", f"has {SECRET}") for i in range(5)])
    request = request_of(inputs=(source,), chunk_windows=2)
    run(request)

    assert SECRET not in (request.out / PROGRESS_FILE).read_text("utf-8")
