"""Studies whose training goes on from an adapter that was trained before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError, ConfigError, RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.report.page import write_report
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.prepare import prepare, resolve
from fedmedlora.study.run import resume_study, start_study
from fedmedlora.study.study_file import load_study, parse_study
from fedmedlora.study.trained_adapter import find_adapter
from fedmedlora.testing.tiny import write_tiny_model

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]
FEW = ("cohorts=[]", "federation.rounds=1")


@pytest.fixture(scope="module")
def earlier(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of rank 3, in which `B` is zero no more."""
    config = small(*FEW, "lora.rank=3", "lora.alpha=9", "prompt.window_tokens=40")
    return start_study(config, tmp_path_factory.mktemp("earlier"), SilentObserver()).path


@pytest.fixture
def bare(tiny_study: Path, tmp_path: Path) -> Small:
    """The small study without any word on the adapter's shape or the prompt."""
    text = tiny_study.read_text("utf-8")
    for part in ("[lora]\nrank = 2\nalpha = 4\n", "[prompt]\nwindow_tokens = 32\n"):
        assert part in text
        text = text.replace(part, "")
    root = tiny_study.parent / "hospitals"
    path = tmp_path / "study" / "study.toml"
    path.parent.mkdir()
    path.write_text(text.replace('root = "hospitals"', f'root = "{root}"'), "utf-8")

    def make(start: Path, *overrides: str) -> StudyConfig:
        from tests.study.conftest import SMALL

        return load_study(path, [*SMALL, *FEW, f'start="{start}"', *overrides])

    return make


def adapter_of(path: Path) -> AdapterState:
    return load_adapter(find_adapter(path).folder)


def results(path: Path) -> dict[str, bytes]:
    files = [*path.glob("predictions/*"), *path.rglob("*.safetensors"), path / "scores.json"]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_what_the_study_leaves_out_is_as_the_start_has_it(bare: Small, earlier: Path) -> None:
    prepared = prepare(resolve(bare(earlier), SilentObserver()), SilentObserver())

    assert prepared.initial.digest() == adapter_of(earlier).digest()
    assert (prepared.config.lora.rank, prepared.config.lora.alpha) == (3, 9.0)
    assert prepared.config.prompt.window_tokens == 40


def test_the_start_is_an_arm_of_its_own_and_training_goes_on_from_it(
    bare: Small, earlier: Path, run: Run, scores: Callable[[Path], Any]
) -> None:
    little = "training.learning_rate=1e-4"
    path = run(bare(earlier, little, "arms.zero_shot=true", "arms.centralized=true"))

    found = scores(path)
    named = {arm["name"]: arm["condition"] for arm in found["arms"]}
    assert named == {
        "zero-shot": "zero-shot",
        "start": "start",
        "centralized": "centralized",
        "fedavg": "federated",
    }
    assert {row["against"] for row in found["comparisons"]} == {"zero-shot", "start", "centralized"}
    # As the earlier run found with the same adapter in the same notes.
    before = sorted((earlier / "predictions").glob("fedavg--*.jsonl"))
    assert before
    for file in before:
        again = path / "predictions" / file.name.replace("fedavg", "start")
        assert again.read_bytes() == file.read_bytes()
    start, after = adapter_of(earlier), adapter_of(path)
    assert after.spec == start.spec
    assert 0 < distance(start, after) < distance(start, zero(start))


def test_the_report_tells_the_start_from_what_was_trained(
    bare: Small, earlier: Path, run: Run
) -> None:
    page = write_report([run(bare(earlier, "arms.zero_shot=true"))]).read_text("utf-8")

    assert "All training went on from an adapter that had been trained before." in page
    assert "The arm start is that adapter as it was." in page
    assert "start as it was" in page


def test_without_the_arm_the_start_is_not_tested(
    bare: Small, earlier: Path, run: Run, scores: Callable[[Path], Any]
) -> None:
    found = scores(run(bare(earlier, "arms.start=false")))

    assert [arm["name"] for arm in found["arms"]] == ["fedavg"]


