"""Studies that leave parts out still run to the end, and say what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import ConfigError, RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.report.page import write_report
from fedmedlora.study import check
from fedmedlora.study.check import check_study, plan_lines
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.extract import find_adapter
from fedmedlora.study.plan import READING, UNTRAINED, planned_work
from fedmedlora.study.prepare import prepare, resolve
from fedmedlora.study.run import resume_study, start_study

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]
ONE_SITE = 'sites=[{name="alder-icu", corpus="alder-icu"}]'


@pytest.mark.parametrize(
    ("overrides", "arms"),
    [
        (["strategies=[]", "arms.zero_shot=true"], ["zero-shot"]),
        (
            ["strategies=[]", "arms.single_site=true"],
            ["single-site/alder-icu", "single-site/birch-clinic"],
        ),
        (["strategies=[]", "arms.centralized=true"], ["centralized"]),
        (["cohorts=[]"], ["fedavg"]),
        ([ONE_SITE, "arms.centralized=true"], ["centralized", "fedavg"]),
        (['evaluation.presets=["lenient"]', "evaluation.draws=1"], ["fedavg"]),
        (["federation.rounds=1", "training.epochs=0.5"], ["fedavg"]),
        (["training.epochs=1.5", "prompt.format=html"], ["fedavg"]),
        (["lora.target_modules=['q_proj']", "training.negatives=0"], ["fedavg"]),
    ],
    ids=lambda value: ",".join(value),
)
def test_a_study_with_parts_left_out_ends_with_scores_and_a_report(
    small: Small, run: Run, scores: Callable[[Path], Any], overrides: list[str], arms: list[str]
) -> None:
    path = run(small(*overrides))

    found = scores(path)
    assert [arm["name"] for arm in found["arms"]] == arms
    assert {result["arm"] for result in found["results"]} == set(arms)
    settings = {"in-domain"} if "cohorts=[]" in overrides else {"in-domain", "external"}
    assert {row["setting"] for row in found["summary"]} == settings
    assert all(arm in write_report([path]).read_text("utf-8") for arm in arms)


def test_a_run_without_a_federated_arm_says_that_it_has_no_global_adapter(
    small: Small, run: Run
) -> None:
    path = run(small("strategies=[]", ONE_SITE, "cohorts=[]", "arms.single_site=true"))

    with pytest.raises(RunStoreError, match="no finished federated round"):
        find_adapter(path)
    folder = path / "adapters" / "single-site" / "alder-icu" / "round-002"
    assert find_adapter(folder).folder == folder


def test_a_site_that_fails_is_left_out_where_the_study_allows_it(
    small: Small, run: Run, scores: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmedlora.training.site import LocalSite

    handle = LocalSite.handle

    def failing(self: LocalSite, request: Any) -> Any:
        if self.name == "birch-clinic" and request.plan.round_index == 2:
            raise MemoryError
        return handle(self, request)

    monkeypatch.setattr(LocalSite, "handle", failing)

    path = run(small("federation.min_sites=1"))

    lines = (path / "rounds.jsonl").read_text("utf-8").splitlines()
    assert '"failed": {}' in lines[0]
    assert '"failed": {"birch-clinic": "out-of-memory"}' in lines[1]
    assert scores(path)["summary"]


def test_a_base_model_named_by_a_relative_path_is_found_again_from_elsewhere(
    small: Small, tiny_study: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_study.parent)
    path = run(small("model.base=model", "cohorts=[]"))
    (path / "scores.json").unlink()
    monkeypatch.chdir(tmp_path)

    assert resume_study(path, SilentObserver()).has("scores.json")


def test_what_the_machine_decides_is_filled_in_once(small: Small) -> None:
    config = small('model.dtype="auto"', "sites.0.labels=['problem']")
    config = config.model_copy(update={"model": config.model.model_copy(update={"threads": None})})

    resolved = resolve(config, SilentObserver())

    assert resolved.model.dtype in ("float32", "bfloat16")
    assert resolved.model.threads >= 1
    assert resolve(resolved, SilentObserver()) == resolved


def test_a_site_whose_examples_are_all_thinned_out_is_told_before_anything_is_written(
    bare_study: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from fedmedlora.core.document import Entity
    from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
    from fedmedlora.study.study_file import load_study

    notes = bare_study.parent / "hospitals" / "alder-icu" / "documents.jsonl"
    # Annotations that begin inside a word cannot be taught.
    documents = [
        replace(d, text=f"xaspirin {d.id}", entities=(Entity.at("T1", "drug", 1, 8),), relations=())
        for d in read_jsonl(notes)
    ]
    notes.unlink()  # a link to the shared file
    write_jsonl(notes, documents)

    config = load_study(bare_study, ["training.negatives=0"])
    with pytest.raises(ConfigError, match="sites alder-icu: no training example is left"):
        start_study(config, tmp_path / "runs", SilentObserver())
    assert not (tmp_path / "runs").exists()


# What a study will cost ----------------------------------------------------------------------


def test_the_plan_holds_every_figure_and_writes_nothing(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small("arms.zero_shot=true", "arms.single_site=true")

    plan = check_study(config, SilentObserver())

    assert list(tmp_path.iterdir()) == []
    assert plan["arms"] == [
        "zero-shot",
        "single-site/alder-icu",
        "single-site/birch-clinic",
        "fedavg",
    ]
    assert plan["seconds"].keys() == {"training", "extraction", "other"}
    prepared = prepare(resolve(config, SilentObserver()), SilentObserver())
    sites = ("alder-icu", "birch-clinic")
    by_site = {name: prepared.data[name]["entities"].num_tokens for name in sites}
    assert {n: s["train_tokens"] for n, s in plan["sites"].items()} == by_site
    # two rounds alone, and the second one federated
    assert plan["training_tokens"] == 3 * sum(by_site.values())
    # zero-shot and federated on all three cohorts, single-site on its own and on the external one
    size = {name: cohort["characters"] for name, cohort in plan["cohorts"].items()}
    assert plan["extraction_characters"] == 3 * sum(size.values()) + size["elm-eye"]
    payload = 4 * prepared.initial.num_parameters
    assert plan["bytes"]["up_and_down_per_round"] == 2 * 2 * payload
    assert plan["bytes"]["federated_in_all"] == 2 * 2 * payload * 2
    for key in ("disk", "disk_free", "memory", "memory_of_machine"):
        assert plan["bytes"][key] > 0


def test_the_plans_time_is_that_of_all_its_work_at_the_speed_of_its_own_notes(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "training_rate", lambda _: 100.0)
    monkeypatch.setattr(check, "extraction_rate", lambda _: 40.0)
    config = small("arms.zero_shot=true")
    prepared = prepare(resolve(config, SilentObserver()), SilentObserver())
    work = planned_work(prepared, arms_of(prepared.config))

    seconds = check_study(config, SilentObserver())["seconds"]

    assert work.judged > 0
    assert seconds["training"] == round((work.tokens + work.judged / READING) / 100)
    # The untrained model reads 40 characters a second; a trained one takes longer for each.
    assert seconds["extraction"] == round(work.characters / (UNTRAINED * 40))
    between = sum(work.between_by_arm.values()) + work.at_end
    assert seconds["other"] == round(between / READING / 100)


def test_the_planned_traffic_is_what_a_run_sends_but_for_headers(
    small: Small, run: Run, scores: Callable[[Path], Any]
) -> None:
    import json

    config = small("cohorts=[]")
    planned = check_study(config, SilentObserver())["bytes"]["federated_in_all"]

    lines = (run(config) / "rounds.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]

    sent = sum(
        sum(record[way].values()) for record in records for way in ("bytes_up", "bytes_down")
    )
    num_messages = 2 * 2 * 2
    assert planned < sent < planned + num_messages * 5_000


def test_a_plan_that_does_not_fit_on_the_disk_warns(small: Small) -> None:
    plan = check_study(small("cohorts=[]"), SilentObserver())
    assert not any("the disk is too small" in line for line in plan_lines(plan))

    plan["bytes"] |= {"disk_free": 1}

    assert sum("the disk is too small" in line for line in plan_lines(plan)) == 1


def test_a_plan_for_test_notes_without_text_is_still_a_plan(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmedlora.study.speed_probe.note_windows", lambda *_, **__: [])

    assert check_study(small("cohorts=[]"), SilentObserver())["seconds"]["extraction"] > 0
