"""The benchmark of kernels: what it tells of a tiny model."""

from __future__ import annotations

import pytest

from benchmarks import kernels
from benchmarks.harness.settings import make_config


@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "a processor without it"])
def test_it_tells_what_compiling_costs_and_what_packing_gains(
    bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    can = kernels.onednn_takes_bfloat16()
    monkeypatch.setattr(kernels, "onednn_takes_bfloat16", lambda: can and bfloat16)
    config = make_config(kernels.Config, kernels.QUICK, [])
    compiled, packed = kernels.run(config, lambda _: None)["tables"]
    assert len(compiled["rows"]) == 1
    assert all(len(row) == len(compiled["columns"]) for row in compiled["rows"])
    assert packed["title"].startswith("A bfloat16" if can and bfloat16 else "A float32")
    assert [row[0] for row in packed["rows"]] == [8]
    assert all(speed > 0 for speed in packed["rows"][0][1:])
