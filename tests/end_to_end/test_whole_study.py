"""A study from notes to report: its files are all there, and they agree with each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.runs.audit import verify

TRAINED = ("alder-icu", "birch-clinic", "cedar-dictation")
HELD_OUT = ("dogwood-triage", "elm-eye")
SINGLE = tuple(f"single-site/{name}" for name in TRAINED)
ARMS = ("zero-shot", *SINGLE, "centralized", "fedmedlora-plus-reference", "fedavg")
FOLDER_OF = {arm: arm for arm in ARMS[1:]} | {"fedmedlora-plus-reference": "."}
NUM_ROUNDS = 2


def cells() -> list[tuple[str, str]]:
    """Every arm on every cohort; single-site models in-domain on their own notes only."""
    return [
        (arm, cohort)
        for arm in ARMS
        for cohort in (*TRAINED, *HELD_OUT)
        if arm not in SINGLE or cohort in HELD_OUT or arm.endswith(f"/{cohort}")
    ]


def prediction_file(arm: str, cohort: str) -> str:
    return f"predictions/{arm.replace('/', '--')}--{cohort}.jsonl"


def test_the_run_directory_holds_the_files_of_the_contract_and_nothing_half_done(finished) -> None:
    rounds = [f"round-{index:03d}" for index in range(1, NUM_ROUNDS + 1)]
    expected = {
        "config.json",
        "environment.json",
        "inputs.json",
        "rounds.jsonl",
        "scores.json",
        "audit.jsonl",
        "extraction.jsonl",
        "report.html",
        "results.json",
        "results.csv",
        ".lock",
        *(prediction_file(arm, cohort) for arm, cohort in cells()),
        *(
            (Path("adapters") / folder / index / name).as_posix()
            for folder in FOLDER_OF.values()
            for index in rounds
            for name in ("adapter_model.safetensors", "adapter_config.json", "round.json")
        ),
    }

    files = {p.relative_to(finished.path).as_posix() for p in finished.path.rglob("*")}

    assert {name for name in files if (finished.path / name).is_file()} == expected
    assert "work" not in files


def test_stdout_is_the_run_directory_and_progress_goes_to_stderr(finished) -> None:
    assert finished.called.out == f"{finished.path}\n"
    assert "arm 7 of 7: fedavg" in finished.called.err
    assert str(finished.path / "report.html") in finished.called.err


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize("round_index", range(1, NUM_ROUNDS + 1))
@pytest.mark.parametrize("arm", ARMS[1:])
def test_every_adapter_loads_with_peft_and_was_trained(finished, study, arm, round_index) -> None:
    folder = finished.path / "adapters" / FOLDER_OF[arm] / f"round-{round_index:03d}"
    base = AutoModelForCausalLM.from_pretrained(study.parent / "model", dtype=torch.float32)

    model = PeftModel.from_pretrained(base, folder)

    saved = load_file(folder / "adapter_model.safetensors")
    loaded = {
        name.replace(".default.", "."): value
        for name, value in model.state_dict().items()
        if "lora_" in name
    }
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert all(value.abs().sum() > 0 for name, value in saved.items() if "lora_B" in name)


def test_every_arm_has_every_round_with_weights_that_add_up_to_one(finished) -> None:
    records = finished.json_lines("rounds.jsonl")

    assert [(r["arm"], r["round_index"]) for r in records] == [
        (arm, index) for arm in ARMS[1:] for index in range(1, NUM_ROUNDS + 1)
    ]
    for record in records:
        sites = TRAINED
        if record["arm"] in SINGLE:
            sites = (record["arm"].partition("/")[2],)
        elif record["arm"] == "centralized":
            sites = ("pooled",)
        assert record["sites"] == list(sites)
        assert sum(record["weights"].values()) == pytest.approx(1)
        assert record["failed"] == {}
        for key in ("train_loss", "validation_loss", "bytes_up", "bytes_down", "update_norms"):
            assert record[key].keys() == set(sites)


def test_predictions_are_the_test_notes_unchanged_with_labels_in_question_and_scores(
    finished, study
) -> None:
    cohorts = {cohort["name"]: cohort for cohort in finished.json("scores.json")["cohorts"]}
    num_entities = 0
    for arm, cohort in cells():
        notes = {n.id: n for n in load_corpus(study.parent / "hospitals" / cohort).documents}
        # Reading refuses every entity whose text is not the note's text at its offsets.
        predicted = read_jsonl(finished.path / prediction_file(arm, cohort))
        assert len(predicted) == cohorts[cohort]["documents"] > 0
        for document in predicted:
            assert document.text == notes[document.id].text
            for entity in document.entities:
                num_entities += 1
                assert entity.label in cohorts[cohort]["labels"]
                assert 0 < entity.score <= 1
                covered = document.entity_text(entity)
                assert covered == covered.strip()
    assert num_entities > 100


def test_scores_are_those_that_evaluate_finds_in_the_predictions(
    finished, study, tmp_path, call
) -> None:
    results = finished.json("scores.json")["results"]
    assert [(r["arm"], r["cohort"], r["preset"]) for r in results] == [
        (arm, cohort, preset) for arm, cohort in cells() for preset in ("strict", "lenient")
    ]
    for arm, cohort in (("fedavg", "elm-eye"), ("single-site/birch-clinic", "birch-clinic")):
        predictions = finished.path / prediction_file(arm, cohort)
        tested = {document.id for document in read_jsonl(predictions)}
        gold = tmp_path / cohort
        shutil.copytree(study.parent / "hospitals" / cohort, gold)
        write_jsonl(
            gold / "documents.jsonl",
            [d for d in read_jsonl(gold / "documents.jsonl") if d.id in tested],
        )
        options = ("--gold", gold, "--predicted", predictions, "--preset", "all", "--json")
        evaluated = json.loads(call("evaluate", *options).out)
        for preset in ("strict", "lenient"):
            expected = evaluated[preset]["entities"]
            (own,) = (
                r["scores"]
                for r in results
                if (r["arm"], r["cohort"], r["preset"]) == (arm, cohort, preset)
            )
            for key in ("tp", "fp", "fn", "precision", "recall", "f1"):
                assert own["micro"][key] == expected["micro"][key]
            assert own["macro_f1"] == expected["macro_f1"]
            for label, own_counts in own["labels"].items():
                assert own_counts.items() <= expected["labels"][label].items()


def test_means_in_the_summary_are_those_of_the_cells(finished) -> None:
    scores = finished.json("scores.json")
    f1 = {
        (r["arm"], r["cohort"], r["preset"]): r["scores"]["micro"]["f1"] for r in scores["results"]
    }

    def mean(values: list[float]) -> Any:
        return pytest.approx(sum(values) / len(values))

    rows = {(r["arm"], r["setting"], r["preset"]): r["macro_f1"] for r in scores["summary"]}
    for preset in ("strict", "lenient"):
        for arm in ARMS:
            external = [f1[arm, cohort, preset] for cohort in HELD_OUT]
            assert rows.pop((arm, "external", preset)) == mean(external)
            if arm not in SINGLE:
                own = [f1[arm, cohort, preset] for cohort in TRAINED]
                assert rows.pop((arm, "in-domain", preset)) == mean(own)
        assert rows.pop(("single-site (mean)", "in-domain", preset)) == mean(
            [f1[f"single-site/{site}", site, preset] for site in TRAINED]
        )
        assert rows.pop(("single-site (mean)", "external", preset)) == mean(
            [f1[arm, cohort, preset] for arm in SINGLE for cohort in HELD_OUT]
        )
    assert rows == {}


def test_the_configuration_is_resolved_and_hashed(finished, study) -> None:
    config = finished.json("config.json")

    assert config["config"]["data"]["root"] == str((study.parent / "hospitals").resolve())
    assert config["config"]["model"]["threads"] == 1
    assert len(config["config"]["lora"]["target_modules"]) == 7
    assert finished.json("scores.json")["config_sha256"] == config["config_sha256"]
    assert finished.path.name == f"tiny-{config['config_sha256'][:8]}-001"


def test_the_report_is_one_page_that_shows_every_arm_and_loads_nothing(finished) -> None:
    page = (finished.path / "report.html").read_text("utf-8")

    assert all(arm in page for arm in (*ARMS, *TRAINED, *HELD_OUT))
    assert not any(f'{where}="http' in page for where in ("src", "href"))
    assert "<script src" not in page


def test_the_audit_chain_holds_and_tells_of_every_arm(finished) -> None:
    entries = finished.json_lines("audit.jsonl")

    assert verify(finished.path / "audit.jsonl").num_entries == len(entries)
    assert [e["event"] for e in entries] == [
        "run-opened",
        *["arm-finished"] * len(ARMS),
        "run-finished",
    ]


def test_resuming_a_finished_run_changes_no_result_and_trains_nothing(
    finished, call, essence, tmp_path, monkeypatch
) -> None:
    copy = tmp_path / finished.path.name
    shutil.copytree(finished.path, copy)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work was done again")

    monkeypatch.setattr("fedmedlora.training.site.train_locally", refuse)
    monkeypatch.setattr("fedmedlora.inference.copy_decoder.draft", refuse)

    resumed = call("study", "resume", copy)

    assert resumed.code == 0, resumed.err
    assert resumed.run == copy
    assert essence(copy) == essence(finished.path)


def test_the_same_study_run_again_has_the_same_bits_in_a_run_of_its_own(
    finished, study, call, essence
) -> None:
    again = call("study", "run", study, "--out", finished.path.parent, "--json")

    assert again.code == 0, again.err
    told = json.loads(again.out)
    run = Path(told["run"])
    assert run.name == finished.path.name.replace("-001", "-002")
    assert Path(told["report"]) == run / "report.html"
    assert essence(run) == essence(finished.path)
