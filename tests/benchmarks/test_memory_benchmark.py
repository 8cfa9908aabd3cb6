"""The benchmark of the memory plan runs, and compares like with like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import CASES
from benchmarks.run import main
from fedmedlora.runs.machine_memory import resident_bytes


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("memory") / "memory.json"
    assert main(["memory", "--quick", "--out", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_every_study_has_its_plan_beside_what_it_took(record: dict[str, Any]) -> None:
    [table] = record["results"]["tables"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]

    assert [row["study"] for row in rows] == record["config"]["cases"]
    for row in rows:
        assert row["fitted to"] == ("yes" if CASES[row["study"]].fitted else "no")
        # Of this process, which holds all of the tests before.
        assert 0.5 * resident_bytes() < 1e6 * row["taken, MB"]
        error = 100 * (row["planned, MB"] / row["taken, MB"] - 1)
        assert row["error, %"] == pytest.approx(error, abs=0.1)
        largest = max(row[f"{part}, MB"] for part in ("training", "judging", "extraction"))
        base = row["held before, MB"] + row["programs, MB"]
        assert row["planned, MB"] >= 0.999 * (base + largest)


def test_the_worst_study_counts_and_those_that_nothing_was_fitted_to_apart(
    record: dict[str, Any],
) -> None:
    [table] = record["results"]["tables"]
    errors = [abs(row[-1]) for row in table["rows"]]
    targets = {row["id"]: row for row in record["targets"]}

    assert targets["memory-plan"]["value"] == pytest.approx(max(errors), rel=1e-2)
    unseen = [abs(row[-1]) for row in table["rows"] if row[1] == "no"]
    assert 0 < len(unseen) < len(errors)
    assert targets["memory-plan-unseen"]["value"] == pytest.approx(max(unseen), rel=1e-2)


def test_a_study_that_there_is_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "none.json")
    assert main(["memory", "--quick", "--out", out, "--set", 'cases=["a"]']) == 2
    assert "unknown a" in capsys.readouterr().err
