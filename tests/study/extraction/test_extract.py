"""What an extraction of many notes writes and counts; it holds few of them at a time."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.files import save_adapter
from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.jsonl import document_line, read_jsonl
from fedmedlora.corpora.label_studio import write_label_studio
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.lora import initial_adapter
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.models.windowing import note_windows
from fedmedlora.study.extract import ExtractionRequest, extract_to
from fedmedlora.study.extraction_inputs import STDIN
from fedmedlora.study.extraction_progress import PROGRESS_FILE
from fedmedlora.testing.tiny import tiny_base, tiny_tokenizer

RequestOf = Callable[..., ExtractionRequest]


def run(request: ExtractionRequest, **options: Any) -> dict[str, Any]:
    return extract_to(request, SilentObserver(), **options)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_each_format_holds_what_its_writer_makes_of_the_same_documents(
    notes: list[Document], marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    run(request_of("jsonl", to="jsonl"))
    documents = read_jsonl(tmp_path / "jsonl" / "documents.jsonl")
    run(request_of("studio", to="label-studio"))
    run(request_of("brat", to="brat"))

    assert [d.text for d in documents] == [d.text for d in notes]
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
    marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    run(request_of("file"))
    stream = io.BytesIO((tmp_path / "notes.jsonl").read_bytes())
    run(request_of("stream", inputs=(STDIN,)), stdin=stream)

    first, second = (tmp_path / name / "documents.jsonl" for name in ("file", "stream"))
    assert first.read_bytes() == second.read_bytes()


def test_the_summary_counts_what_is_in_the_documents(
    notes: list[Document], marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    summary = run(request_of())
    documents = read_jsonl(Path(summary["written"]))

    def total(key: str) -> int:
        return sum(document.metadata[key] for document in documents)

    assert summary["documents"] == len(notes)
    assert summary["entities"] == sum(len(document.entities) for document in documents)
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")
    windows = [note_windows(note.text, tokenizer, budget_tokens=40) for note in notes]
    assert summary["windows"] == total("num_windows") == sum(map(len, windows))
    assert 0 < len(marker.documents) <= summary["windows"]  # those word for word alike: asked once
    assert summary["unparsable"] == total("num_unparsable") > 0
    assert summary["truncated"] == total("num_truncated") > 0
    unaligned = [d.metadata.get("unaligned_predictions", {}) for d in documents]
    assert summary["unaligned"] == sum(u.get("drug", 0) for u in unaligned) > 0
    assert summary["dropped_below_threshold"] == summary["done_before"] == 0
    seconds = len(notes) / summary["notes_per_second"]
    assert summary["seconds"] == pytest.approx(seconds, abs=0.001)


def test_entities_below_the_threshold_are_dropped_and_counted(
    marker: Any, request_of: RequestOf
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
    marker: Any, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = WindowAnswer((FoundSpan("drug", 0, 5, float("nan")),))
    monkeypatch.setattr(marker, "decode", lambda prompts, _: [unknown] * len(prompts))

    with pytest.raises(ConfigError, match="gives no scores"):
        run(request_of(threshold=0.5))
    assert run(request_of("other"))["entities"] > 0


def test_the_observer_is_told_the_number_of_notes_that_are_left(
    notes: list[Document], marker: Any, request_of: RequestOf, tmp_path: Path
) -> None:
    told: list[tuple[str, float]] = []

    class Watcher(SilentObserver):
        def stage(self, title: str, total: float, unit: str) -> None:
            told.append((unit, total))

    extract_to(request_of(), Watcher())
    stream = io.BytesIO((tmp_path / "notes.jsonl").read_bytes())
    extract_to(request_of("stream", inputs=(STDIN,)), Watcher(), stdin=stream)

    assert told == [("notes", len(notes)), ("notes", 0)]  # 0: nobody knows


# Memory --------------------------------------------------------------------------------------


def many_lines(count: int) -> bytes:
    return b"".join(document_line(Document(f"n{i}", f"No pain {i}. Fever.")) for i in range(count))


@pytest.fixture
def count_documents() -> Iterator[Callable[[], int]]:
    """Counts the documents in memory that were not there before the test."""
    gc.collect()
    gc.freeze()
    yield lambda: sum(type(o) is Document for o in gc.get_objects())
    gc.unfreeze()


@pytest.mark.parametrize("source", ["file", "table", "stream"])
def test_memory_holds_the_notes_of_few_chunks_whatever_their_number(
    marker: Any,
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
