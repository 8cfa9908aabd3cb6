"""The summary in words says what the numbers say, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.report import wording
from fedmedlora.report.finished_run import read_finished_run
from fedmedlora.report.headline import headline
from fedmedlora.report.tables import overview

MakeRun = Callable[..., Path]


def comparison(against: str, difference: float, low: float, high: float) -> dict[str, Any]:
    return {
        "setting": "external",
        "preset": "strict",
        "arm": "fedavg",
        "against": against,
        "difference": difference,
        "ci95": [low, high],
    }


def told(make_run: MakeRun, scores: Any, arms: dict[str, float], comparisons: Any) -> list[str]:
    scores["summary"] = [
        {
            "arm": arm,
            "setting": "external",
            "preset": "strict",
            "macro_f1": f1,
            "ci95": [f1 - 0.05, f1 + 0.05],
        }
        for arm, f1 in arms.items()
    ]
    scores["comparisons"] = comparisons
    return headline(read_finished_run(make_run(scores)))


def test_the_summary_names_score_interval_and_differences(make_run: MakeRun, scores: Any) -> None:
    arms = {"zero-shot": 0.11, "fedavg": 0.512, "centralized": 0.55}
    comparisons = [
        comparison("zero-shot", 0.402, 0.35, 0.45),
        comparison("centralized", -0.038, -0.09, 0.01),
        comparison("uniform", 0.01, -0.01, 0.02),
    ]

    first, second = told(make_run, scores, arms, comparisons)

    assert first == (
        "This study trained adapters of smollm2-135m on the notes of 3 sites (clinic, icu and "
        "ward) in 3 rounds, and scored 8 arms on the notes of 5 cohorts."
    )
    assert second == (
        "On the held-out cohorts, from which no model saw a note in training (27 test notes), "
        "fedavg reaches a strict F1 of 51.2 points (95 % interval 46.2 to 56.2). "
        "That is 40.2 points above zero-shot (35.0 to 45.0) and 3.8 points below centralized "
        "(−9.0 to 1.0: includes 0, so no clear difference)."  # noqa: RUF001
    )


@pytest.mark.parametrize(
    ("bonus", "told_of"),
    [
        (0.0, ""),
        (1.5, "Tags of all arms open more readily than the models say, by 1.5 in log odds."),
        (
            "auto",
            "How readily the tags of a trained arm open was found on validation notes of its own "
            "sites; zero-shot looked at no labelled note.",
        ),
    ],
)
def test_labelled_notes_that_decide_how_readily_tags_open_are_told(
    make_run: MakeRun, scores: Any, bonus: Any, told_of: str
) -> None:
    run = read_finished_run(make_run(scores))
    config = {**run.config, "evaluation": {"open_bonus": bonus}}
    found = headline(replace(run, config=config))
    assert [line for line in found if "readily" in line] == ([told_of] if told_of else [])


def test_picking_the_highest_of_several_arms_is_said(make_run: MakeRun, scores: Any) -> None:
    _, second = told(make_run, scores, {"uniform": 0.4, "fedavg": 0.5, "centralized": 0.9}, [])

    assert "fedavg (picked because it is the highest of 2 federated arms)" in second


@pytest.mark.parametrize(
    ("ci95", "included"),
    [((-0.01, 0.01), True), ((0.0, 0.1), True), ((-0.1, 0.0), True), ((0.001, 0.1), False)],
)
def test_an_interval_that_touches_zero_includes_it(
    ci95: tuple[float, float], included: bool
) -> None:
    assert wording.includes_zero(ci95) is included


def test_the_mean_of_the_single_sites_stands_with_them(make_run: MakeRun, scores: Any) -> None:
    names = [arm for arm, _ in overview(read_finished_run(make_run(scores)).scores).rows]

    assert names[names.index("single-site/ward") + 1] == "single-site (mean)"
    assert names[0] == "zero-shot"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.512, "51.2"), (0.0, "0.0"), (-0.0004, "0.0"), (-0.031, "−3.1"), (1.0, "100.0")],  # noqa: RUF001
)
def test_points_have_one_decimal_and_no_negative_zero(value: float, text: str) -> None:
    assert wording.points(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "+2.0"), (-0.02, "−2.0"), (0.0001, "0.0")],  # noqa: RUF001
)
def test_differences_carry_their_sign(value: float, text: str) -> None:
    assert wording.signed_points(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (9_770_000, "9.8 MB"), (16.1e9, "16.1 GB")],
)
def test_bytes_get_a_decimal_unit(value: float, text: str) -> None:
    assert wording.num_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.42, "0.4 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7830, "2 h 10 min"),
    ],
)
def test_durations_are_readable(value: float, text: str) -> None:
    assert wording.duration(value) == text
