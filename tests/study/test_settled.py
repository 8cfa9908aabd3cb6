"""Worker processes are taken only where they save time and fit in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedmedlora.core.records import SilentObserver
from fedmedlora.models.dtype import DtypeChoice
from fedmedlora.study import prepare as preparing
from fedmedlora.study import settled
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.prepare import Prepared, resolve_here
from fedmedlora.study.run import resume_study, start_study
from fedmedlora.study.settled import seconds_gained, with_paying_workers

Small = Callable[..., StudyConfig]

FASTER = MachineSpeed(2, 2, 10.0, gain=1.8, alone=0.7, cores=2)


class Told(SilentObserver):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which two workers are faster, whatever this one is."""
    monkeypatch.setattr(preparing, "measured_speed", lambda *_: FASTER)


def with_workers(prepared: Prepared) -> Prepared:
    federation = prepared.config.federation.model_copy(update={"processes": 2})
    return replace(prepared, config=prepared.config.model_copy(update={"federation": federation}))


def test_workers_that_save_time_are_kept(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "_fits", lambda _: True)
    monkeypatch.setattr(settled, "seconds_gained", lambda *_: 31.0)
    told = Told()

    found = with_paying_workers(with_workers(prepared), FASTER, told)

    assert found.config.federation.processes == 2
    assert told.messages == [
        "2 sites train side by side, each in a process of its own: 1.2 times as fast here as one "
        "after another"
    ]


def test_two_sites_on_two_workers_gain_all_and_three_take_a_second_wave(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "_fits", lambda _: True)
    monkeypatch.setattr(settled, "seconds_gained", lambda *_: 31.0)
    three = with_workers(prepared)
    sites = three.config.sites
    assert len(sites) == 3
    two = replace(three, config=three.config.model_copy(update={"sites": sites[:2]}))
    told = Told()

    for study in (two, three):
        with_paying_workers(study, FASTER, told)

    assert "1.8 times as fast here" in told.messages[0]
    assert "1.2 times as fast here" in told.messages[1]  # 3 / (2 / 1.8 + 1 / 0.7)


@pytest.mark.parametrize("limit", [None, 100, 99])
def test_workers_whose_memory_cannot_be_told_to_fit_are_not_taken(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    plan = SimpleNamespace(limit=limit, needed=100)
    monkeypatch.setattr(settled, "plan_memory", lambda _: plan)
    monkeypatch.setattr(settled, "seconds_gained", lambda *_: 31.0)

    found = with_paying_workers(with_workers(prepared), FASTER, SilentObserver())

    assert found.config.federation.processes == (2 if limit == 100 else 0)


@pytest.mark.parametrize(("gained", "fits"), [(29.0, True), (31.0, False)])
def test_workers_that_save_little_or_do_not_fit_are_not(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, gained: float, fits: bool
) -> None:
    monkeypatch.setattr(settled, "_fits", lambda _: fits)
    monkeypatch.setattr(settled, "seconds_gained", lambda *_: gained)

    found = with_paying_workers(with_workers(prepared), FASTER, SilentObserver())

    assert found.config.federation.processes == 0


def test_a_number_of_workers_that_was_set_stays(prepared: Prepared) -> None:
    wanted = with_workers(prepared)

    assert with_paying_workers(wanted, None, SilentObserver()) is wanted
    assert with_paying_workers(wanted, replace(FASTER, workers=0), SilentObserver()) is wanted


def test_arms_of_a_single_site_lose_by_workers(prepared: Prepared) -> None:
    arms = prepared.config.arms.model_copy(update={"single_site": False, "centralized": False})
    federated = replace(prepared, config=prepared.config.model_copy(update={"arms": arms}))
    alone = prepared.config.model_copy(update={"strategies": ()})

    assert seconds_gained(federated, FASTER) > 0
    assert seconds_gained(replace(prepared, config=alone), FASTER) < 0


def test_what_was_set_is_not_told_and_workers_are_measured(small: Small, measured: None) -> None:
    told = Told()

    resolved, found = resolve_here(small('federation.processes="auto"'), told)

    assert told.messages == []
    assert resolved.federation.processes == 2
    assert found["speed"]["gain_of_workers"] == 1.8


@pytest.mark.parametrize(
    ("dtype", "threads", "expected"),
    [
        ("auto", None, "computing in float32 with 2 threads: fastest here"),
        ("auto", 4, "computing in float32, fastest here, with 4 threads, as set"),
        ("float32", None, "computing in float32, as set, with 2 threads, fastest here"),
        ("float32", 4, None),
    ],
)
def test_only_what_was_measured_is_called_fastest(
    small: Small,
    measured: None,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    threads: int | None,
    expected: str | None,
) -> None:
    monkeypatch.setattr(preparing, "choose_dtype", lambda _: DtypeChoice("float32", "torch"))
    config = small('federation.processes="auto"')
    model = config.model.model_copy(update={"dtype": dtype, "threads": threads})
    told = Told()
    before = torch.get_num_threads()
    try:
        resolve_here(config.model_copy(update={"model": model}), told)
    finally:
        torch.set_num_threads(before)

    assert [m for m in told.messages if m.startswith("computing")] == [expected] * bool(expected)


def test_what_was_measured_is_recorded_and_a_resumed_run_keeps_it(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = replace(FASTER, tokens_per_second=10_000.0)
    monkeypatch.setattr(preparing, "measured_speed", lambda *_: fast)
    store = start_study(small("cohorts=[]"), tmp_path, SilentObserver())

    environment = json.loads((store.path / "environment.json").read_text("utf-8"))
    assert environment["speed"]["tokens_per_second"] == 10_000.0
    assert store.config["federation"]["processes"] == 0  # not worth it for so small a study
    assert "worker_threads" not in environment

    def again(*_: object) -> None:
        raise AssertionError("a resumed run measures nothing")

    monkeypatch.setattr(preparing, "measured_speed", again)
    (store.path / "scores.json").unlink()
    assert resume_study(store.path, SilentObserver()).config == store.config
