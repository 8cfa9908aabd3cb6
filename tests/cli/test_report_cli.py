"""`fedmedlora report` as a user or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from fedmedlora.cli import report
from fedmedlora.cli.console import run_app
from fedmedlora.runs.store import RunStore

app = typer.Typer()
app.command("report")(report.report)


def make_run(parent: Path, *, finished: bool = True) -> Path:
    store = RunStore.create(parent, {"name": "small"}, "small")
    half = {"tp": 1, "fp": 1, "fn": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    scores = {
        "version": "0.1.0",
        "study": "small",
        "arms": [{"name": "zero-shot", "condition": "zero-shot"}],
        "cohorts": [{"name": "eye", "setting": "external", "documents": 1, "labels": ["drug"]}],
        "results": [
            {
                "arm": "zero-shot",
                "cohort": "eye",
                "preset": "strict",
                "scores": {"micro": half, "macro_f1": 0.5, "labels": {"drug": half}},
            }
        ],
    }
    if finished:
        store.write_json("scores.json", scores)
    return store.path


def test_the_last_line_is_the_path_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)

    assert run_app(app, [str(run)]) == 0

    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert page == run / "report.html"
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert (run / "results.json").is_file()
    assert (run / "results.csv").is_file()


def test_json_prints_what_results_json_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)

    assert run_app(app, [str(run), "--json"]) == 0

    out = capsys.readouterr().out
    assert out == (run / "results.json").read_text("utf-8")
    assert json.loads(out)["runs"][0]["results"][0]["scores"]["micro"]["f1"] == 0.5


def test_out_receives_the_files_and_the_run_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path), make_run(tmp_path)]
    before = sorted(path.name for path in runs[0].iterdir())
    out = tmp_path / "new" / "place"

    assert run_app(app, [*map(str, runs), "--out", str(out)]) == 0

    assert Path(capsys.readouterr().out.strip()) == out / "report.html"
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
    ]
    assert sorted(path.name for path in runs[0].iterdir()) == before


def test_an_unfinished_run_fails_in_one_line_that_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, finished=False)

    assert run_app(app, [str(run)]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"fedmedlora study resume {run}" in captured.err
    assert "Traceback" not in captured.err


def test_no_run_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, []) == 2


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["--help"]) == 0

    assert "Example: fedmedlora report" in capsys.readouterr().out
