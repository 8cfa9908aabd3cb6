"""Means and paired differences, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.evaluation.document_counts import DocumentCounts
from fedmedlora.evaluation.scores import Counts
from fedmedlora.study import conditions
from fedmedlora.study.compare import Cell, score_cell, scores_json
from fedmedlora.study.conditions import Arm, arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort

NOTES = tuple(Document(f"n{number}", "aspirin and pain") for number in range(4))
IN_DOMAIN = ("north", "south")
EXTERNAL = ("east", "west")
COHORTS = [
    *(Cohort(name, "in-domain", ("drug",), NOTES) for name in IN_DOMAIN),
    *(Cohort(name, "external", ("drug",), NOTES) for name in EXTERNAL),
]


def config(**changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "name": "study",
        "sites": [{"name": name, "corpus": name} for name in IN_DOMAIN],
        "cohorts": [{"name": name, "corpus": name} for name in EXTERNAL],
        "strategies": [{"name": "fedavg"}, {"name": "uniform"}],
        "evaluation": {"presets": ["strict"], "draws": 50, "single_site_in_domain": "own"},
    }
    return StudyConfig.model_validate(values | changes)


def counts(f1_of_tenth: int) -> DocumentCounts:
    """Four notes of which each has an F1 of so many tenths: no draw changes that."""
    note = {"drug": Counts(tp=f1_of_tenth, fp=10 - f1_of_tenth, fn=10 - f1_of_tenth)}
    return DocumentCounts(tuple(n.id for n in NOTES), (note,) * 4, ("drug",))


# Tenths by arm: north, south, east, west; None where the arm is not tested.
TENTHS: dict[str, tuple[int | None, ...]] = {
    "zero-shot": (0, 0, 0, 2),
    "single-site/north": (6, None, 1, 3),
    "single-site/south": (None, 4, 3, 5),
    "centralized": (8, 6, 6, 8),
    "fedavg": (7, 5, 5, 7),
    "uniform": (7, 7, 3, 5),
}


def table(study: StudyConfig, tenths: dict[str, tuple[int | None, ...]] = TENTHS) -> dict[str, Any]:
    cells: dict[Cell, DocumentCounts] = {
        (arm, cohort.name, "strict"): counts(tenth)
        for arm, row in tenths.items()
        for cohort, tenth in zip(COHORTS, row, strict=True)
        if tenth is not None
    }
    return scores_json(study, arms_of(study), COHORTS, cells, {"study": "study"})


def summary(scores: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(r["setting"], r["arm"]): r["macro_f1"] for r in scores["summary"]}


def differences(scores: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {(c["setting"], c["arm"], c["against"]): c["difference"] for c in scores["comparisons"]}


def test_a_setting_is_the_plain_mean_over_its_cohorts() -> None:
    assert summary(table(config())) == {
        ("in-domain", "zero-shot"): 0,
        ("in-domain", "centralized"): pytest.approx(0.7),
        ("in-domain", "fedavg"): pytest.approx(0.6),
        ("in-domain", "uniform"): pytest.approx(0.7),
        # each site's model on its own notes: 0.6 and 0.4
        ("in-domain", "single-site (mean)"): pytest.approx(0.5),
        ("external", "zero-shot"): pytest.approx(0.1),
        ("external", "single-site/north"): pytest.approx(0.2),
        ("external", "single-site/south"): pytest.approx(0.4),
        ("external", "centralized"): pytest.approx(0.7),
        ("external", "fedavg"): pytest.approx(0.6),
        ("external", "uniform"): pytest.approx(0.4),
        # all single-site models on all external cohorts
        ("external", "single-site (mean)"): pytest.approx(0.3),
    }


def test_a_cohort_of_one_note_has_no_interval_nor_has_a_mean_or_difference_with_it() -> None:
    one = COHORTS[-1]
    cells: dict[Cell, DocumentCounts] = {
        (arm, cohort.name, "strict"): DocumentCounts(
            ("n",) * (1 if cohort is one else 4),
            ({"drug": Counts(tp=tenth, fp=1)},) * (1 if cohort is one else 4),
        )
        for arm, row in TENTHS.items()
        for cohort, tenth in zip(COHORTS, row, strict=True)
        if tenth is not None
    }
    found = scores_json(config(), arms_of(config()), COHORTS, cells, {"study": "study"})

    for row in found["results"]:
        ends = row["scores"]["micro"]["f1_ci95"]
        assert (ends is None) == (row["cohort"] == one.name)
    for row in (*found["summary"], *found["comparisons"]):
        assert (row["ci95"] is None) == (row["setting"] == one.setting)


def test_the_mean_single_site_model_in_domain_is_its_own_sites_even_if_tested_elsewhere() -> None:
    everywhere = TENTHS | {"single-site/north": (6, 0, 1, 3), "single-site/south": (0, 4, 3, 5)}
    study = config(evaluation={"presets": ["strict"], "draws": 50, "single_site_in_domain": "all"})

    found = summary(table(study, everywhere))

    assert found["in-domain", "single-site (mean)"] == pytest.approx(0.5)
    assert found["in-domain", "single-site/north"] == pytest.approx(0.3)


def test_federated_arms_are_compared_with_everything_and_with_each_other_once() -> None:
    assert differences(table(config())) == {
        ("in-domain", "fedavg", "zero-shot"): pytest.approx(0.6),
        ("in-domain", "fedavg", "single-site (mean)"): pytest.approx(0.1),
        ("in-domain", "fedavg", "centralized"): pytest.approx(-0.1),
        ("in-domain", "fedavg", "uniform"): pytest.approx(-0.1),
        ("in-domain", "uniform", "zero-shot"): pytest.approx(0.7),
        ("in-domain", "uniform", "single-site (mean)"): pytest.approx(0.2),
        ("in-domain", "uniform", "centralized"): pytest.approx(0),
        ("external", "fedavg", "zero-shot"): pytest.approx(0.5),
        ("external", "fedavg", "single-site (mean)"): pytest.approx(0.3),
        ("external", "fedavg", "centralized"): pytest.approx(-0.1),
        ("external", "fedavg", "uniform"): pytest.approx(0.2),
        ("external", "uniform", "zero-shot"): pytest.approx(0.3),
        ("external", "uniform", "single-site (mean)"): pytest.approx(0.1),
        ("external", "uniform", "centralized"): pytest.approx(-0.3),
    }


def uneven(seed: int) -> DocumentCounts:
    rng = np.random.default_rng(seed)
    notes = tuple({"drug": Counts(*map(int, rng.integers(0, 6, 3)))} for _ in NOTES)
    return DocumentCounts(tuple(n.id for n in NOTES), notes, ("drug",))


def compared(first: dict[str, DocumentCounts], second: dict[str, DocumentCounts]) -> list[Any]:
    """The comparisons of two federated arms with these counts by cohort."""
    off = {"zero_shot": False, "single_site": False, "centralized": False}
    study = config(arms=off)
    cells: dict[Cell, DocumentCounts] = {}
    for arm, by_cohort in (("fedavg", first), ("uniform", second)):
        cells |= {(arm, cohort, "strict"): c for cohort, c in by_cohort.items()}
    return scores_json(study, arms_of(study), COHORTS, cells, {})["comparisons"]


def test_arms_with_the_same_predictions_differ_by_nothing_in_every_draw() -> None:
    same = {cohort.name: uneven(number) for number, cohort in enumerate(COHORTS)}

    for comparison in compared(same, same):
        assert comparison["difference"] == 0
        assert comparison["ci95"] == [0, 0]


def test_a_constant_gain_has_an_interval_of_no_width_although_both_scores_vary() -> None:
    # Paired draws: note by note the second arm finds nothing, so the difference is the first's F1.
    first = {cohort.name: uneven(number) for number, cohort in enumerate(COHORTS)}
    nothing = {
        name: DocumentCounts(
            c.document_ids, tuple({"drug": Counts(fn=1)} for _ in NOTES), ("drug",)
        )
        for name, c in first.items()
    }
    off = {"zero_shot": False, "single_site": False, "centralized": False}
    study = config(arms=off)
    cells = {("fedavg", name, "strict"): c for name, c in first.items()}
    rows = scores_json(study, arms_of(study), COHORTS, cells, {})["summary"]
    own = {row["setting"]: row["ci95"] for row in rows}

    for comparison in compared(first, nothing):
        assert comparison["ci95"] == own[comparison["setting"]]
        assert comparison["ci95"][0] < comparison["ci95"][1]


def test_an_arm_that_lacks_a_cohort_has_no_mean_over_the_setting() -> None:
    missing = TENTHS | {"fedavg": (7, 5, 5, None), "single-site/south": (None, 4, None, 5)}

    found = summary(table(config(), missing))

    assert ("external", "fedavg") not in found
    assert ("in-domain", "fedavg") in found
    assert ("external", "single-site (mean)") not in found
    assert not any(
        setting == "external" and "fedavg" in names
        for setting, *names in differences(table(config(), missing))
    )


def test_without_external_cohorts_nothing_is_said_about_them() -> None:
    study = config(cohorts=[])
    inside = COHORTS[:2]
    cells = {
        (arm, cohort.name, "strict"): counts(tenth)
        for arm, row in TENTHS.items()
        for cohort, tenth in zip(inside, row[:2], strict=True)
        if tenth is not None
    }

    scores = scores_json(study, arms_of(study), inside, cells, {})

    assert {row["setting"] for row in scores["summary"]} == {"in-domain"}
    assert {row["setting"] for row in scores["comparisons"]} == {"in-domain"}


def test_results_hold_counts_ratios_and_the_header() -> None:
    scores = table(config())

    assert scores["study"] == "study"
    first = scores["results"][0]
    assert (first["arm"], first["cohort"], first["preset"]) == ("zero-shot", "north", "strict")
    (row,) = (
        r["scores"] for r in scores["results"] if (r["arm"], r["cohort"]) == ("fedavg", "west")
    )
    assert row["micro"]["tp"] == 28
    assert row["micro"]["fp"] == row["micro"]["fn"] == 12
    assert row["micro"]["f1"] == row["macro_f1"] == pytest.approx(0.7)
    assert row["micro"]["f1_ci95"] == pytest.approx([0.7, 0.7])


def test_a_cell_is_scored_on_the_cohorts_labels_only() -> None:
    gold = Document(
        "n", "aspirin and pain", (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "problem", 12, 16))
    )
    cohort = Cohort("north", "in-domain", ("drug",), (gold,))
    predicted = gold.with_entities([Entity.at("T1", "drug", 0, 7), Entity.at("T2", "test", 8, 11)])

    assert score_cell(cohort, [predicted], "strict").total() == Counts(tp=1)


# Arms --------------------------------------------------------------------------------------------


def names(arms: list[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def test_arms_run_in_an_order_in_which_later_ones_reuse_work() -> None:
    assert names(arms_of(config())) == list(TENTHS)


def test_arms_can_be_switched_off_one_by_one() -> None:
    for off, gone in {
        "zero_shot": {"zero-shot"},
        "single_site": {"single-site/north", "single-site/south"},
        "centralized": {"centralized"},
    }.items():
        assert set(TENTHS) - set(names(arms_of(config(arms={off: False})))) == gone
    assert set(TENTHS) - set(names(arms_of(config(strategies=[])))) == {"fedavg", "uniform"}


@pytest.mark.parametrize(("where", "tested"), [("own", 1), ("all", 2)])
def test_single_site_models_are_tested_in_domain_as_the_study_says(where: str, tested: int) -> None:
    study = config(evaluation={"single_site_in_domain": where})
    for arm in arms_of(study):
        cohorts = [c for c in COHORTS if conditions.tested_on(arm, c, study)]
        expected = (tested if arm.condition == "single-site" else 2) + 2
        assert len(cohorts) == expected
        if arm.condition == "single-site":
            assert arm.sites[0] in {c.name for c in cohorts}


def test_an_arm_says_what_it_is() -> None:
    told = {arm.name: arm.to_json() for arm in arms_of(config())}

    assert told["zero-shot"] == {
        "name": "zero-shot",
        "condition": "zero-shot",
        "site": None,
        "strategy": None,
        "tasks": ["entities"],
    }
    assert told["single-site/north"]["site"] == "north"
    assert told["single-site/north"]["strategy"] is None
    assert told["fedavg"]["strategy"] == {"name": "fedavg", "size": "tokens"}


def test_a_federation_of_one_is_the_single_site_model_bit_for_bit(
    small: Callable[..., StudyConfig], run: Callable[[StudyConfig], Any]
) -> None:
    one = run(
        small(
            'sites=[{name="alder-icu", corpus="alder-icu"}]', "cohorts=[]", "arms.single_site=true"
        )
    )

    for index in ("round-001", "round-002"):
        federated = (one / "adapters" / index / "adapter_model.safetensors").read_bytes()
        single = one / "adapters" / "single-site" / "alder-icu" / index
        assert (single / "adapter_model.safetensors").read_bytes() == federated
    predictions = sorted((one / "predictions").iterdir())
    assert [path.name for path in predictions] == [
        "fedavg--alder-icu.jsonl",
        "single-site--alder-icu--alder-icu.jsonl",
    ]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
