"""The longest study that ends in time; this machine's speed is given, not measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.study import prepare as preparing
from fedmedlora.study.choose import choose_study, chosen
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.study_file import load_study

S, M, L = Path("s.toml"), Path("m.toml"), Path("l.toml")
SECONDS = {S: 100.0, M: 500.0, L: 2000.0}


@pytest.mark.parametrize(
    ("limit", "expected"), [(5000, L), (2000, L), (1999, M), (500, M), (499, S), (50, S), (0, S)]
)
def test_the_longest_that_ends_in_time_is_taken_and_the_shortest_if_none_does(
    limit: float, expected: Path
) -> None:
    assert chosen(SECONDS, limit) == expected
    assert chosen(dict(reversed(SECONDS.items())), limit) == expected


def sizes(tiny_study: Path) -> dict[Path, StudyConfig]:
    return {
        S: load_study(tiny_study, ["training.max_tokens=400"]),
        M: load_study(tiny_study, ["federation.rounds=4"]),
        L: load_study(tiny_study, ["federation.rounds=40"]),
    }


def test_more_work_takes_longer_and_twice_the_speed_half_as_long(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rate in (10.0, 20.0):
        speed = MachineSpeed(1, 0, rate)
        monkeypatch.setattr(preparing, "measured_speed", lambda *_, known=speed: known)
        found.append(choose_study(sizes(tiny_study), 600, SilentObserver()))
    slow, fast = found

    assert slow.seconds[S] < slow.seconds[M] < slow.seconds[L]
    for path in (S, M, L):
        assert fast.seconds[path] == pytest.approx(slow.seconds[path] / 2)
    assert fast.to_json()["tokens_per_second"] == 20.0
    assert fast.to_json()["chosen"] == str(fast.path)
    assert sum("<- chosen" in line for line in fast.lines()) == 1


def test_where_none_ends_in_time_it_says_so(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "measured_speed", lambda *_: MachineSpeed(1, 0, 0.01))

    found = choose_study(sizes(tiny_study), 60, SilentObserver())

    assert found.path == S
    assert found.lines()[-1] == "None ends within 1 min: taking the shortest."


@pytest.mark.parametrize(("device", "told"), [("auto", True), ("cpu", False)])
def test_where_the_study_runs_on_a_gpu_the_times_are_told_to_be_the_processors(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, device: str, told: bool
) -> None:
    monkeypatch.setattr(preparing, "measured_speed", lambda *_: MachineSpeed(1, 0, 10.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = load_study(tiny_study, [f'model.device="{device}"'])

    first = choose_study({S: config}, 60, SilentObserver()).lines()[0]

    assert ("runs on its GPU, which was not tried" in first) == told


def test_a_model_that_cannot_be_tried_in_small_is_told(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "measured_speed", lambda *_: None)

    with pytest.raises(ConfigError, match="study check"):
        choose_study(sizes(tiny_study), 60, SilentObserver())
