"""The benchmark of small steps: what it tells of a tiny model."""

from __future__ import annotations

from benchmarks import steps
from benchmarks.harness.settings import make_config


def test_it_tells_the_speed_of_each_step_with_and_without_fewer_operations() -> None:
    config = make_config(steps.Config, steps.QUICK, [])
    (table,) = steps.run(config, lambda _: None)["tables"]
    assert len(table["rows"]) == len(config.examples)
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert all(figure > 0 for row in table["rows"] for figure in row)
