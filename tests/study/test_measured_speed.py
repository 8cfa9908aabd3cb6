"""What a machine's speed is measured with, and what happens where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmedlora.core.records import SilentObserver
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.study import devices
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.machine_speed import Way
from fedmedlora.study.study_file import load_study


@pytest.fixture
def measurable(tiny_study: Path) -> StudyConfig:
    config = load_study(tiny_study, ["training.batch_tokens=600"])
    model = config.model.model_copy(update={"threads": None})
    lora = config.lora.model_copy(update={"target_modules": ALL_LINEAR})
    return config.model_copy(update={"model": model, "lora": lora})


def test_where_a_step_fails_nothing_is_measured(
    measurable: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise RuntimeError("not enough memory: you tried to allocate 4 TB")

    monkeypatch.setattr(devices.StepTimer, "__call__", fails)

    assert devices.measured_speed(measurable, SilentObserver()) is None


@pytest.mark.parametrize(("micro", "examples"), [(None, 4), (200, 1)])
def test_steps_are_no_larger_than_a_pass_of_the_study(
    measurable: StudyConfig, monkeypatch: pytest.MonkeyPatch, micro: int | None, examples: int
) -> None:
    sizes = set()

    def step(timer: devices.StepTimer, _: Way) -> float:
        sizes.add(timer.num_tokens)
        return 1.0

    monkeypatch.setattr(devices.StepTimer, "__call__", step)
    training = measurable.training.model_copy(update={"micro_batch_tokens": micro})
    devices.measured_speed(measurable.model_copy(update={"training": training}), SilentObserver())

    assert sizes == {examples * (24 + 56 + 72)}
