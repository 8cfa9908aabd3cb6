"""The benchmark of kernels: what it tells of a tiny model."""

from __future__ import annotations

from benchmarks import kernels
from benchmarks.harness.settings import make_config


def test_it_tells_what_compiling_costs_and_what_packing_gains() -> None:
    config = make_config(kernels.Config, kernels.QUICK, [])
    compiled, packed = kernels.run(config, lambda _: None)["tables"]
    assert len(compiled["rows"]) == 1
    assert all(len(row) == len(compiled["columns"]) for row in compiled["rows"])
    assert [row[0] for row in packed["rows"]] == [8]
    assert all(speed > 0 for speed in packed["rows"][0][1:])
