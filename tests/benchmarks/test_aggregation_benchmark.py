"""The aggregation benchmark runs from end to end, and all of its ways merge the same thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import aggregation
from benchmarks.run import main
from benchmarks.ways.merging import OURS, WAYS, Merger, ModelShape, Sample, make_folders
from fedmedlora.adapters.files import load_adapter

SHAPE = ModelShape(hidden=24, kv=8, mlp=40)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_folders(tmp_path_factory.mktemp("adapters"), SHAPE, layers=2, sites=3, rank=2)


def test_every_way_but_the_mean_of_factors_gives_our_product(folders: list[Path]) -> None:
    sample = Sample(folders, layers=1, threads=1)
    assert len(sample.modules()) == 7
    for module in sample.modules():
        apart = {way: sample.merge(way, module)[1] for way in (OURS, *WAYS)}
        other = apart.pop("mean of factors")
        assert apart.pop(OURS) == 0.0
        # All are rounded to bfloat16; the randomised one is an approximation besides.
        assert max(apart.values()) < 0.01
        assert other > 2 * max(apart.values())


def test_from_file_to_file_lies_the_mean_of_the_products(
    folders: list[Path], tmp_path: Path
) -> None:
    parts = Merger(folders, threads=1).file_to_file(tmp_path)
    assert list(parts) == ["opening", "screening", "merging", "writing"]
    assert min(parts.values()) > 0
    sites = [load_adapter(folder) for folder in folders[1:]]
    merged = load_adapter(tmp_path)
    for module, pair in merged.pairs.items():
        mean = sum((a.pairs[module].B.double() @ a.pairs[module].A.double()) / 3 for a in sites)
        u, s, vt = np.linalg.svd(mean.numpy(), full_matrices=False)
        got = (pair.B.double() @ pair.A.double()).numpy()
        assert np.linalg.norm(got - (u[:, :2] * s[:2]) @ vt[:2]) < 0.01 * np.linalg.norm(s)


def test_shapes_are_those_of_the_model() -> None:
    kinds = ModelShape().kinds()
    assert len(kinds) == 7
    numbers = 32 * sum(16 * (d_out + d_in) for d_out, d_in in kinds.values())
    assert numbers == 41_943_040  # Llama-3.1-8B, rank 16


def test_a_quick_run_has_every_target_and_table_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregation, "CACHE", tmp_path / "cache")
    path = tmp_path / "record.json"
    assert main(["aggregation", "--quick", "--out", str(path)]) == 0
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))

    targets = {row["id"]: row for row in record["targets"]}
    assert set(targets) == {"T8", "T8-alone", "T8-memory", "T8-dense"}
    assert len(targets["T8-dense"]["measurements"]) == 7  # one a module
    ways, sweep = (
        next(t for t in record["results"]["tables"] if t["title"].startswith(title))
        for title in ("Ways", "Time and memory")
    )
    assert {row[0] for row in ways["rows"]} == {OURS, *WAYS}
    assert [row[:3] for row in sweep["rows"]] == [
        [2, 2, 32],
        [3, 2, 32],
        [3, 1, 32],
        [3, 2, 16],
    ]
    assert list((tmp_path / "cache").iterdir()) == []
