"""`fedmedlora evaluate --rule-linker`: the links of a system beside those by distance and type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app

TEXT = "Fever and cough, severe; aspirin daily."
MENTIONS = [
    {"id": "T1", "label": "problem", "start": 0, "end": 5, "text": "Fever"},
    {"id": "T2", "label": "problem", "start": 10, "end": 15, "text": "cough"},
    {"id": "T3", "label": "severity", "start": 17, "end": 23, "text": "severe"},
    {"id": "T4", "label": "drug", "start": 25, "end": 32, "text": "aspirin"},
    {"id": "T5", "label": "frequency", "start": 33, "end": 38, "text": "daily"},
]


def corpus(folder: Path, link: str) -> str:
    """A corpus with a card, whose severity belongs to the entity farther away."""
    folder.mkdir()
    relations = [
        {"id": "R1", "label": link, "head": "T3", "tail": "T1"},
        {"id": "R2", "label": link, "head": "T5", "tail": "T4"},
    ]
    document = {"id": "n", "text": TEXT, "entities": MENTIONS, "relations": relations}
    (folder / "documents.jsonl").write_text(json.dumps(document) + "\n", encoding="utf-8")
    (folder / "corpus.toml").write_text(
        'name = "c"\ndocuments = "documents.jsonl"\nrole = "train"\nlicence = "none"\n'
        'style = "one line"\nannotated_labels = ["problem", "drug", "severity", "frequency"]\n'
        f'annotated_relations = ["{link}"]\n',
        encoding="utf-8",
    )
    return str(folder)


def called(capsys: pytest.CaptureFixture[str], gold: str, *more: str) -> dict[str, Any]:
    assert run_app(app, ["evaluate", "--gold", gold, "--predicted", gold, *more, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("link", ["modifies", "hasAttr"])
def test_the_links_by_rule_are_what_the_predictions_are_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    gold = corpus(tmp_path / "gold", link)
    result = called(capsys, gold, "--rule-linker")

    compared = {row["figure"]: (row["f1"], row["against_f1"]) for row in result["against"]}
    assert compared == {"entities": (1, 1), "modifiers": (1, 1), "relations": (1, 0.5)}
    # The predictions' own scores are the same as without the option.
    del result["against"]
    assert result == called(capsys, gold)


def test_only_one_system_can_be_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = corpus(tmp_path / "gold", "modifies")
    command = ["evaluate", "--gold", gold, "--predicted", gold, "--against", gold, "--rule-linker"]

    assert run_app(app, command) == 2
    assert "expected one system" in capsys.readouterr().err
