"""Reading a run back: what is damaged or foreign is refused with the place of the fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import RunStoreError
from fedmedlora.core.records import RoundRecord
from fedmedlora.report.finished_run import RoundLine, read_finished_run

MakeRun = Callable[..., Path]


def test_rounds_come_back_as_they_were_written(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    run = read_finished_run(make_run())

    assert [r.to_json() for r in run.rounds] == [r.to_json() for r in rounds]


def test_every_field_of_a_round_is_checked() -> None:
    assert set(RoundLine.model_fields) == {field.name for field in fields(RoundRecord)}


def test_unknown_fields_of_later_versions_are_ignored(make_run: MakeRun, scores: Any) -> None:
    scores["future"] = {"x": 1}
    scores["results"][0]["scores"]["micro"]["auprc"] = 0.5

    assert read_finished_run(make_run(scores)).scores.study == "demo"


def set_f1(scores: Any) -> None:
    scores["results"][3]["scores"]["micro"]["f1"] = 51.2


def drop_arms(scores: Any) -> None:
    del scores["arms"]


def rename_arm(scores: Any) -> None:
    scores["results"][0]["arm"] = "nobody"


def rename_cohort(scores: Any) -> None:
    scores["results"][0]["cohort"] = "nowhere"


def repeat_result(scores: Any) -> None:
    scores["results"].append(scores["results"][0])


def repeat_arm(scores: Any) -> None:
    scores["arms"].append(scores["arms"][0])


def other_config(scores: Any) -> None:
    scores["config_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_f1, r"damaged at results\.3\.scores\.micro\.f1"),
        (drop_arms, "damaged at arms"),
        (rename_arm, "'nobody', which is not listed"),
        (rename_cohort, "'nowhere', which is not listed"),
        (repeat_result, "a result twice"),
        (repeat_arm, "an arm twice"),
        (other_config, "belongs to another configuration"),
    ],
)
def test_scores_that_cannot_be_right_are_refused(
    make_run: MakeRun, scores: Any, damage: Callable[[Any], None], message: str
) -> None:
    damage(scores)

    with pytest.raises(RunStoreError, match=message):
        read_finished_run(make_run(scores))


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"high"'])
def test_a_difference_that_is_no_number_is_refused(make_run: MakeRun, value: str) -> None:
    run = make_run()
    path = run / "scores.json"
    data = json.loads(path.read_text("utf-8"))
    data["comparisons"][0]["difference"] = "HERE"
    path.write_text(json.dumps(data).replace('"HERE"', value), encoding="utf-8")

    with pytest.raises(RunStoreError, match=r"comparisons\.0\.difference"):
        read_finished_run(run)


def test_a_damaged_round_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    (run / "rounds.jsonl").write_text(
        json.dumps({"arm": "a", "round_index": 1, "sites": ["x"], "weights": {"x": "much"}}) + "\n"
    )

    with pytest.raises(RunStoreError, match=r"rounds\.jsonl: damaged at weights\.x"):
        read_finished_run(run)
