"""A run that was killed and resumed ends with the bits of one that was not."""

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate, Train
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate, AggregationContext, Memory
from fedmedlora.aggregation.weighting import by_size, size_of
from fedmedlora.core.errors import AdapterMismatchError, RunStoreError
from fedmedlora.core.records import RoundRecord, SilentObserver
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import Outcome, run_rounds
from fedmedlora.testing.adapters import DriftingSite, random_adapter

NUM_ROUNDS = 3


class WithMemory:
    """Averages, and lets a remembered tensor and number into the next adapter and plan."""

    needs_scorer = False

    def plan(self, plans, adapter, memory: Memory) -> dict[str, Train]:
        past = memory.get("total", 0.0)
        return {s: Train(replace(p, extras={"past": past}), adapter) for s, p in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        sound, _ = screen(updates, context)
        weights = by_size({site: size_of(update, "tokens") for site, update in sound.items()})
        adapter = mean_of_factors({s: u.adapter for s, u in sound.items()}, weights)
        drift = context.memory.get("drift", torch.zeros(4)) * 0.9 + torch.randn(
            4, generator=torch.Generator().manual_seed(context.seed % 2**31)
        )
        for _, _, tensor in adapter.tensors():
            tensor.add_(drift.mean())
        total = context.memory.get("total", 0.0) + float(drift.sum()) / 3
        return Aggregate(adapter, weights, memory={"drift": drift, "total": total})


@dataclass
class Reporting(SilentObserver):
    report: Callable[[RoundRecord], None]

    def round_ended(self, record: RoundRecord) -> None:
        self.report(record)


def run(folder: Path | None, **options: object) -> Outcome:
    sites = {name: DriftingSite(name, i + 1) for i, name in enumerate(("east", "north"))}
    settings = {
        "arm": "fedavg",
        "strategy": WithMemory(),
        "runtime": InProcessRuntime(sites, FP32),
        "sites": sites,
        "num_rounds": NUM_ROUNDS,
        "adapter": random_adapter(0),
        "plan": LocalPlan(0),
        "seed": 1,
        "checkpoint": None if folder is None else Checkpoint(folder),
    }
    return run_rounds(**settings | options)


def without_time(records: Iterable[RoundRecord]) -> list[RoundRecord]:
    return [replace(record, elapsed_seconds=0.0, site_seconds={}) for record in records]


def assert_same(resumed: Outcome, whole: Outcome) -> None:
    assert resumed.adapter == whole.adapter
    assert without_time(resumed.records) == without_time(whole.records)


def saved_memory(folder: Path) -> tuple[list[float], float]:
    memory = Checkpoint(folder).latest().memory
    return memory["drift"].tolist(), memory["total"]


class Crash(BaseException):
    """Like a kill: nothing that handles exceptions of the program may swallow it."""


def die_at(step: int, monkeypatch: pytest.MonkeyPatch, die: Callable[[], None]) -> list[int]:
    """Lets the process die before its `step`-th change on disk; returns the counter."""
    counter = [0]

    def counted(function: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            counter[0] += 1
            if counter[0] == step:
                die()
            return function(*args, **kwargs)

        return wrapper

    for owner, name in [
        (os, "fsync"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "write_bytes"),
        (Path, "write_text"),
    ]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return counter


def num_steps(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patched:
        counter = die_at(0, patched, lambda: None)
        run(folder)
    return counter[0]


def test_saving_changes_nothing(tmp_path: Path) -> None:
    assert_same(run(tmp_path / "rounds"), run(None))


def test_an_exception_at_any_step_of_saving_can_be_resumed_from(tmp_path: Path) -> None:
    def crash() -> None:
        raise Crash

    whole = run(tmp_path / "whole")
    steps = num_steps(tmp_path / "count")
    assert steps >= 8 * NUM_ROUNDS  # folder, three or four files, syncs, rename
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        with pytest.MonkeyPatch.context() as patched:
            die_at(step, patched, crash)
            with pytest.raises(Crash):
                run(folder)
        assert_same(run(folder), whole)
        assert saved_memory(folder) == saved_memory(tmp_path / "whole")


def test_updates_that_wait_on_disk_change_nothing_about_resuming(tmp_path: Path) -> None:
    def crash() -> None:
        raise Crash

    sites = {name: DriftingSite(name, i + 1) for i, name in enumerate(("east", "north"))}
    whole = run(None)
    for step in range(1, num_steps(tmp_path / "count") + 1, 3):
        folder, work = tmp_path / str(step), tmp_path / f"work-{step}"
        with pytest.MonkeyPatch.context() as patched:
            die_at(step, patched, crash)
            with pytest.raises(Crash):
                run(folder, runtime=InProcessRuntime(sites, FP32, work=work))
        resumed = run(folder, runtime=InProcessRuntime(sites, FP32, work=work))
        assert_same(resumed, whole)
        assert not any(work.iterdir())


def test_a_death_without_a_last_word_at_any_step_of_saving_can_be_resumed_from(
    tmp_path: Path, forked: Callable[[Callable[[], object]], int]
) -> None:
    """Unlike an exception, it leaves half-written folders behind."""
    whole = run(tmp_path / "whole")
    left_behind = 0
    for step in range(1, num_steps(tmp_path / "count") + 1):
        folder = tmp_path / str(step)

        def work(folder: Path = folder, step: int = step) -> None:
            with pytest.MonkeyPatch.context() as patched:
                die_at(step, patched, lambda: os._exit(9))
                run(folder)

        assert forked(work) == 9
        left_behind += any(folder.glob(".writing-*"))
        assert_same(run(folder), whole)
        assert not any(folder.glob(".*"))
    assert left_behind > NUM_ROUNDS


@pytest.mark.parametrize(
    "num_moments", [3, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_kill_9_at_random_moments_can_be_resumed_from(
    tmp_path: Path, num_moments: int, num_steps, killed_at
) -> None:
    whole = run(tmp_path / "whole")
    last = num_steps(lambda: run(tmp_path / "counted"))
    rng = random.Random(num_moments)
    num_killed = 0
    for moment in range(num_moments):
        folder = tmp_path / str(moment)
        step, calls = rng.randint(1, last), rng.randint(0, 40)
        num_killed += killed_at(step, calls, lambda folder=folder: run(folder))
        assert_same(run(folder), whole)
    assert num_killed >= num_moments - 1


def test_rounds_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    first = run(tmp_path, num_rounds=2)
    told: list[RoundRecord] = []
    resumed = run(tmp_path, observer=Reporting(told.append))
    assert resumed.records[:2] == first.records
    assert [record.round_index for record in told] == [3]
    again = run(tmp_path, observer=Reporting(told.append))
    assert again.adapter == resumed.adapter
    assert len(told) == 1


def test_rounds_of_another_run_are_not_continued(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RunStoreError, match=r"round 3 of fedavg; expected .* of uniform"):
        run(tmp_path, arm="uniform")
    with pytest.raises(RunStoreError, match="at most round 2"):
        run(tmp_path, num_rounds=2)
    with pytest.raises(AdapterMismatchError, match="base_model differs"):
        run(tmp_path, num_rounds=4, adapter=random_adapter(0, base_model="another"))
