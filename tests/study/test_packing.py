"""Adapters outside of their run: packed or merged, they still tell how they are used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmedlora.adapters.files import CONFIG_FILE, load_adapter, save_adapter
from fedmedlora.adapters.manifest import MANIFEST_FILE, read_manifest
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.errors import ConfigError, ModelError, RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.starter import STARTER_FOLDER, adapter_folder
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.extraction_machine import Machine
from fedmedlora.study.merged_manifest import manifest_of_merged
from fedmedlora.study.note_extractor import load_extractor
from fedmedlora.study.packing import pack_adapter
from fedmedlora.study.run import start_study
from fedmedlora.study.trained_adapter import find_adapter, manifest_of
from fedmedlora.testing.adapters import random_adapter

Small = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def run_path(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small(
        "cohorts=[]",
        'tasks=["entities", "relations"]',
        "prompt.window_tokens=40",
        "evaluation.open_bonus=1.5",
    )
    return start_study(config, tmp_path_factory.mktemp("run"), SilentObserver()).path


def test_what_is_packed_is_used_as_in_its_run(run_path: Path, tmp_path: Path) -> None:
    done = pack_adapter(run_path, tmp_path / "packed", "A card.\n")

    of_run, packed = find_adapter(run_path), find_adapter(tmp_path / "packed")
    for name in ("prompt", "base_fingerprint", "tasks", "modifiers", "linked", "opening"):
        assert getattr(packed, name) == getattr(of_run, name), name
    assert packed.opening == {"entities": 1.5, "relations": 1.5}
    assert packed.dtype == "auto"
    assert done["relative_error"] < 0.02
    assert load_adapter(packed.folder).spec == load_adapter(of_run.folder).spec


def test_an_adapter_of_which_nothing_is_known_is_not_packed(tmp_path: Path) -> None:
    save_adapter(tmp_path / "bare", random_adapter(0))

    with pytest.raises(ConfigError, match="it is not known how this adapter is used"):
        pack_adapter(tmp_path / "bare", tmp_path / "packed", "")


def merge(folders: list[Path], out: Path) -> tuple[int, Path]:
    arguments = ["adapter", "merge", *map(str, folders), "--out", str(out)]
    return run_app(app, [*arguments, "--strategy", "uniform"]), out


def test_a_merged_adapter_is_used_as_its_parts(
    run_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = sorted((run_path / "adapters").glob("round-*"))

    code, out = merge(rounds, tmp_path / "merged")

    assert code == 0, capsys.readouterr().err
    merged, part = find_adapter(out), find_adapter(rounds[-1])
    for name in ("prompt", "base_fingerprint", "tasks", "modifiers", "linked", "opening"):
        assert getattr(merged, name) == getattr(part, name), name
    assert not merged.doubt


def test_no_path_of_the_machine_that_trained_an_adapter_travels_with_it(
    run_path: Path, tmp_path: Path
) -> None:
    rounds = sorted((run_path / "adapters").glob("round-*"))
    base = find_adapter(run_path).base
    assert base is not None
    assert Path(base).is_absolute()

    code, out = merge(rounds, tmp_path / "merged")
    pack_adapter(run_path, tmp_path / "packed", "A card.\n")

    assert code == 0
    for folder in (out, tmp_path / "packed"):
        assert find_adapter(folder).base == load_adapter(rounds[0]).spec.base_model
        for file in (MANIFEST_FILE, CONFIG_FILE):
            assert str(Path(base).parent) not in (folder / file).read_text("utf-8")


@pytest.mark.parametrize(
    "base", ["/home/alice.smith/models/hospital-llm", r"C:\Users\alice.smith\hospital-llm"]
)
def test_a_base_model_that_is_not_there_any_more_goes_by_its_short_name_too(
    run_path: Path, base: str
) -> None:
    trained = replace(find_adapter(run_path), base=base)

    manifest = manifest_of(trained)

    assert manifest is not None
    assert manifest.base == load_adapter(trained.folder).spec.base_model
    assert "alice" not in manifest.model_dump_json()


def test_who_uses_an_adapter_of_a_local_base_model_is_asked_where_that_is(
    run_path: Path, tmp_path: Path
) -> None:
    place = find_adapter(run_path).base
    _, out = merge(sorted((run_path / "adapters").glob("round-*")), tmp_path / "merged")
    machine = Machine("float32", "torch", "cpu")

    with pytest.raises(ModelError, match=r"only its name travels .* with --model\.$"):
        load_extractor(find_adapter(out), SilentObserver(), machine)

    _, fingerprint = load_extractor(find_adapter(out), SilentObserver(), machine, model=place)
    assert fingerprint == find_adapter(out).base_fingerprint


def test_a_base_model_of_the_catalog_or_the_hub_keeps_its_name(run_path: Path) -> None:
    for name in ("smollm2-135m", "org/model-1.5B"):
        manifest = manifest_of(replace(find_adapter(run_path), base=name))
        assert manifest is not None
        assert manifest.base == name


def test_peft_loads_a_merged_folder_with_its_manifest(run_path: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    _, out = merge(sorted((run_path / "adapters").glob("round-*")), tmp_path / "merged")

    assert (out / MANIFEST_FILE).is_file()
    assert peft.PeftConfig.from_pretrained(str(out)).r == 2


def test_merging_again_replaces_the_manifest_too(run_path: Path, tmp_path: Path) -> None:
    rounds = sorted((run_path / "adapters").glob("round-*"))
    merge(rounds, tmp_path / "merged")
    save_adapter(tmp_path / "bare", load_adapter(rounds[0]))

    code, out = merge([rounds[0], tmp_path / "bare"], tmp_path / "merged")

    assert code == 0
    assert read_manifest(out) is None


def test_parts_of_unlike_use_make_no_manifest_and_that_is_said(
    run_path: Path, tmp_path: Path
) -> None:
    rounds = sorted((run_path / "adapters").glob("round-*"))
    save_adapter(tmp_path / "bare", load_adapter(rounds[0]))
    other = tmp_path / "other"
    pack_adapter(run_path, other, "")
    path = other / MANIFEST_FILE
    saved = json.loads(path.read_text("utf-8"))
    saved["prompt"]["window_tokens"] = 96
    path.write_text(json.dumps(saved), "utf-8")

    for second, reason in (
        (tmp_path / "bare", "is neither of a run nor has a manifest"),
        (other, "was trained with another prompt than"),
    ):
        manifest, remark = manifest_of_merged([rounds[0], second])
        assert manifest is None
        assert f"{second} {reason}" in remark
        assert "--window-tokens" in remark


def test_a_weights_file_that_was_put_under_an_old_manifest_is_refused(
    run_path: Path, tmp_path: Path
) -> None:
    _, out = merge(sorted((run_path / "adapters").glob("round-*")), tmp_path / "merged")
    save_adapter(out, random_adapter(1))

    with pytest.raises(RunStoreError, match="if the adapter was replaced on purpose, delete"):
        find_adapter(out)


def test_a_run_that_is_not_finished_says_which_round_is_used(
    run_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "unfinished"
    shutil.copytree(run_path, copy)
    (copy / "scores.json").unlink()
    (copy / "opening.json").unlink()

    assert "how readily its tags open has not been found" in find_adapter(copy).doubt
    shutil.rmtree(copy / "adapters" / "round-002")
    assert "using the adapter of round 1 of 2" in find_adapter(copy).doubt
    assert not find_adapter(run_path).doubt


def test_what_a_user_says_of_the_prompt_goes_before_what_is_known(run_path: Path) -> None:
    found = find_adapter(run_path)

    assert found.asked_by(None, None) == found
    assert found.asked_by(None, 50).prompt.window_tokens == 50
    assert found.asked_by("html", None).prompt.format == "html"
    assert found.asked_by("html", None).prompt.window_tokens == 40


# The starter that comes along.


def test_starter_is_a_name_and_everything_else_a_path() -> None:
    assert adapter_folder("starter") == STARTER_FOLDER
    assert adapter_folder("./starter") == Path("starter")


def test_the_starter_is_small_whole_bound_to_its_base_model_and_has_a_card() -> None:
    found = find_adapter(STARTER_FOLDER)
    spec = load_adapter(STARTER_FOLDER).spec

    assert sum(path.stat().st_size for path in STARTER_FOLDER.iterdir()) <= 3_000_000
    assert found.base == spec.base_model == "smollm2-135m"
    assert found.base_fingerprint is not None
    assert spec.revision == f"sha256-{found.base_fingerprint[:16]}"
    assert set(found.tasks) == {"entities", "relations"}
    assert found.linked
    card = (STARTER_FOLDER / "MODEL_CARD.md").read_text("utf-8")
    for said in ("not a medical device", "CC BY 4.0", "MIT", "maccrobat", "chia", "phee"):
        assert said in card
    assert "$" not in card


def test_the_starter_can_be_inspected_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["adapter", "inspect", "starter", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["rank"] == 8
