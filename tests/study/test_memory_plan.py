"""A study takes the memory that is planned for it; what cannot fit is refused, with advice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.study import memory_limit, memory_plan
from fedmedlora.study.check import check_study, plan_lines
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.memory_limit import (
    refuse_weights_that_cannot_fit,
    refuse_what_cannot_fit,
)
from fedmedlora.study.memory_plan import MemoryPlan, plan_memory
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.run import start_study
from fedmedlora.testing.studies import write_tiny_study

Small = Callable[..., StudyConfig]
SMOLLM2 = Path.home() / ".cache/fedmedlora/models/smollm2-135m"

# In a process of its own, as the peak is one of the whole process.
_RUN = """
import json, sys
from pathlib import Path
from fedmedlora.core.records import SilentObserver
from fedmedlora.runs.machine_memory import peak_bytes
from fedmedlora.study.run import start_study
from fedmedlora.study.study_file import load_study

config = load_study(Path(sys.argv[1]), sys.argv[3:])
run = start_study(config, Path(sys.argv[2]), SilentObserver())
plan = json.loads((run.path / "environment.json").read_text())["memory_plan"]
print(json.dumps({"planned": plan["peak"], "taken": peak_bytes(), "before": plan["resident"]}))
"""


def planned_and_taken(study: Path, out: Path, *overrides: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(study), str(out), *overrides],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


on_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak of memory"
)


# What a process takes for the same tensors is its C library's and its processor's affair, so these
# are no tests of the default lane; tests/training/test_pass_memory.py counts the tensors there.
@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["model.kernel=torch", "model.dtype=bfloat16"])
def test_a_tiny_study_takes_what_was_planned(
    tiny_study: Path, tmp_path: Path, setting: str
) -> None:
    found = planned_and_taken(tiny_study, tmp_path / "runs", setting)

    assert found["planned"] == pytest.approx(found["taken"], rel=0.1)


@on_linux
@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.exists(), reason="the model is not on this machine")
@pytest.mark.parametrize(
    "settings",
    [
        ("model.dtype=bfloat16", "training.batch_tokens=512"),
        ("model.dtype=float32", "training.batch_tokens=512", "model.kernel=auto"),
        ("model.dtype=bfloat16", "training.batch_tokens=1024", "training.recompute_layers=true"),
    ],
    ids=" ".join,
)
def test_a_study_of_a_real_model_takes_what_was_planned(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    study = write_tiny_study(tmp_path / "study", note_characters=600)
    found = planned_and_taken(
        study,
        tmp_path / "runs",
        "model.base=smollm2-135m",
        "lora.rank=16",
        "prompt.window_tokens=96",
        "training.max_tokens=3000",
        "training.learning_rate=1e-4",
        "federation.rounds=1",
        'strategies=[{name="fedavg"}]',
        "arms.zero_shot=false",
        "arms.single_site=false",
        "arms.centralized=false",
        *settings,
    )

    assert found["planned"] == pytest.approx(found["taken"], rel=0.1)
    assert found["taken"] > found["before"] + 100e6  # or there was nothing to plan


def test_the_plan_follows_the_settings(prepared: Prepared) -> None:
    usual = plan_memory(prepared)

    def with_settings(**changes: Any) -> MemoryPlan:
        return plan_memory(replace(prepared, settings=replace(prepared.settings, **changes)))

    assert with_settings(batch_tokens=200).training < usual.training
    assert with_settings(micro_batch_tokens=200).training < usual.training
    assert usual.peak >= usual.resident + max(usual.training, usual.extraction, usual.judging)
    config = prepared.config
    fewer = config.evaluation.model_copy(update={"batch_size": 1})
    alone = replace(prepared, config=config.model_copy(update={"evaluation": fewer}))
    assert plan_memory(alone).extraction < usual.extraction


def test_each_worker_has_a_model_of_its_own(prepared: Prepared) -> None:
    plan = plan_memory(prepared)

    three = replace(plan, workers=3)
    assert three.peak >= 4 * plan.resident + 3 * plan.training


def test_a_study_is_neither_checked_nor_run_if_it_cannot_fit(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "free_bytes", lambda: 2_000_000)
    for begin in (
        lambda: check_study(small(), SilentObserver()),
        lambda: start_study(small(), tmp_path / "runs", SilentObserver()),
    ):
        with pytest.raises(ConfigError, match=r"memory: the study needs about .* Set"):
            begin()
    assert not (tmp_path / "runs").exists()


def limited(prepared: Prepared, share: float) -> MemoryPlan:
    """The plan, on a machine that has so large a share of what training takes."""
    plan = plan_memory(prepared)
    return replace(plan, limit=plan.resident + plan.programs + int(share * plan.training))


def test_advice_names_a_setting_that_fits(
    small: Small, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = prepare(
        resolve(small("training.batch_tokens=2000", "training.max_tokens=4000"), SilentObserver()),
        SilentObserver(),
    )
    plan = limited(long, 0.6)
    monkeypatch.setattr(memory_plan, "_held", lambda _: (plan.resident, plan.limit))

    with pytest.raises(ConfigError) as refused:
        refuse_what_cannot_fit(long, plan)

    told = str(refused.value)
    assert "training.micro_batch_tokens = " in told
    tokens = int(told.split("training.micro_batch_tokens = ")[1].split(":")[0])
    smaller = replace(long, settings=replace(long.settings, micro_batch_tokens=tokens))
    again = plan_memory(smaller)
    refuse_what_cannot_fit(smaller, again)  # as advised, it goes through
    assert again.limit is not None
    assert again.needed <= again.limit < plan.needed


def test_a_model_whose_weights_cannot_fit_is_not_even_loaded(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "free_bytes", lambda: 1_000)

    with pytest.raises(ConfigError, match=r"weights of .* take .* Set .*smaller model\.base"):
        refuse_weights_that_cannot_fit(small())
    monkeypatch.setattr(memory_limit, "free_bytes", lambda: None)
    refuse_weights_that_cannot_fit(small())


def test_weights_that_cannot_be_read_are_left_to_be_told_by_who_loads_them(
    small: Small, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    config = small()
    model = config.model.model_copy(update={"base": str(tmp_path)})

    refuse_weights_that_cannot_fit(config.model_copy(update={"model": model}))


def test_the_plan_is_shown_and_written_down(
    small: Small, run: Callable[[StudyConfig], Path]
) -> None:
    plan = check_study(small(), SilentObserver())
    written = json.loads((run(small()) / "environment.json").read_text("utf-8"))["memory_plan"]

    assert plan["bytes"]["memory"] == plan["memory"]["peak"]
    assert set(written) == set(plan["memory"])
    [line] = [line for line in plan_lines(plan) if line.startswith("memory: about ")]
    assert "at the peak" in line
    assert "training" in line


def test_a_model_that_cannot_be_planned_for_is_studied_all_the_same(
    small: Small, run: Callable[[StudyConfig], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(memory_plan.DecodingMemory, "at_peak", fails)

    plan = check_study(small(), SilentObserver())
    assert plan["memory"] is None
    assert "memory: cannot be estimated in advance for this model" in plan_lines(plan)
    path = run(small())
    assert (path / "scores.json").exists()
    assert json.loads((path / "environment.json").read_text("utf-8"))["memory_plan"] is None
