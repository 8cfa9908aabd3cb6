"""`extract`: what is wrong with the request is told before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmedlora.adapters.files import save_adapter
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.testing.adapters import random_adapter


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("Given aspirin daily.")
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", random_adapter(0))
    return tmp_path / "adapter"


def fault(capsys: pytest.CaptureFixture[str], *arguments: object, code: int) -> str:
    assert run_app(app, ["extract", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading" not in captured.err
    return captured.err


@pytest.mark.parametrize("labels", ["mood", "drug,mood", "", "drug,,problem", "Drug"])
def test_an_unknown_label_is_named_with_the_known_ones(
    labels: str, note: Path, adapter: Path, tmp_path: Path, capsys
) -> None:
    options = ("--adapter", adapter, "--out", tmp_path / "out", "--labels", labels)

    told = fault(capsys, *options, note, code=2)

    assert "error: --labels: unknown" in told
    assert "expected problem, treatment, test, drug" in told


def test_an_input_that_is_not_there_is_named(adapter: Path, tmp_path: Path, capsys) -> None:
    options = ("--adapter", adapter, "--out", tmp_path / "out")

    assert "none.txt: no such file" in fault(capsys, *options, tmp_path / "none.txt", code=2)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_notes_is_named(adapter: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    options = ("--adapter", adapter, "--out", tmp_path / "out")

    assert "holds no .txt" in fault(capsys, *options, tmp_path / "empty", code=2)


def test_two_notes_with_one_id_are_refused(note: Path, adapter: Path, tmp_path, capsys) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "note.txt"
    twin.write_text("Another one.")
    options = ("--adapter", adapter, "--out", tmp_path / "out")

    assert f"{twin}: the id of a note occurs twice" in fault(capsys, *options, note, twin, code=2)


def test_what_is_no_adapter_is_named(note: Path, tmp_path: Path, capsys) -> None:
    for place in (tmp_path, tmp_path / "none", note):
        told = fault(capsys, "--adapter", place, "--out", tmp_path / "out", note, code=1)

        assert f"error: {place}: neither a run directory nor a peft adapter folder" in told
    assert not (tmp_path / "out").exists()


def test_a_format_that_is_not_written_is_wrong_usage(note, adapter, tmp_path, capsys) -> None:
    options = ("--adapter", adapter, "--out", tmp_path / "out", "--to", "pdf")

    assert "'pdf' is not one of 'jsonl', 'brat'" in " ".join(
        fault(capsys, *options, note, code=2).replace("│", " ").split()
    )
