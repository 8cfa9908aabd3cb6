"""A study whose sites train side by side in worker processes is the study that trains them here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import ConfigError, FedMedLoRAError
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.devices import visible_gpus, worker_threads
from fedmedlora.study.prepare import resolve
from fedmedlora.study.run import resume_study, start_study
from fedmedlora.study.study_file import load_study
from fedmedlora.study.worker import worker_commands

Small = Callable[..., StudyConfig]

# Sites are asked for scores by the first strategy, and keep factors of their own under the second.
ARMS = (
    "arms.single_site=true",
    'strategies=[{name="fedmedlora-plus", mode="cross-eval"}, {name="fedsa-lora"}]',
    "cohorts=[]",
)


class Counting(SilentObserver):
    def __init__(self) -> None:
        self.tokens = 0.0
        self.planned = 0.0
        self.losses = 0
        self._unit = ""

    def stage(self, title: str, total: float, unit: str) -> None:
        self._unit = unit
        self.planned += total if unit == "tokens" else 0

    def advance(self, amount: float, **figures: float) -> None:
        if self._unit == "tokens":
            self.tokens += amount
            self.losses += "loss" in figures


@pytest.fixture(scope="module")
def runs(small: Small, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Counting]]:
    """The same study, in this process and in two workers."""
    found = []
    for num_processes in (0, 2):
        observer = Counting()
        config = small(*ARMS, f"federation.processes={num_processes}")
        out = tmp_path_factory.mktemp(f"with-{num_processes}")
        found.append((start_study(config, out, observer).path, observer))
    return found


def results(path: Path) -> dict[str, bytes]:
    files = [*path.glob("predictions/*"), *path.rglob("*.safetensors")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def rounds(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "rounds.jsonl").read_text("utf-8").splitlines()]


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if not k.endswith("_seconds")} for record in records]


def test_adapters_predictions_traffic_and_kept_factors_are_the_same_to_the_bit(runs) -> None:
    (here, _), (apart, _) = runs

    assert results(apart) == results(here)
    assert any(name.startswith("sites/") for name in results(apart))
    assert without_time(rounds(apart)) == without_time(rounds(here))


def test_scores_are_the_same(runs) -> None:
    here, apart = (json.loads((path / "scores.json").read_text("utf-8")) for path, _ in runs)

    assert here.pop("config_sha256") != apart.pop("config_sha256")
    assert apart == here


def test_a_first_round_that_arms_share_is_trained_once(runs) -> None:
    _, (apart, _) = runs
    seconds = {(r["arm"], r["round_index"]): r["site_seconds"] for r in rounds(apart)}

    for site in ("alder-icu", "birch-clinic"):
        alone = seconds[f"single-site/{site}", 1][site]
        assert seconds["fedmedlora-plus-cross-eval", 1][site] == alone


def test_progress_is_told_as_in_one_process(runs) -> None:
    (_, here), (_, apart) = runs

    assert apart.tokens == here.tokens
    assert apart.planned == here.planned
    assert apart.losses == here.losses > 0


def test_the_run_records_what_workers_had(runs) -> None:
    _, (apart, _) = runs
    environment = json.loads((apart / "environment.json").read_text("utf-8"))
    config = json.loads((apart / "config.json").read_text("utf-8"))["config"]

    assert environment["worker_threads"] == 1
    assert config["federation"]["processes"] == 2


def test_a_run_that_lost_its_last_rounds_gets_them_back(runs, tmp_path: Path) -> None:
    _, (apart, _) = runs
    path = tmp_path / apart.name
    shutil.copytree(apart, path)
    (path / "scores.json").unlink()
    for folder in path.rglob("round-002"):
        shutil.rmtree(folder)

    resume_study(path, SilentObserver())

    assert results(path) == results(apart)
    assert without_time(rounds(path)) == without_time(rounds(apart))


def test_workers_refuse_notes_that_changed_after_the_start(
    bare_study: Path, tmp_path: Path
) -> None:
    notes = bare_study.parent / "hospitals" / "alder-icu" / "documents.jsonl"

    def change(_: Path) -> None:
        documents = list(read_jsonl(notes))
        notes.unlink()  # a link to the shared file
        write_jsonl(notes, documents[1:])

    config = load_study(bare_study, ["federation.processes=1", "arms.zero_shot=false"])
    with pytest.raises(FedMedLoRAError, match=r"worker 1 of 1: .*the notes changed while"):
        start_study(config, tmp_path, SilentObserver(), change)


# Settings ------------------------------------------------------------------------------------


def on_gpus(config: StudyConfig) -> StudyConfig:
    model = config.model.model_copy(update={"device": "cuda"})
    return config.model_copy(update={"model": model})


def test_one_process_a_gpu_needs_gpus(small: Small) -> None:
    with pytest.raises(ConfigError, match=r"federation\.processes.*on the CPU"):
        resolve(small('federation.processes="gpus"'), SilentObserver())


@pytest.mark.parametrize("value", ["-1", "true", '"all"', "1.5"])
def test_other_numbers_of_processes_are_faults(small: Small, value: str) -> None:
    with pytest.raises(ConfigError, match=r"federation\.processes"):
        small(f"federation.processes={value}")


@pytest.mark.parametrize(
    ("threads", "processes", "expected"), [(8, 0, 8), (8, 1, 8), (8, 3, 2), (2, 2, 1), (1, 4, 1)]
)
def test_workers_share_the_threads_out(
    small: Small, threads: int, processes: int, expected: int
) -> None:
    config = small(f"federation.processes={processes}", f"model.threads={threads}")

    assert worker_threads(config) == expected


@pytest.mark.parametrize(
    ("visible", "num_gpus", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("3,5", 2, ["3", "5"]),
        ("GPU-8a, GPU-9b", 2, ["GPU-8a", "GPU-9b"]),
        ("0,7", 1, ["0"]),  # there is no seventh: what follows is not seen either
    ],
)
def test_gpus_have_the_names_by_which_a_worker_can_be_given_one(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, num_gpus: int, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert visible_gpus() == expected


def test_each_worker_sees_one_gpu_and_more_workers_share_them(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    config = small("federation.processes=3")

    seen = [dict(c.environment) for c in worker_commands(on_gpus(config), tmp_path)]

    assert seen == [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "6", "4")]
    assert [dict(c.environment) for c in worker_commands(config, tmp_path)] == [{}, {}, {}]
