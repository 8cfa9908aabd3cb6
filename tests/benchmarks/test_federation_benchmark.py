"""The federation benchmark runs from end to end, and charges every second to one part."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.run import main
from benchmarks.ways import models
from benchmarks.ways.parts import timed_parts
from benchmarks.ways.simulation import PARTS, Rounds, Simulation
from benchmarks.ways.trainers import Setup


def quick_run(path: Path, *settings: str) -> dict[str, Any]:
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["federation", "--quick", "--out", str(path), *words]) == 0
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CACHE", folder)
        yield folder


@pytest.fixture(scope="module")
def record(cache: Path) -> dict[str, Any]:
    return quick_run(cache / "federation.json")


def rows_of(record: dict[str, Any], title: str) -> list[dict[str, Any]]:
    [table] = [t for t in record["results"]["tables"] if t["title"].startswith(title)]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_memory_is_measured_with_one_site_and_with_many_at_the_same_notes_a_site(
    record: dict[str, Any],
) -> None:
    one, many = rows_of(record, "Peak memory")
    assert (one["sites"], many["sites"]) == (1, 3)
    assert many["examples"] > one["examples"] > 0
    assert many["all updates, MiB"] == pytest.approx(3 * one["all updates, MiB"], rel=1e-3)
    [target] = [row for row in record["targets"] if row["id"] == "T6"]
    assert len(target["measurements"]) == 2
    assert target["unit"] == "x"


def test_overhead_is_what_a_round_takes_beyond_its_sites_own_seconds(
    record: dict[str, Any],
) -> None:
    measured = record["results"]["measurements"]
    shares = [
        100 * (whole - local) / local
        for whole, local in zip(measured["round seconds"], measured["local seconds"], strict=True)
    ]
    [target] = [row for row in record["targets"] if row["id"] == "T7"]
    assert target["measurements"] == pytest.approx(shares, rel=1e-2)
    assert target["value"] == pytest.approx(median(shares), rel=1e-2)
    rows = rows_of(record, "Where a round's time goes")
    assert {row["part"] for row in rows} == set(PARTS) - {"local training"} | {"all else"}
    # Two sites, two rounds; the parts and the rest are the whole.
    whole = sum(measured["round seconds"]) - sum(measured["local seconds"])
    assert sum(row["seconds a site and round"] for row in rows) * 4 == pytest.approx(
        whole, rel=1e-2
    )
    assert sum(row["seconds a site and round"] for row in rows if row["part"] != "all else") > 0


def test_nothing_of_a_simulation_is_left_on_the_disk(record: dict[str, Any], cache: Path) -> None:
    assert [path.name for path in cache.iterdir()] == ["federation.json"]


def test_every_site_has_notes_of_its_own(cache: Path) -> None:
    setup = Setup("tiny", "cpu", threads=1, rank=2, alpha=4.0, learning_rate=1e-3, seed=0)
    simulation = Simulation(setup, "float32", 6, 1, 512)

    texts = [site.data["entities"].train for site in simulation._sites.values()]
    assert len({examples[0].token_ids for examples in texts}) == 6
    found = simulation.run(2, 1)
    assert isinstance(found, Rounds)
    assert [len(each.site_seconds) for each in found.rounds] == [6, 6]
    assert found.parts["waiting update: written"] > 0


class Clock:
    """Told to `timed_parts` as the time: it goes on only while somebody works."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("benchmarks.ways.parts.time", clock)
    return clock


def test_a_part_is_not_charged_for_another_one_inside_it(clock: Clock) -> None:
    tools = SimpleNamespace()
    tools.inner = lambda: clock.work(5)

    def outer() -> None:
        clock.work(2)
        tools.inner()
        tools.inner()

    tools.outer = outer
    with timed_parts({"in": [(tools, "inner")], "out": [(tools, "outer")]}) as seconds:
        tools.outer()
        clock.work(3)  # nobody's
        tools.inner()

    assert seconds == {"in": 15, "out": 2}
    assert tools.outer is outer


def test_parts_are_charged_when_they_raise_and_are_given_back(clock: Clock) -> None:
    def failing() -> None:
        clock.work(1)
        raise KeyError

    tools = SimpleNamespace(failing=failing)
    with timed_parts({"bad": [(tools, "failing")]}) as seconds, pytest.raises(KeyError):
        tools.failing()

    assert seconds == {"bad": 1}
    assert tools.failing is failing


@pytest.mark.slow
def test_many_sites_need_hardly_more_memory_than_one(cache: Path) -> None:
    """Without waiting on disk, thirty adapters of rank 2048 would be some 200 MiB more.

    What grows is what one site does too, if it trains for long enough: oneDNN keeps programs for
    every length of a row. Beside a tiny model that is much, beside a real one a few percent.
    """
    settings = ("own_processes=true", "sites=30", "rank=2048", "repetitions=1")
    record = quick_run(cache / "many.json", *settings, "overhead_rounds=1")

    one, many = rows_of(record, "Peak memory")
    assert many["all updates, MiB"] > 200
    assert many["peak, MiB"] - one["peak, MiB"] < 0.5 * many["all updates, MiB"]
