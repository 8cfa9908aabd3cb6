"""`extract` as it is called for a batch of notes, with a trained adapter and the real decoder."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.progress import ConsoleObserver
from fedmedlora.core.document import Document
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.label_studio import LabelStudioReader
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.study.extract import ExtractionRequest, extract_to

SECRET = "quobblefinch"
TEXTS = [
    "Given aspirin 81 mg daily, for chest pain.",
    'Says "no fever".\r\nScan of the chest: no mass 😀.',
    "",
    "Pain since Monday; was given paracetamol.\n\nNo rash.",
    "SpO2 < 90 & RR > 30, pH<7.2, <problem>pain</>",
]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    write_jsonl(path, [Document(f"n{i}", text) for i, text in enumerate(TEXTS)])
    return path


def marked(path: Path) -> list[tuple[str, list[tuple[str, int, int, float | None]]]]:
    return [
        (d.text, [(e.label, e.start, e.end, e.score) for e in d.entities]) for d in read_jsonl(path)
    ]


@pytest.fixture
def expected(finished, lines: Path, call, tmp_path: Path) -> Any:
    called = call("extract", "--adapter", finished.path, "--out", tmp_path / "expected", lines)
    assert called.code == 0, called.err
    found = marked(Path(called.out.strip()))
    assert sum(len(entities) for _, entities in found) > 5
    return found


def test_a_table_gives_what_json_lines_give(finished, expected, call, tmp_path: Path) -> None:
    rows = "".join('{},"{}"\n'.format(i, t.replace('"', '""')) for i, t in enumerate(TEXTS))
    source = tmp_path / "notes.csv"
    source.write_bytes(("\ufeffkey,note\n" + rows).encode("utf-8"))
    options = ("--text-column", "note", "--id-column", "key", "--out", tmp_path / "out")

    called = call("extract", "--adapter", finished.path, *options, source)

    assert called.code == 0, called.err
    assert marked(Path(called.out.strip())) == expected
    assert [d.id for d in read_jsonl(tmp_path / "out" / "documents.jsonl")] == list("01234")


def test_standard_input_gives_what_a_file_gives(
    finished, lines: Path, expected, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.read_bytes())))

    called = call("extract", "--adapter", finished.path, "--out", tmp_path / "out", "-")

    assert called.code == 0, called.err
    assert marked(Path(called.out.strip())) == expected


def test_a_note_on_standard_input_is_marked(
    finished, expected, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXTS[1].encode())))

    called = call("extract", "--adapter", finished.path, "--out", tmp_path / "out", "-")

    ((text, entities),) = marked(Path(called.out.strip()))
    assert text == TEXTS[1]
    kept = [(label, start, end) for label, start, end, _ in entities]
    assert kept == [(label, start, end) for label, start, end, _ in expected[1][1]]


def test_label_studio_gets_the_same_entities(
    finished, lines: Path, expected, call, tmp_path: Path
) -> None:
    options = ("--to", "label-studio", "--out", tmp_path / "out")
    called = call("extract", "--adapter", finished.path, *options, lines)
    write_jsonl(tmp_path / "back.jsonl", LabelStudioReader(Path(called.out.strip())))

    assert marked(tmp_path / "back.jsonl") == expected


def test_the_threshold_and_the_summary(
    finished, lines: Path, expected, call, tmp_path: Path
) -> None:
    scores = sorted(score for _, entities in expected for *_, score in entities)
    threshold = scores[len(scores) // 2]
    options = ("--threshold", threshold, "--out", tmp_path / "out", "--json")

    called = call("extract", "--adapter", finished.path, *options, lines)

    summary = json.loads(called.out)
    kept = marked(Path(summary["written"]))
    assert kept == [(t, [e for e in found if e[3] >= threshold]) for t, found in expected]
    assert summary["entities"] + summary["dropped_below_threshold"] == len(scores)
    assert summary["dropped_below_threshold"] == sum(score < threshold for score in scores)
    assert summary["documents"] == len(TEXTS)
    assert summary["windows"] >= len(TEXTS) - 1
    assert [summary[key] for key in ("unparsable", "truncated", "unaligned")] == [0, 0, 0]
    assert summary["notes_per_second"] > 0


def test_people_are_told_the_counts(finished, lines: Path, call, tmp_path: Path) -> None:
    options = ("--threshold", "0.5", "--out", tmp_path / "out")
    called = call("extract", "--adapter", finished.path, *options, lines)

    assert "5 notes found" in called.err
    assert "extraction: 5 notes in " in called.err
    assert "below 0.5 dropped)" in called.err.splitlines()[-1]
    assert called.out == f"{tmp_path / 'out' / 'documents.jsonl'}\n"


def test_ctrl_c_says_how_to_go_on(
    finished, lines: Path, expected, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("extract", "--adapter", finished.path, "--out", tmp_path / "out", lines)

    def stop(self: ConsoleObserver, amount: float, **_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ConsoleObserver, "advance", stop)
        called = call(*command)
    assert called.code == 130
    assert called.out == ""
    assert "To go on: the same command with --resume" in called.err
    assert "Traceback" not in called.err

    assert "--resume" in call(*command).err
    again = call(*command, "--resume")
    assert again.code == 0, again.err
    assert marked(Path(again.out.strip())) == expected
    finished_already = call(*command, "--resume")
    assert finished_already.code == 0
    assert "nothing is left to do" in finished_already.err
    assert finished_already.out == again.out


@pytest.mark.parametrize("to", ["jsonl", "brat"])
def test_a_resumed_extraction_has_the_bits_of_an_uninterrupted_one(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    source = tmp_path / "many.jsonl"
    write_jsonl(source, [Document(f"n{i}", TEXTS[i % 5] * (i % 3 + 1)) for i in range(20)])
    request = ExtractionRequest(
        (source,),
        finished.path,
        tmp_path / "whole",
        to,
        decoder="step",
        batch_size=3,
        chunk_windows=7,
    )
    extract_to(request, SilentObserver())
    decode = StepDecoder.decode
    num_chunks = 0

    def dying(self: StepDecoder, *arguments: Any) -> Any:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks in (2, 5):
            raise KeyboardInterrupt
        return decode(self, *arguments)

    monkeypatch.setattr(StepDecoder, "decode", dying)
    cut = replace(request, out=tmp_path / "cut", resume=True)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            extract_to(cut, SilentObserver())
    assert extract_to(cut, SilentObserver())["done_before"] > 0

    def content(folder: Path) -> dict[str, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    assert content(cut.out) == content(request.out)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", f"id,note\n1,{SECRET}\n", "has no column 'text'; its columns are 'id', 'note'"),
        ("a.csv", f"id,text\n1,{SECRET},\n", "a.csv:2: expected 2 cells"),
        ("a.tsv", f'id\ttext\n1\t"{SECRET}\n', "a.tsv:2: not a row of the table"),
        ("a.json", f'[{{"text": "{SECRET}"}}]', "expected JSON lines in a file named .jsonl"),
    ],
)
def test_faults_are_told_before_a_model_is_loaded_and_without_text(
    finished, call, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    source = tmp_path / name
    source.write_text(content)

    called = call("extract", "--adapter", finished.path, "--out", tmp_path / "out", source)

    assert called.code in (1, 2)
    assert reason in called.err
    assert SECRET not in called.err
    assert "loading" not in called.err
    assert not (tmp_path / "out").exists()
