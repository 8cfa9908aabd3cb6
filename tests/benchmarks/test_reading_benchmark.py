"""The reading benchmark counts what is there, and measures no corpus that has faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run import main
from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import write_jsonl

NOTES = [
    Document(
        f"n{number}",
        "Takes nebivolol 5 mg. \U0001f600",
        (Entity.at("T1", "drug", 6, 15), Entity.at("T2", "strength", 16, 20)),
        (Relation("R1", "modifies", "T2", "T1"),),
    )
    for number in range(3)
]


def site(folder: Path, name: str, labels: tuple[str, ...] = ("drug", "strength")) -> Path:
    path = folder / name
    write_jsonl(path / "documents.jsonl.gz", NOTES)
    write_card(path, CorpusCard(name, "documents.jsonl.gz", labels, ("modifies",)))
    return path


def quick(folder: Path, *settings: str) -> tuple[int, Path]:
    words = [word for setting in settings for word in ("--set", setting)]
    path = folder / "record.json"
    return main(["reading", "--quick", "--out", str(path), *words]), path


def rows_of(record: dict[str, Any], title: str) -> list[dict[str, Any]]:
    [table] = [t for t in record["results"]["tables"] if t["title"].startswith(title)]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_every_corpus_is_counted_in_plain_bytes_and_none_of_its_text_is_recorded(
    tmp_path: Path,
) -> None:
    site(tmp_path / "real", "east")
    west = site(tmp_path / "real", "west")
    code, path = quick(tmp_path, f"corpora={tmp_path / 'real'}")
    assert code == 0
    text = path.read_text("utf-8")
    record = json.loads(text)

    made, *real, together = rows_of(record, "Reading by corpus")
    assert made["documents"] > 5
    assert made["entities"] > made["links"] > 0
    assert [row["notes"] for row in real] == ["east", "west"]
    write_jsonl(tmp_path / "plain.jsonl", NOTES)
    size = (tmp_path / "plain.jsonl").stat().st_size
    assert size > (west / "documents.jsonl.gz").stat().st_size
    assert real[0]["MB"] == pytest.approx(size / 1e6, abs=0.005)
    counts = [together[key] for key in ("documents", "entities", "links")]
    assert counts == [6, 12, 6]
    assert "nebivolol" not in text
    assert str(tmp_path) not in text
    assert {row["stored as"] for row in rows_of(record, "Reading by compression")} == {
        ".jsonl", ".jsonl.gz", ".jsonl.zst",
    }  # fmt: skip


def test_the_target_is_the_speed_on_the_artificial_notes(tmp_path: Path) -> None:
    code, path = quick(tmp_path, "repetitions=3")
    assert code == 0
    record = json.loads(path.read_text("utf-8"))

    [row] = rows_of(record, "Reading by corpus")
    for name, way in (("T12", "validate"), ("T12-load", "load")):
        [target] = [t for t in record["targets"] if t["id"] == name]
        assert target["value"] == pytest.approx(row[f"{way}, MB/s"], rel=1e-3)
        assert len(target["measurements"]) == 3


def test_a_corpus_with_a_fault_gives_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site(tmp_path / "real", "east", labels=("drug",))

    code, path = quick(tmp_path, f"corpora={tmp_path / 'real'}")

    assert code == 2
    assert not path.exists()
    assert "east has faults" in capsys.readouterr().err


def test_a_folder_without_corpora_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert quick(tmp_path, f"corpora={tmp_path / 'empty'}")[0] == 2
    assert "no corpus here" in capsys.readouterr().err
