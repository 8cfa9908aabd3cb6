"""`fedmedlora evaluate` as a user or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmedlora import __version__
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.evaluation.presets import PRESETS

TEXT = "Takes metoprolol 50 mg daily, no chest pain."


def entity(id: str, label: str, start: int, end: int) -> dict[str, Any]:
    return {"id": id, "label": label, "start": start, "end": end, "text": TEXT[start:end]}


def write(path: Path, entities: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"id": "n1", "text": TEXT, "entities": entities, **more}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path


GOLD = [
    entity("T1", "drug", 6, 16),
    entity("T2", "strength", 17, 22),
    entity("T3", "problem", 33, 43),
]
FOUND = [
    entity("T1", "drug", 6, 16),
    entity("T2", "strength", 17, 19),
    entity("T3", "problem", 38, 43),
]
LINK = [{"id": "R1", "label": "modifies", "head": "T2", "tail": "T1"}]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    gold = write(tmp_path / "gold.jsonl", GOLD, relations=LINK)
    found = write(tmp_path / "found.jsonl", FOUND, relations=LINK)
    return ["evaluate", "--gold", str(gold), "--predicted", str(found)]


def test_json_holds_what_the_contract_says(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    one_of_two = {"tp": 1, "fp": 1, "fn": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    right = {"tp": 1, "fp": 0, "fn": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    wrong = {"tp": 0, "fp": 1, "fn": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert result == {
        "preset": "strict",
        "version": __version__,
        "documents": 1,
        "entities": {
            "micro": {**one_of_two, "f1_ci95": [0.5, 0.5]},
            "macro_f1": 0.5,
            "labels": {"problem": wrong, "drug": right},
        },
        "modifiers": {
            "micro": {**wrong, "f1_ci95": [0.0, 0.0]},
            "macro_f1": 0.0,
            "labels": {"strength": wrong},
        },
        "relations": {
            "micro": {**wrong, "f1_ci95": [0.0, 0.0]},
            "macro_f1": 0.0,
            "pairs": {"strength-drug": wrong},
        },
        "unaligned_predictions": 0,
    }


def test_lenient_forgives_boundaries_in_every_block(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "lenient", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    blocks = [result[name]["micro"]["f1"] for name in ("entities", "modifiers", "relations")]
    assert blocks == [1.0, 1.0, 1.0]


def test_all_gives_every_preset_by_name(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "all", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    assert list(result) == list(PRESETS)
    assert all(result[name]["preset"] == name for name in PRESETS)


def test_the_table_names_the_preset_the_documents_and_the_interval(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, files) == 0

    out = capsys.readouterr().out
    assert "preset strict, documents: 1" in out
    assert "entities, micro" in out
    assert "0.500-0.500" in out


def test_help_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["evaluate", "--help"]) == 0

    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS)
    assert "Example" in out


def test_a_corpus_with_a_card_is_scored_on_its_annotated_labels_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "site" / "documents.jsonl", GOLD[:1])
    (tmp_path / "site" / "corpus.toml").write_text(
        'name = "site"\ndocuments = "documents.jsonl"\nannotated_labels = ["drug", "route"]\n'
        "annotated_relations = []\n",
        encoding="utf-8",
    )
    found = write(tmp_path / "found.jsonl", FOUND, relations=LINK)

    command = ["evaluate", "--gold", str(tmp_path / "site"), "--predicted", str(found), "--json"]
    assert run_app(app, command) == 0

    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert list(result["entities"]["labels"]) == ["drug"]
    assert result["entities"]["micro"]["fp"] == 0
    assert list(result["modifiers"]["labels"]) == ["route"]
    assert result["relations"]["pairs"] == {}
    assert "not annotated for it: problem, strength" in captured.err


def test_a_schema_file_says_which_labels_are_entities(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = tmp_path / "own.toml"
    schema.write_text(
        'name = "own"\nversion = "v1"\n[entity_labels]\nstrength = "how much"\n', encoding="utf-8"
    )

    assert run_app(app, [*files, "--schema", str(schema), "--json"]) == 0

    assert list(json.loads(capsys.readouterr().out)["entities"]["labels"]) == ["strength"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--preset", "loose", "expected one of strict, lenient"),
        ("--labels", "drgu", "unknown: drgu"),
        ("--labels", " , ", "expected names with commas"),
        ("--gold", "nowhere.jsonl", "not found"),
        ("--schema", "nowhere.toml", "does not exist"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    files: list[str],
    option: str,
    value: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = run_app(app, [*files, option, value])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_notes_that_do_not_fit_together_fail_without_showing_a_word_of_them(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"id": "n1", "text": "Stopped warfarin."}) + "\n", encoding="utf-8")

    assert run_app(app, [*files[:-1], str(other), "--json"]) == 1

    captured = capsys.readouterr()
    assert "n1" in captured.err
    assert "warfarin" not in captured.err + captured.out
    assert "metoprolol" not in captured.err + captured.out
