"""The extraction benchmark runs from end to end, and its record says what it must and no more."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.run import RESULTS, main
from benchmarks.ways.sentences import artificial_notes

if TYPE_CHECKING:
    from tests.benchmarks.conftest import QuickRun

ROOT = Path(__file__).parents[2]


def test_the_record_says_with_what_on_what_and_how_long(extraction: QuickRun) -> None:
    record = extraction.record

    assert record["benchmark"] == "extraction"
    assert record["quick"] is True
    assert record["config"]["repetitions"] == 3
    assert record["packages"].keys() >= {"torch", "transformers", "numpy"}
    assert record["hardware"]["cpu"]
    assert record["hardware"]["num_usable_cores"] >= 1
    assert record["threads"] == 1
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 50e6


def test_targets_are_medians_of_all_interleaved_repetitions(extraction: QuickRun) -> None:
    targets = {row["id"]: row for row in extraction.record["targets"]}
    taken = extraction.record["results"]["measurements_seconds"]

    helped = {"T1a+", "T1b+", "T1c+"}
    assert targets.keys() == {"T1a", "T1b", "T1c", "T3-float32", "T3-bfloat16"} | helped
    for name, title, above, below in (
        ("T1a", "batches", "transformers.generate, html", "ours, html"),
        ("T1b", "one at a time", "transformers.generate, html", "ours, html"),
        ("T1c", "batches", "transformers.generate, html", "ours, compact"),
        ("T3-float32", "against BERT", "ours, float32", "BERT, float32"),
        ("T3-bfloat16", "against BERT", "ours, bfloat16", "BERT, bfloat16"),
    ):
        pairs = zip(taken[title][above], taken[title][below], strict=True)
        ratios = [a / b for a, b in pairs]
        assert len(ratios) == 3
        assert targets[name]["value"] == pytest.approx(median(ratios), rel=1e-3)
        assert targets[name]["measurements"] == pytest.approx(ratios, rel=1e-3)


def test_every_way_is_scored_and_its_work_counted(extraction: QuickRun) -> None:
    tables = {t["title"]: t for t in extraction.record["results"]["tables"]}
    ways = ["transformers.generate, html", "transformers.generate, html, helped"]
    ways += ["ours, html", "ours, compact"]

    for start in ("Strict entity F1", "Speed and work, batches", "Speed and work, one at a time"):
        [table] = [table for title, table in tables.items() if title.startswith(start)]
        assert [row[0] for row in table["rows"]] == ways
    for table in tables.values():
        assert table["rows"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_the_record_names_no_place_no_machine_and_no_word_of_a_note(extraction: QuickRun) -> None:
    text = extraction.path.read_text("utf-8")

    strings = [value for value in leaves(json.loads(text)) if isinstance(value, str)]
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert not [value for value in strings if value.startswith(("/", "~"))]
    assert platform.node() not in strings
    words = {
        note.text[e.start : e.end]
        for note in artificial_notes("external", 6, 0)
        for e in note.entities
    }
    assert not {word for word in words if len(word) > 6 and word in text}


def test_a_wrong_setting_ends_with_a_message_and_without_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"

    code = main(["extraction", "--quick", "--out", str(out), "--set", "speed=high"])

    assert code == 2
    assert "speed=high" in capsys.readouterr().err
    assert not out.exists()


def test_a_quick_run_never_lands_among_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import extraction, run

    monkeypatch.setattr(run, "CACHE", tmp_path)
    monkeypatch.setattr(extraction, "run", lambda config, say: {})
    before = sorted(RESULTS.glob("*"))

    assert run.main(["extraction", "--quick"]) == 0

    assert Path(capsys.readouterr().out.strip()) == tmp_path / "extraction.json"
    assert sorted(RESULTS.glob("*")) == before


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]
