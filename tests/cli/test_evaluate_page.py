"""`evaluate --html`: gold and predicted notes on one page, with the scores that are printed."""

from __future__ import annotations

import json
import re
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
]
CARD = (
    'name = "c"\ndocuments = "documents.jsonl"\n'
    'annotated_labels = ["problem", "drug", "severity"]\nannotated_relations = [{}]\n'
)


def corpus(folder: Path, mentions: list[dict[str, Any]], tail: str, links: str) -> str:
    folder.mkdir()
    relations = [{"id": "R1", "label": "modifies", "head": "T3", "tail": tail}]
    document = {"id": "n", "text": TEXT, "entities": mentions, "relations": relations}
    (folder / "documents.jsonl").write_text(json.dumps(document) + "\n", "utf-8")
    (folder / "corpus.toml").write_text(CARD.format(links), "utf-8")
    return str(folder)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    gold = corpus(tmp_path / "gold", MENTIONS, "T1", '"modifies"')
    found = corpus(tmp_path / "found", MENTIONS[:3], "T1", '"modifies"')
    return ["evaluate", "--gold", gold, "--predicted", found]


def cells(html: str, heading: str) -> list[str]:
    row = re.search(rf'<tr><th scope="row">{heading}</th>(.*?)</tr>', html)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row[1])


def test_the_page_has_the_scores_that_are_printed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "errors.html"

    assert run_app(app, [*command, "--html", str(page), "--json"]) == 0

    captured = capsys.readouterr()
    assert f"written to {page}" in captured.err
    result = json.loads(captured.out)
    html = page.read_text("utf-8")
    for heading, block in (
        ("Entities", "entities"),
        ("Modifiers, end to end", "modifiers"),
        ("Relations, end to end", "relations"),
    ):
        micro = result[block]["micro"]
        numbers = [str(micro[key]) for key in ("tp", "fp", "fn")]
        ratios = [f"{100 * micro[key]:.1f}" for key in ("precision", "recall", "f1")]
        assert micro["f1_ci95"] is None  # one note
        assert cells(html, heading) == [*numbers, *ratios, ""]


def test_the_rule_linker_on_the_page_is_that_of_the_option(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "errors.html"
    run_app(app, [*command, "--html", str(page), "--rule-linker", "--json"])

    compared = {r["figure"]: r for r in json.loads(capsys.readouterr().out)["against"]}
    html = page.read_text("utf-8")
    own = cells(html, "Relations, end to end")[5]
    assert own == f"{100 * compared['relations']['f1']:.1f}" == "100.0"
    by_rule = cells(html, "Relations by the rule linker, end to end")[5]
    assert by_rule == f"{100 * compared['relations']['against_f1']:.1f}" == "0.0"


def test_where_no_links_are_annotated_none_are_scored_and_no_rule_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = corpus(tmp_path / "gold", MENTIONS, "T1", "")
    page = tmp_path / "errors.html"

    assert run_app(app, ["evaluate", "--gold", gold, "--predicted", gold, "--html", str(page)]) == 0

    html = page.read_text("utf-8")
    assert "rule linker" not in html
    assert "Relations, end to end" not in html
    assert "not annotated" in html


@pytest.mark.parametrize("preset", ["lenient", "all"])
def test_any_preset_can_be_shown(command: list[str], tmp_path: Path, preset: str) -> None:
    page = tmp_path / "errors.html"

    assert run_app(app, [*command, "--html", str(page), "--preset", preset]) == 0

    assert f"preset {'strict' if preset == 'all' else preset}" in page.read_text("utf-8")


def test_a_file_of_notes_is_never_taken_for_the_page(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "gold" / "documents.jsonl"
    before = notes.read_bytes()

    assert run_app(app, [*command, "--html", str(notes)]) == 2

    assert "ending in .html" in capsys.readouterr().err
    assert notes.read_bytes() == before
