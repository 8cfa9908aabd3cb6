"""The training benchmark runs from end to end, and its figures are what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.run import main
from benchmarks.training import OURS, PLAIN, TRL


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return quick_run(tmp_path_factory.mktemp("training") / "training.json")


def quick_run(path: Path, *settings: str) -> dict[str, Any]:
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["training", "--quick", "--out", str(path), *words]) == 0
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def rows_of(record: dict[str, Any], title: str) -> list[dict[str, Any]]:
    [table] = [t for t in record["results"]["tables"] if t["title"].startswith(title)]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_targets_are_the_ratios_of_interleaved_repetitions(record: dict[str, Any]) -> None:
    taken = record["results"]["measurements_seconds"]
    assert {name: len(seconds) for name, seconds in taken.items()} == dict.fromkeys(
        (TRL, PLAIN, OURS), 2
    )
    found = {row["id"]: row for row in record["targets"]}
    assert set(found) == {"T4", "T15", "T4-loss"}
    for target, peer in (("T4", TRL), ("T15", PLAIN)):
        each = [theirs / ours for theirs, ours in zip(taken[peer], taken[OURS], strict=True)]
        assert found[target]["measurements"] == pytest.approx(each, rel=1e-3)
        assert found[target]["value"] == pytest.approx(median(each), rel=1e-3)


def test_speeds_count_the_same_useful_tokens_for_every_way(record: dict[str, Any]) -> None:
    results = record["results"]
    rows = rows_of(record, "Training on 4 examples, html prompt")
    assert [row["way"] for row in rows] == [TRL, PLAIN, OURS]
    for row in rows:
        seconds = median(results["measurements_seconds"][row["way"]])
        assert row["examples/s"] == pytest.approx(4 / seconds, rel=1e-3)
        tokens = results["setting"]["useful_tokens"]
        assert row["useful tokens/s"] == pytest.approx(tokens / seconds, rel=1e-3)
    losses = [row["last loss"] for row in rows]  # TRL may have chosen bfloat16
    assert losses == pytest.approx([losses[0]] * 3, rel=0.02)


def test_losses_lie_over_each_other_and_the_target_is_the_worst_step(
    record: dict[str, Any],
) -> None:
    rows = rows_of(record, "Losses in float32")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert sum(row["examples"] for row in rows) == 6
    [target] = [row for row in record["targets"] if row["id"] == "T4-loss"]
    assert target["value"] == max(row["apart, %"] for row in rows) < 0.1
    assert target["met"]


def test_the_search_tries_every_kind_of_setting_and_the_best_is_used(
    record: dict[str, Any],
) -> None:
    tried = {row["setting"]: row["examples/s"] for row in rows_of(record, "Search")}
    assert {"float32", "bfloat16", "autocast"} <= set(tried)
    assert sum("padding-free" in setting for setting in tried) >= 1
    assert sum("2 passes a step" in setting for setting in tried) == 1
    [used] = [row["setting"] for row in rows_of(record, "Training on") if row["way"] == TRL]
    assert used == max(tried, key=lambda setting: tried[setting])


def test_memory_and_scaling_have_a_row_for_each_way_and_group(record: dict[str, Any]) -> None:
    for row in rows_of(record, "Peak memory"):
        assert 50 < row["model loaded, MiB"] <= row["trained, MiB"]
    rows = {row["what"]: row for row in rows_of(record, "How speed depends")}
    assert list(rows) == [
        "prompt: compact",
        "prompt: html",
        "prompt: html, all labels",
        "compact, windows of 32 tokens",
        "effective batch 2",
        "random model, 192 wide, 1 layers",
    ]
    shared = [rows[f"prompt: {name}"]["shared tokens"] for name in ("compact", "html")]
    assert 0 < shared[0] < shared[1] < rows["prompt: html, all labels"]["shared tokens"]
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["ours, tokens/s"] / row["TRL, tokens/s"], rel=1e-3)


@pytest.mark.slow
def test_with_each_way_in_a_process_of_its_own_memory_is_told_apart(tmp_path: Path) -> None:
    record = quick_run(tmp_path / "training.json", "own_processes=true", "scaling_examples=1")

    rows = {row["way"]: row for row in rows_of(record, "Peak memory")}
    assert rows[OURS]["trained, MiB"] < rows[TRL]["trained, MiB"]  # which has more libraries
