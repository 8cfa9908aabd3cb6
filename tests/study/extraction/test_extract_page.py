"""`extract --to html` as a user calls it: the page, and the documents that it was made of."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.document import Document
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl


def called(adapter: Path, source: Path, out: Path, *more: str) -> int:
    return run_app(
        app,
        ["extract", "--adapter", str(adapter), str(source), "--out", str(out), *more],
    )


def test_the_path_of_the_page_is_printed_and_it_shows_every_note_that_was_saved(
    marker: Any,
    adapter: Path,
    notes: list[Document],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / "notes.jsonl", tmp_path / "out"
    write_jsonl(source, notes)

    assert called(adapter, source, out, "--to", "html", "--threshold", "0.4") == 0

    page = Path(capsys.readouterr().out.strip())
    assert page == out / "viewer.html"
    text = page.read_bytes().decode()
    saved = read_jsonl(out / "documents.jsonl")
    assert [document.id for document in saved] == [note.id for note in notes]
    shown = re.findall(r'<div class="text" dir="auto">(.*?)</div>', text, re.DOTALL)
    assert [html.unescape(re.sub(r"<[^>]+>", "", note)) for note in shown] == [
        note.text for note in saved
    ]
    assert len(re.findall(r'<mark class="[^"]+" data-m', text)) == sum(
        len(entity.spans) for document in saved for entity in document.entities
    )
    for fact in (str(adapter), "Lowest probability</dt><dd>0.4", "problem, treatment, test, drug"):
        assert fact in text
    assert "Scores" not in text


def test_a_page_that_cannot_be_written_is_made_by_resume_without_computing_again(
    marker: Any,
    adapter: Path,
    notes: list[Document],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out, whole = tmp_path / "notes.jsonl", tmp_path / "out", tmp_path / "whole"
    write_jsonl(source, notes)
    assert called(adapter, source, whole, "--to", "html") == 0
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("fedmedlora.cli.extract_page.write_marked_page", full)
        assert called(adapter, source, out, "--to", "html") == 1
    assert not (out / "viewer.html").exists()
    marker.documents.clear()

    assert called(adapter, source, out, "--to", "html", "--resume") == 0

    assert marker.documents == []
    for name in ("viewer.html", "documents.jsonl", "extraction.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
