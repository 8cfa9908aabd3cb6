"""Extraction of many notes: saved chunk by chunk, resumed to the byte, steady in memory."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.files import save_adapter
from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError, CorpusError, RunStoreError
from fedmedlora.core.example import Prompt
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.jsonl import document_line, read_jsonl, write_jsonl
from fedmedlora.corpora.label_studio import write_label_studio
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.inference.extractor import Extractor
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.lora import initial_adapter
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.prompts.registry import get_format
from fedmedlora.runs.lock import exclusive
from fedmedlora.study.extract import ExtractionRequest, extract_to
from fedmedlora.study.extraction_inputs import STDIN, Columns
from fedmedlora.study.extraction_progress import PROGRESS_FILE
from fedmedlora.testing.adapters import random_adapter
from fedmedlora.testing.tiny import tiny_base, tiny_tokenizer

FORMATS = ("jsonl", "brat", "label-studio")
SECRET = "quobblefinch"
NUM_NOTES = 16
TEXT = "Given aspirin 81 mg daily for chest pain.\r\nNo fever 😀, scan of the chest: {} masses.\n"
LABELS = ("problem", "treatment", "test", "drug")


class Killed(BaseException):
    """What no code may swallow."""


@dataclass
class Marker:
    """A decoder that marks about every third word; an answer depends on its prompt alone.

    `watch` is called before each chunk.
    """

    watch: Callable[[], object] = lambda: None
    num_chunks: int = 0
    documents: list[str] = field(default_factory=list)

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        self.num_chunks += 1
        self.watch()
        answers = []
        for index, prompt in enumerate(prompts):
            self.documents.append(prompt.document_id)
            answers.append(answer(prompt))
            on_done(index)
        return answers


def answer(prompt: Prompt) -> WindowAnswer:
    spans = []
    for word in re.finditer(r"\w+", prompt.source):
        code = zlib.crc32(word[0].encode())
        if code % 3 == 0:
            label = prompt.labels[code % len(prompt.labels)]
            spans.append(FoundSpan(label, word.start(), word.end(), -(code % 97) / 60))
    code = zlib.crc32(prompt.source.encode())
    unaligned = {"drug": 2} if code % 3 == 0 else {}
    return WindowAnswer(tuple(spans), unaligned, code % 5 < 2, code % 7 < 2)


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> Marker:
    """The decoder of every extraction of this test; no model is loaded."""
    marker = Marker()
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")

    def load(_trained: Any, _observer: Any, *, chunk_windows: int, **_: Any) -> Any:
        extractor = Extractor(
            marker, tokenizer, get_format("compact"), window_tokens=40, chunk_windows=chunk_windows
        )
        return extractor, "f" * 64

    monkeypatch.setattr("fedmedlora.study.extract.load_extractor", load)
    return marker


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save_adapter(folder, random_adapter(0))
    return folder


def some_notes(count: int = NUM_NOTES) -> list[Document]:
    """Short and long notes, an empty one, some with ids that name folders."""
    notes = [
        Document(f"ward{i % 3}/note-{i}" if i % 2 else f"note-{i}", TEXT.format(i) * (i % 4))
        for i in range(count)
    ]
    return [replace(note, metadata={"visit": i}) for i, note in enumerate(notes)]


@pytest.fixture
def request_of(adapter: Path, tmp_path: Path) -> Callable[..., ExtractionRequest]:
    """A request for some notes in small chunks."""
    source = tmp_path / "notes.jsonl"
    write_jsonl(source, some_notes())

    def make(out: str = "out", **options: Any) -> ExtractionRequest:
        options = {"inputs": (source,), "chunk_windows": 3} | options
        return ExtractionRequest(adapter=adapter, out=tmp_path / out, **options)

    return make


RequestOf = Callable[..., ExtractionRequest]


def run(request: ExtractionRequest, **options: Any) -> dict[str, Any]:
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


# What is written -----------------------------------------------------------------------------


def test_each_format_holds_what_its_writer_makes_of_the_same_documents(
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    run(request_of("jsonl", to="jsonl"))
    documents = read_jsonl(tmp_path / "jsonl" / "documents.jsonl")
    run(request_of("studio", to="label-studio"))
    run(request_of("brat", to="brat"))

    assert [d.text for d in documents] == [d.text for d in some_notes()]
    assert sum(len(d.entities) for d in documents) > 50
    assert documents[1].metadata["visit"] == 1
    write_label_studio(tmp_path / "tasks.json", documents)
    write_brat(tmp_path / "expected", documents)
    found = files_in(tmp_path / "studio")
    assert found.keys() == {"tasks.json", PROGRESS_FILE}
    assert found["tasks.json"] == (tmp_path / "tasks.json").read_bytes()
    found = files_in(tmp_path / "brat")
    del found[PROGRESS_FILE]
    assert found == files_in(tmp_path / "expected")


def test_notes_from_standard_input_give_the_same_output_as_from_a_file(
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    run(request_of("file"))
    stream = io.BytesIO((tmp_path / "notes.jsonl").read_bytes())
    run(request_of("stream", inputs=(STDIN,)), stdin=stream)

    first, second = (tmp_path / name / "documents.jsonl" for name in ("file", "stream"))
    assert first.read_bytes() == second.read_bytes()


def test_the_summary_counts_what_is_in_the_documents(
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    summary = run(request_of())
    documents = read_jsonl(Path(summary["written"]))

    def total(key: str) -> int:
        return sum(document.metadata[key] for document in documents)

    assert summary["documents"] == NUM_NOTES
    assert summary["entities"] == sum(len(document.entities) for document in documents)
    assert summary["windows"] == total("num_windows") == len(marker.documents)
    assert summary["unparsable"] == total("num_unparsable") > 0
    assert summary["truncated"] == total("num_truncated") > 0
    unaligned = [d.metadata.get("unaligned_predictions", {}) for d in documents]
    assert summary["unaligned"] == sum(u.get("drug", 0) for u in unaligned) > 0
    assert summary["dropped_below_threshold"] == summary["done_before"] == 0
    assert summary["notes_per_second"] == pytest.approx(NUM_NOTES / summary["seconds"], rel=0.2)


def test_entities_below_the_threshold_are_dropped_and_counted(
    marker: Marker, request_of: RequestOf
) -> None:
    every = read_jsonl(Path(run(request_of("all"))["written"]))
    scores = sorted(e.score for d in every for e in d.entities if e.score is not None)
    threshold = scores[len(scores) // 2]

    summary = run(request_of("some", threshold=threshold))
    kept = read_jsonl(Path(summary["written"]))

    for before, after in zip(every, kept, strict=True):
        expected = [e for e in before.entities if e.score is not None and e.score >= threshold]
        assert list(after.entities) == expected
    assert summary["entities"] == sum(score >= threshold for score in scores)
    assert summary["dropped_below_threshold"] == sum(score < threshold for score in scores) > 0
    assert summary["entities"] > 0


def test_a_threshold_without_scores_is_refused(
    marker: Marker, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = WindowAnswer((FoundSpan("drug", 0, 5, float("nan")),))
    monkeypatch.setattr(Marker, "decode", lambda self, prompts, _: [unknown] * len(prompts))

    assert "gives no scores" in refused(lambda: run(request_of(threshold=0.5)), ConfigError)
    assert run(request_of("other"))["entities"] > 0


def test_the_observer_is_told_the_number_of_notes_that_are_left(
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    told: list[tuple[str, float]] = []

    class Watcher(SilentObserver):
        def stage(self, title: str, total: float, unit: str) -> None:
            told.append((unit, total))

    extract_to(request_of(), Watcher())
    stream = io.BytesIO((tmp_path / "notes.jsonl").read_bytes())
    extract_to(request_of("stream", inputs=(STDIN,)), Watcher(), stdin=stream)

    assert told == [("notes", NUM_NOTES), ("notes", 0)]  # 0: nobody knows


# Interrupted ---------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> int:
    """The exit code of the work in a forked process."""
    with warnings.catch_warnings():
        # Newer Pythons warn of forks in a process with threads; the tensor library has some.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


STEPS = ("fsync", "rename", "replace", "rmdir", "unlink", "truncate", "mkdir")
DIED = 9


def killed_at(step: int, work: Callable[[], object]) -> bool:
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

    code = in_child(child)
    assert code in (0, DIED)
    return code == DIED


def moments(every: int) -> Iterator[int]:
    yield from range(1, 10_000, every)


@pytest.mark.parametrize("to", FORMATS)
def test_killed_at_any_moment_and_resumed_the_output_is_that_of_an_uninterrupted_run(
    marker: Marker, request_of: RequestOf, to: str
) -> None:
    whole = request_of("whole", to=to)
    run(whole)
    expected = files_in(whole.out)
    assert marker.num_chunks >= 5

    seen: set[int] = set()
    for moment in moments(every={"jsonl": 1, "label-studio": 4, "brat": 17}[to]):
        cut = request_of("cut", to=to)
        shutil.rmtree(cut.out, ignore_errors=True)
        if not killed_at(moment, lambda cut=cut: run(cut)):
            break
        resumed(cut)
        assert files_in(cut.out) == expected, f"killed before change {moment}"
        assert [path for path in cut.out.rglob(".*") if path.name != ".lock"] == []
        seen.add(moment)
    assert len(seen) >= 10


@pytest.mark.parametrize("to", FORMATS)
def test_killed_again_and_again_it_goes_on_and_never_loses_a_finished_chunk(
    marker: Marker, request_of: RequestOf, to: str
) -> None:
    whole = request_of("whole", to=to)
    run(whole)
    cut = request_of("cut", to=to)
    done = [0]
    for attempt in range(60):
        step = 5 + 3 * attempt
        if not killed_at(step, lambda: resumed(cut)):
            break
        if (cut.out / PROGRESS_FILE).exists():
            done.append(progress_in(cut.out)["num_notes"])

    assert done == sorted(done)
    assert len(set(done)) > 3
    assert files_in(cut.out) == files_in(whole.out)


def stop_in_chunk(marker: Marker, number: int, work: Callable[[], object]) -> None:
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
    marker: Marker, request_of: RequestOf, to: str
) -> None:
    whole, cut = request_of("whole", to=to), request_of("cut", to=to)
    expected = run(whole)
    stop_in_chunk(marker, 3, lambda: run(cut))
    finished = progress_in(cut.out)["num_notes"]
    marker.documents.clear()

    summary = resumed(cut)

    notes = [note.id for note in some_notes()]
    assert 0 < finished < len(notes)
    without_text = {note.id for note in some_notes() if not note.text}
    assert set(marker.documents) == set(notes[finished:]) - without_text
    assert files_in(cut.out) == files_in(whole.out)
    assert summary["done_before"] == finished
    for key in ("documents", "entities", "windows", "unparsable", "truncated", "unaligned"):
        assert summary[key] == expected[key]


def test_output_has_its_name_only_when_it_is_whole(marker: Marker, request_of: RequestOf) -> None:
    request = request_of()
    stop_in_chunk(marker, 3, lambda: run(request))

    assert files_in(request.out).keys() == {"documents.jsonl.partial", PROGRESS_FILE}
    resumed(request)
    assert files_in(request.out).keys() == {"documents.jsonl", PROGRESS_FILE}


def test_a_half_written_tail_is_cut_off(marker: Marker, request_of: RequestOf) -> None:
    whole, cut = request_of("whole"), request_of("cut")
    run(whole)
    stop_in_chunk(marker, 3, lambda: run(cut))
    with (cut.out / "documents.jsonl.partial").open("ab") as file:
        file.write(document_line(some_notes()[5])[:40])

    resumed(cut)

    assert files_in(cut.out) == files_in(whole.out)


def test_what_was_finished_and_is_gone_is_noticed(marker: Marker, request_of: RequestOf) -> None:
    request = request_of()
    stop_in_chunk(marker, 3, lambda: run(request))
    partial = request.out / "documents.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:-1])

    assert "is shorter than when" in refused(lambda: resumed(request), RunStoreError)


def test_standard_input_is_gone_on_with_when_it_is_given_again(
    marker: Marker, request_of: RequestOf, tmp_path: Path
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


def test_a_bad_line_on_standard_input_can_be_repaired_and_gone_on_behind(
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    request = request_of(inputs=(STDIN,))
    lines = (tmp_path / "notes.jsonl").read_bytes().splitlines(keepends=True)
    broken = b"".join([*lines[:10], b'{"id": "', SECRET.encode(), b"\n", *lines[10:]])

    told = refused(lambda: run(request, stdin=io.BytesIO(broken)), CorpusError)
    assert told.startswith("stdin:11: ")
    assert SECRET not in told
    assert progress_in(request.out)["num_notes"] > 0
    assert resumed(request, stdin=io.BytesIO(b"".join(lines)))["documents"] == NUM_NOTES


# Resumed in other circumstances ----------------------------------------------------------------


@pytest.fixture
def stopped(marker: Marker, request_of: RequestOf) -> ExtractionRequest:
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
    stopped: ExtractionRequest, adapter: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "other", random_adapter(1))
    shutil.copytree(adapter, tmp_path / "same")

    told = refused(lambda: resumed(replace(stopped, adapter=tmp_path / "other")), ConfigError)

    assert "adapter was" in told
    assert resumed(replace(stopped, adapter=tmp_path / "same"))["documents"] == NUM_NOTES


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
    stopped: ExtractionRequest, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = some_notes()
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
    stopped: ExtractionRequest, tmp_path: Path
) -> None:
    notes = [*some_notes()[:-1], Document("new", "no pain"), Document("newer", "fever")]
    write_jsonl(tmp_path / "notes.jsonl", notes)

    summary = resumed(stopped)

    assert [d.id for d in read_jsonl(Path(summary["written"]))] == [d.id for d in notes]


def test_nothing_is_left_to_do_when_it_is_finished(
    marker: Marker, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    assert again["done_before"] == again["documents"] == NUM_NOTES
    timing = {"seconds", "notes_per_second", "done_before"}
    assert {k: v for k, v in again.items() if k not in timing} == {
        k: v for k, v in first.items() if k not in timing
    }
    write_jsonl(tmp_path / "notes.jsonl", [*some_notes(), Document("one more", "pain")])
    assert "others came behind" in refused(lambda: resumed(request), RunStoreError)


def test_a_folder_with_an_extraction_is_not_written_to_without_asking(
    stopped: ExtractionRequest, request_of: RequestOf
) -> None:
    told = refused(lambda: run(stopped), ConfigError)
    assert "interrupted extraction. Go on with it by the same command with --resume" in told

    resumed(stopped)
    assert "holds a finished extraction" in refused(lambda: run(stopped), ConfigError)


def test_resume_where_nothing_was_begun_begins(marker: Marker, request_of: RequestOf) -> None:
    assert resumed(request_of())["documents"] == NUM_NOTES


def test_other_files_are_never_taken_for_an_extraction(
    marker: Marker, request_of: RequestOf, tmp_path: Path
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
    marker: Marker, request_of: RequestOf, tmp_path: Path
) -> None:
    source = tmp_path / f"{SECRET}.jsonl"
    write_jsonl(source, [Document(f"{SECRET}-{i}", f"has {SECRET}") for i in range(5)])
    request = request_of(inputs=(source,), chunk_windows=2)
    run(request)

    assert SECRET not in (request.out / PROGRESS_FILE).read_text("utf-8")


# Memory --------------------------------------------------------------------------------------


def many_lines(count: int) -> bytes:
    return b"".join(document_line(Document(f"n{i}", TEXT.format(i))) for i in range(count))


@pytest.fixture
def count_documents() -> Iterator[Callable[[], int]]:
    """Counts the documents in memory that were not there before the test."""
    gc.collect()
    gc.freeze()
    yield lambda: sum(type(o) is Document for o in gc.get_objects())
    gc.unfreeze()


@pytest.mark.parametrize("source", ["file", "table", "stream"])
def test_memory_holds_the_notes_of_few_chunks_whatever_their_number(
    marker: Marker,
    request_of: RequestOf,
    tmp_path: Path,
    source: str,
    count_documents: Callable[[], int],
) -> None:
    count, chunk = 300, 8
    if source == "table":
        path = tmp_path / "many.csv"
        path.write_text("text\n" + "".join(f"no pain in note {i}\n" for i in range(count)))
    else:
        path = tmp_path / "many.jsonl"
        path.write_bytes(many_lines(count))
    alive: list[int] = []
    marker.watch = lambda: alive.append(count_documents())
    inputs = (STDIN if source == "stream" else path,)
    stdin = io.BytesIO(path.read_bytes()) if source == "stream" else None

    summary = run(request_of(inputs=inputs, chunk_windows=chunk), stdin=stdin)

    assert summary["documents"] == count
    assert len(alive) >= count // chunk
    assert 0 < max(alive) <= 4 * chunk


# In a process of its own: the peak of memory is one of the whole process and never falls.
MANY = """
import json, resource, sys
from pathlib import Path
from fedmedlora.core.records import SilentObserver
from fedmedlora.study.extract import ExtractionRequest, extract_to

