"""The benchmark of intervals compares with scipy what it says that it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import intervals
from benchmarks.run import main


def record_of(folder: Path, *settings: str) -> dict[str, Any]:
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["intervals", "--quick", "--out", str(folder / "r.json"), *words]) == 0
    found: dict[str, Any] = json.loads((folder / "r.json").read_text("utf-8"))
    return found


def test_both_targets_come_from_the_tables_below_them(tmp_path: Path) -> None:
    record = record_of(tmp_path, "repetitions=3", "documents=60", "draws=500")

    time, apart = record["targets"]
    ways, pairs, sizes = (table["rows"] for table in record["results"]["tables"])
    assert time["id"] == "T13"
    assert time["value"] == pytest.approx(ways[0][1], rel=1e-3)
    assert len(time["measurements"]) == 3
    assert apart["value"] == pytest.approx(max(row[-1] for row in pairs), rel=1e-3)
    for _, f1, ours, theirs, distance in pairs:
        assert ours[0] < f1 < ours[1]
        ends = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        assert distance == pytest.approx(ends, abs=0.01)
        assert 0 < distance < ours[1] - ours[0]
    assert [row[0] for row in sizes] == [10, 20]


def test_an_interval_that_is_off_would_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = record_of(tmp_path, "documents=200", "draws=2000")["targets"][1]["value"]
    real = intervals.estimate_f1
    monkeypatch.setattr(
        intervals, "estimate_f1", lambda counts, **more: real(counts[: len(counts) // 2], **more)
    )

    wrong = record_of(tmp_path, "documents=200", "draws=2000")["targets"][1]["value"]

    assert right < 0.35 < wrong
