"""Modifiers and relations in the report: every score told apart, nothing where there is none."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import RunStoreError
from fedmedlora.report.finished_run import read_finished_run
from fedmedlora.report.headline import headline
from fedmedlora.report.page import write_report
from fedmedlora.report.relation_tables import (
    cohort_blocks,
    label_tables,
    relations_view,
    setting_blocks,
)

MakeRun = Callable[..., Path]

FIGURES: tuple[tuple[str, str, str | None], ...] = (
    ("modifiers", "predicted", None),
    ("modifiers", "gold", None),
    ("relations", "predicted", "model"),
    ("relations", "predicted", "rules"),
    ("relations", "gold", "model"),
    ("relations", "gold", "rules"),
)
RULE_ON_GOLD = ("relations", "gold-spans", "rules")
ARMS = ("zero-shot", "single-site/icu", "centralized", "fedavg", "uniform")
# The cohort ward annotates no modifiers; triage annotates modifiers, but no links.
COHORTS = {"clinic": "in-domain", "icu": "in-domain", "eye": "external", "triage": "external"}


def cell(tp: int, fp: int, fn: int, label: str) -> dict[str, Any]:
    def counts(tp: int, fp: int, fn: int) -> dict[str, Any]:
        f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0
        ratios = {"precision": tp / (tp + fp or 1), "recall": tp / (tp + fn or 1), "f1": f1}
        return {"tp": tp, "fp": fp, "fn": fn} | ratios

    whole = counts(tp, fp, fn)
    labels = {label: whole, "never-gold": counts(0, 0, 0)}
    ends = [max(0.0, whole["f1"] - 0.0412), whole["f1"] + 0.0371]
    return {"micro": whole | {"f1_ci95": ends}, "macro_f1": whole["f1"], "labels": labels}


def named(figure: tuple[str, str, str | None]) -> dict[str, Any]:
    return dict(zip(("task", "given", "linker"), figure, strict=True))


def with_tasks(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores with modifiers and links, every figure with an F1 of its own."""
    results, summary, comparisons = [], [], []
    number = 0
    for figure in (*FIGURES, RULE_ON_GOLD):
        label = "dosage" if figure[0] == "modifiers" else "dosage-drug"
        known = [c for c in COHORTS if figure[0] == "modifiers" or c != "triage"]
        for preset in ("strict", "lenient"):
            for arm in ARMS if figure != RULE_ON_GOLD else (None,):
                where = {"arm": arm, "preset": preset}
                for cohort in known:
                    number += 1
                    block = cell(100 + number, 50, 61, label)
                    results.append(named(figure) | where | {"cohort": cohort, "scores": block})
                for setting in ("in-domain", "external"):
                    number += 1
                    mean = 0.2 + number / 1000
                    row = {
                        "setting": setting,
                        "macro_f1": mean,
                        "ci95": [mean - 0.0411, mean + 0.0372],
                        "cohorts": [c for c in known if COHORTS[c] == setting],
                    }
                    summary.append(named(figure) | where | row)
                    row = {"setting": setting, "arm": arm, "preset": preset}
                    difference = {"difference": number / 2000, "ci95": [-0.01, number / 1500]}
                    if figure[2] == "model":
                        against = {"against": arm, "against_linker": "rules"}
                        comparisons.append(named(figure) | row | against | difference)
                    if figure[2] != "rules" and arm == "fedavg":
                        against = {"against": "centralized"}
                        comparisons.append(named(figure) | row | against | difference)
    return scores | {
        "task_results": results,
        "task_summary": summary,
        "task_comparisons": comparisons,
    }