def test_the_tags_of_the_start_open_as_validation_notes_of_all_sites_say(
    bare: Small, earlier: Path, run: Run
) -> None:
    path = run(bare(earlier, "evaluation.open_bonus=auto", "arms.centralized=true"))

    opening = json.loads((path / "opening.json").read_text("utf-8"))
    assert set(opening) == {"adapters/start", "adapters/centralized", "adapters"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("lora.rank=4", "lora.rank: 4, but the start has 3"),
        ("lora.alpha=4", "lora.alpha: 4, but the start has 9"),
        (
            "lora.target_modules=['q_proj']",
            "lora.target_modules: q_proj, but the start has down_proj",
        ),
    ],
)
def test_a_shape_that_is_not_the_starts_is_a_fault(
    bare: Small, earlier: Path, override: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        bare(earlier, override)
    assert told in str(caught.value)


def test_a_shape_that_is_the_starts_may_be_stated(bare: Small, earlier: Path) -> None:
    assert bare(earlier, "lora.rank=3", "lora.alpha=9.0").lora.rank == 3


def test_a_start_that_is_not_there_is_told_with_all_other_faults(
    bare: Small, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        bare(tmp_path / "none", "federation.rounds=0")
    told = str(caught.value)
    assert "start: " in told
    assert "neither a run directory nor a peft adapter folder" in told
    assert "federation.rounds" in told


def test_places_are_relative_to_the_study_file_and_to_the_working_directory_in_an_override(
    bare: Small, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(earlier, tmp_path / "study" / "before")
    shutil.copytree(earlier, tmp_path / "here" / "before")
    path = tmp_path / "study" / "study.toml"
    text = path.read_text("utf-8")
    path.write_text('start = "before"\n' + text, "utf-8")
    monkeypatch.chdir(tmp_path / "here")

    assert load_study(path).start == str(tmp_path / "study" / "before")
    assert load_study(path, ["start=before"]).start == str(tmp_path / "here" / "before")


def test_a_start_of_another_base_model_is_refused_before_anything_is_written(
    bare: Small, earlier: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other-model", seed=5)
    config = bare(earlier, f'model.base="{other}"')

    with pytest.raises(AdapterMismatchError, match="was trained on another base model than"):
        start_study(config, tmp_path / "runs", SilentObserver())
    assert not (tmp_path / "runs").exists()


def test_a_resumed_study_ends_as_one_that_was_not_interrupted(
    bare: Small, earlier: Path, run: Run
) -> None:
    config = bare(earlier, "federation.rounds=2", "arms.single_site=true")
    path = run(config)
    whole = results(path)
    (path / "scores.json").unlink()
    shutil.rmtree(path / "adapters" / "round-002")
    for file in path.glob("predictions/start--*"):
        file.unlink()

    resume_study(path, SilentObserver())

    assert results(path) == whole


def test_sites_in_worker_processes_begin_from_the_start_too(
    bare: Small, earlier: Path, run: Run
) -> None:
    inside = run(bare(earlier, "arms.start=false"))
    beside = run(bare(earlier, "arms.start=false", "federation.processes=1"))

    assert adapter_of(beside).digest() == adapter_of(inside).digest()


def test_a_run_that_is_the_start_may_get_another_round(
    bare: Small, earlier: Path, run: Run, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    shutil.copytree(earlier, before)
    path = run(bare(before))
    whole = results(path)
    (path / "scores.json").unlink()
    rounds = before / "adapters"
    shutil.copytree(rounds / "round-001", rounds / "round-002")
    save_adapter(rounds / "round-002", zero(load_adapter(rounds / "round-002")))

    resume_study(path, SilentObserver())

    assert results(path) == whole


def test_what_is_doubtful_about_a_start_is_told(bare: Small, earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(find_adapter(earlier).folder, tmp_path / "elsewhere")
    said: list[str] = []

    class Listener(SilentObserver):
        def message(self, text: str) -> None:
            said.append(text)

    resolve(bare(earlier), Listener())
    assert not any(text.startswith("start:") for text in said)
    resolve(bare(tmp_path / "elsewhere"), Listener())

    told = [text for text in said if text.startswith("start: ")]
    assert len(told) == 1
    assert "neither in a run directory nor beside a manifest" in told[0]
    assert "[prompt] in a study file" in told[0]


def test_a_run_whose_start_is_another_one_now_says_so_in_good_english(
    bare: Small, earlier: Path, run: Run, tmp_path: Path
) -> None:
    shutil.copytree(earlier, tmp_path / "before")
    path = run(bare(tmp_path / "before"))
    folder = find_adapter(tmp_path / "before").folder
    save_adapter(folder, zero(load_adapter(folder)))

    with pytest.raises(RunStoreError, match="the start changed after the run was started"):
        resume_study(path, SilentObserver())


@pytest.mark.parametrize("change", ["other numbers", "another rank", "gone"])
def test_a_run_is_not_resumed_from_another_start(
    bare: Small, earlier: Path, run: Run, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copy(find_adapter(earlier).folder / name, folder / name)
    path = run(bare(folder))
    (path / "scores.json").unlink()
    if change == "other numbers":
        save_adapter(folder, zero(load_adapter(folder)))
    elif change == "another rank":
        other = prepare_of_rank(bare, earlier)
        save_adapter(folder, other)
    else:
        shutil.rmtree(folder)

    with pytest.raises((RunStoreError, ConfigError)) as caught:
        resume_study(path, SilentObserver())
    assert "start" in str(caught.value)


def test_a_runs_adapter_needs_no_start_to_be_used(
    bare: Small, earlier: Path, run: Run, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    shutil.copytree(earlier, before)
    path = run(bare(before))
    shutil.rmtree(before)

    found = find_adapter(path)
    assert found.prompt.window_tokens == 40
    assert load_adapter(found.folder).spec.rank == 3


STRATEGIES = (
    '{name="uniform"}, {name="fedmedlora-plus", mode="gibbs-auto"}, {name="fedprox"}, '
    '{name="fedadam"}, {name="ffa-lora"}, {name="rolora"}, {name="fedsa-lora"}, {name="flexlora"}, '
    '{name="geometric-median"}, {name="fedmedlora-plus", mode="reference"}, '
    '{name="fedmedlora-plus", mode="reference", merge="product"}'
)


def test_where_nothing_is_learned_every_strategy_ends_with_the_start(
    bare: Small, earlier: Path, run: Run
) -> None:
    path = run(
        bare(
            earlier,
            f"strategies=[{STRATEGIES}]",
            "federation.rounds=2",
            "training.learning_rate=1e-12",
            "training.max_tokens=300",
            "arms.start=false",
        )
    )

    start = adapter_of(earlier)
    folders = sorted((path / "adapters").rglob("round-002"))
    assert len(folders) == STRATEGIES.count("name=")
    far = {
        folder.parent.name: moved
        for folder in folders
        if (moved := distance(start, load_adapter(folder))) > 1e-4 * distance(start, zero(start))
    }
    assert not far


def zero(adapter: AdapterState) -> AdapterState:
    pairs = {m: LoRAPair(p.A, torch.zeros_like(p.B)) for m, p in adapter.pairs.items()}
    return AdapterState(adapter.spec, pairs)


def prepare_of_rank(bare: Small, earlier: Path) -> AdapterState:
    from fedmedlora.adapters.ranks import change_rank

    return change_rank(adapter_of(earlier), 2)


def distance(one: AdapterState, other: AdapterState) -> float:
    """Of the products that the two compute, formed in full: these are tiny."""
    return sum(
        float((pair.B @ pair.A - other.pairs[m].B @ other.pairs[m].A).norm())
        for m, pair in one.pairs.items()
    )


def test_a_stored_study_with_a_start_reads_back(bare: Small, earlier: Path) -> None:
    config = resolve(bare(earlier), SilentObserver())

    assert parse_study(json.loads(config.model_dump_json()), "config.json") == config
