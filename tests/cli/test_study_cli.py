"""`study check | run | resume` as scripts and people use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.testing.studies import write_tiny_study

QUICK = [
    "arms.zero_shot=false",
    "arms.single_site=false",
    "arms.centralized=false",
    "cohorts=[]",
    'strategies=[{name="fedavg"}]',
    "evaluation.max_characters=160",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("study"))


def options(*overrides: str) -> list[str]:
    return [word for override in (*QUICK, *overrides) for word in ("--set", override)]


def call(*arguments: Any) -> int:
    return run_app(app, [str(argument) for argument in arguments])


def test_check_prints_the_plan_for_people(
    study: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(study.parent.rglob("*"))

    assert call("study", "check", study, *options()) == 0

    captured = capsys.readouterr()
    assert captured.out.startswith("study tiny: no faults; 1 arm\n")
    for line in ("  site alder-icu: ", "  cohort cedar-dictation (in-domain): "):
        assert line in captured.out
    for start in ("time: about ", "traffic: ", "disk: ", "memory: about "):
        assert f"\n{start}" in captured.out
    for step in ("reading the notes", "loading the base model", "planning memory", "measuring"):
        assert step in captured.err
    assert "WARNING: there is no held-out cohort" in captured.out
    assert sorted(study.parent.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_check_prints_json_only_where_asked(study: Path, capsys) -> None:
    assert call("study", "check", study, "--json", *options("cohorts=[]")) == 0

    assert set(json.loads(capsys.readouterr().out)) == {
        "study",
        "arms",
        "sites",
        "cohorts",
        "shared_notes",
        "warnings",
        "training_tokens",
        "extraction_characters",
        "seconds",
        "bytes",
        "memory",
    }


def test_run_prints_its_directory_last_and_json_where_asked(study: Path, tmp_path, capsys) -> None:
    assert call("study", "run", study, "--out", tmp_path, *options()) == 0
    first = capsys.readouterr()
    assert call("study", "run", study, "--out", tmp_path, "--json", *options()) == 0
    second = json.loads(capsys.readouterr().out)

    assert first.out == f"{tmp_path / Path(first.out.strip()).name}\n"
    assert Path(second["run"]).name == Path(first.out.strip()).name.replace("-001", "-002")
    assert Path(second["report"]).is_file()
    for noise in ("\x1b", "\r", "Traceback"):
        assert noise not in first.err


def test_resume_of_a_finished_run_prints_it_and_writes_its_report_anew(
    study: Path, tmp_path: Path, capsys
) -> None:
    assert call("study", "run", study, "--out", tmp_path, *options()) == 0
    run = Path(capsys.readouterr().out.strip())
    (run / "report.html").unlink()

    assert call("study", "resume", run, "--json") == 0

    assert json.loads(capsys.readouterr().out)["run"] == str(run)
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("command", "words"),
    [("choose", "Time limit in minutes."), ("new", "Without it, sites give a few.")],
)
def test_help_says_what_an_option_is_in_plain_words(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    assert call("study", command, "--help") == 0

    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_study_file_that_is_not_there_is_wrong_usage(command: str, tmp_path, capsys) -> None:
    assert call("study", command, tmp_path / "none.toml") == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "none.toml" in "".join(captured.err.split())


def test_a_base_model_that_is_not_there_is_told_before_a_run_exists(
    study: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "runs"

    for base, code, reason in (
        (tmp_path / "no-model", 2, "no such file or folder"),
        (study.parent / "hospitals", 1, "cannot be loaded as a causal language model"),
    ):
        assert call("study", "run", study, "--out", out, *options(f"model.base={base}")) == code

        captured = capsys.readouterr()
        assert f"{base}: {reason}" in captured.err
        assert not out.exists()


def test_modules_that_the_base_model_does_not_have_are_told(study, tmp_path, capsys) -> None:
    wrong = options("lora.target_modules=['c_attn']")

    assert call("study", "run", study, "--out", tmp_path / "runs", *wrong) == 1

    assert "no linear module is named c_attn" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