class Watcher(SilentObserver):
    done, peaks = 0, {}
    def advance(self, amount, **_):
        self.done += round(amount)
        self.peaks[self.done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

root, watcher = Path(sys.argv[1]), Watcher()
request = ExtractionRequest(
    inputs=(root / "many.jsonl",), adapter=root / "adapter", out=root / "out",
    model=str(root / "model"), chunk_windows=128,
)
summary = extract_to(request, watcher)
print(json.dumps([summary["documents"], watcher.peaks[1000], watcher.peaks[10_000]]))
"""


@pytest.mark.slow
def test_ten_thousand_notes_take_no_more_memory_than_the_first_thousand(tmp_path: Path) -> None:
    """With the real decoder and a tiny model; each note carries 10 kB that must not pile up."""
    base = tiny_base(tmp_path / "model")
    state = initial_adapter(base, rank=2, alpha=4.0, target_modules=ALL_LINEAR, seed=0)
    save_adapter(tmp_path / "adapter", state)
    with (tmp_path / "many.jsonl").open("wb") as file:
        for i in range(10_000):
            note = Document(f"n{i}", f"No pain {i}.", metadata={"history": f"{i:010}" * 1000})
            file.write(document_line(note))

    found = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, check=True
    )

    num_documents, early, late = json.loads(found.stdout)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    assert num_documents == 10_000
    assert (late - early) * unit_bytes < 30e6