def page_of(run: Path) -> str:
    html = write_report([run]).read_text("utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("&nbsp;", " ").split())


def points(value: float) -> str:
    return f"{abs(100 * value):.1f}"


def test_every_score_beyond_entities_is_on_the_page(make_run: MakeRun, scores: Any) -> None:
    full = with_tasks(scores)
    text = page_of(make_run(full))

    numbers = set(re.findall(r"\d+\.\d", text))
    expected = set()
    for row in full["task_results"]:
        micro = row["scores"]["micro"]
        expected |= {points(v) for v in (micro["f1"], *micro["f1_ci95"])}
    for row in full["task_summary"]:
        expected |= {points(v) for v in (row["macro_f1"], *row["ci95"])}
    for row in full["task_comparisons"]:
        if row["preset"] == "strict":
            expected |= {points(v) for v in (row["difference"], *row["ci95"])}
    assert len(expected) > 150
    assert expected <= numbers


def test_the_task_of_the_reference_is_called_by_its_name(make_run: MakeRun, scores: Any) -> None:
    text = page_of(make_run(with_tasks(scores)))

    assert "modifier tagging with gold entities" in text
    assert "rule linker" in text
    assert "reaches a strict entity F1 of" in text


def test_a_run_of_entities_alone_says_nothing_of_relations(make_run: MakeRun, scores: Any) -> None:
    run = make_run(scores)
    text = page_of(run)

    for word in ("rule linker", "Modifiers", "relation", "entity F1"):
        assert word not in text
    assert relations_view(read_finished_run(run)) is None


def test_columns_are_entities_then_modifiers_then_relations_with_the_rule_beside_the_model(
    make_run: MakeRun, scores: Any
) -> None:
    full = with_tasks(scores)
    (setting, (strict, lenient)), *_ = setting_blocks(read_finished_run(make_run(full)).scores)

    assert (setting, strict.preset, lenient.preset) == ("external", "strict", "lenient")
    assert strict.groups == (
        ("Entities", ("end to end",)),
        ("Modifiers", ("end to end", "modifier tagging with gold entities")),
        ("Relations, end to end", ("model", "rule linker")),
        ("Relations with gold entities", ("model", "rule linker")),
    )
    (values,) = [values for arm, values in strict.rows if arm == "fedavg"]
    of_arm = {
        (r["task"], r["given"], r["linker"]): r["macro_f1"]
        for r in full["task_summary"]
        if (r["arm"], r["setting"], r["preset"]) == ("fedavg", "external", "strict")
    }
    (entities,) = [
        r["macro_f1"]
        for r in full["summary"]
        if (r["arm"], r["setting"], r["preset"]) == ("fedavg", "external", "strict")
    ]
    assert [value.f1 for value in values if value] == [entities, *(of_arm[f] for f in FIGURES)]
    # An arm without relations keeps its entities.
    assert [v is None for v in dict(strict.rows)["single-site/ward"]] == [False] + [True] * 6
    # Of two cohorts one annotates links, and both are there for modifiers.
    modifiers = [note for note in strict.fewer_cohorts if "modifier" in note]
    assert modifiers == []
    assert strict.fewer_cohorts == (
        "relations, end to end: eye only",
        "relations with gold entities: eye only",
    )


def test_a_cohort_without_links_has_no_column_for_them(make_run: MakeRun, scores: Any) -> None:
    found = cohort_blocks(read_finished_run(make_run(with_tasks(scores))).scores)

    groups = {cohort.name: [name for name, _ in blocks[0].groups] for cohort, blocks in found}
    assert list(groups) == ["clinic", "icu", "eye", "triage"]
    assert groups["triage"] == ["Entities", "Modifiers"]
    assert len(groups["eye"]) == 4
    assert {c.name: blocks[0].rule_on_gold is None for c, blocks in found} == {
        "clinic": False,
        "icu": False,
        "eye": False,
        "triage": True,
    }


def test_labels_that_nobody_annotated_have_no_column(make_run: MakeRun, scores: Any) -> None:
    found = label_tables(read_finished_run(make_run(with_tasks(scores))).scores, "strict")

    tables = {(cohort.name, table.title): table for cohort, own in found for table in own}
    assert {table.labels for table in tables.values()} == {("dosage",), ("dosage-drug",)}
    table = tables["eye", "relations by the rule linker, on gold mentions"]
    assert [arm for arm, _ in table.rows] == ["rule linker"]
    num_gold = [r["scores"]["micro"] for r in with_tasks(scores)["task_results"]]
    assert table.gold[0] in {c["tp"] + c["fn"] for c in num_gold}


def test_the_summary_in_words_tells_the_best_links_and_how_far_they_are_from_the_rule(
    make_run: MakeRun, scores: Any
) -> None:
    full = with_tasks(scores)
    for row in full["task_summary"]:
        if row["task"] == "relations" and row["linker"] == "model" and row["arm"] == "uniform":
            row["macro_f1"], row["ci95"] = 0.612, [0.58, 0.64]
    for row in full["task_comparisons"]:
        if row.get("against_linker"):
            row["difference"], row["ci95"] = -0.021, [-0.05, 0.004]

    told = headline(read_finished_run(make_run(full)))

    assert (
        "Relations on eye (14 test notes): uniform (picked because it is the highest of 2 "
        "federated arms) reaches a strict relation F1 of 61.2 points end to end (95 % interval "
        "58.0 to 64.0), 2.1 points below the rule linker on the same mentions "
        "(−5.0 to 0.4: includes 0, so no clear difference)."  # noqa: RUF001
    ) in told


def test_of_a_single_note_there_is_no_interval(make_run: MakeRun, scores: Any) -> None:
    full = with_tasks(scores)
    for cohort in full["cohorts"]:
        cohort["documents"] = 1

    text = page_of(make_run(full))

    intervals = [
        f"{points(low)} to {points(high)}"
        for low, high in (row["ci95"] for row in full["task_summary"])
    ]
    assert not any(each in text for each in intervals)
    assert "too few notes" in text


def test_names_of_tasks_and_labels_are_text_and_nothing_else(
    make_run: MakeRun, scores: Any
) -> None:
    hostile = "</td><script>x</script>"
    full = with_tasks(scores)
    for row in full["task_results"]:
        row["scores"]["labels"] = {hostile: row["scores"]["micro"]}
        row["task"] = hostile if row["given"] == "gold" else row["task"]

    html = write_report([make_run(full)]).read_text("utf-8")

    assert "<script" not in html
    assert html.count("&lt;/td&gt;&lt;script&gt;") > 4


def test_the_table_has_a_row_for_each_score_and_says_which_it_is(
    make_run: MakeRun, scores: Any
) -> None:
    full = with_tasks(scores)
    run = make_run(full)
    write_report([run])

    with (run / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        (r["task"], r["given"], r["linker"], r["arm"], r["cohort"], r["preset"]): float(r["f1"])
        for r in rows
        if r["label"] == "micro"
    }
    expected = {
        ("entities", "predicted", "", r["arm"], r["cohort"], r["preset"]): r
        for r in full["results"]
    } | {
        (r["task"], r["given"], r["linker"] or "", r["arm"] or "", r["cohort"], r["preset"]): r
        for r in full["task_results"]
    }
    assert found == {key: row["scores"]["micro"]["f1"] for key, row in expected.items()}
    (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
    for key in ("task_results", "task_summary", "task_comparisons"):
        assert entry[key] == full[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"arm": "nobody"}, "'nobody', which is not listed"),
        (lambda row: row | {"cohort": "nowhere"}, "'nowhere', which is not listed"),
        (lambda row: row, "a result of a task twice"),
    ],
)
def test_results_of_tasks_that_cannot_be_right_are_refused(
    make_run: MakeRun, scores: Any, change: Callable[[Any], Any], message: str
) -> None:
    full = with_tasks(scores)
    full["task_results"].append(change(full["task_results"][0]))

    with pytest.raises(RunStoreError, match=message):
        read_finished_run(make_run(full))
