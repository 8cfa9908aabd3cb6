"""The three scores side by side: entities, modifiers and links, the rule linker beside the model.

A column is one score, told by task, what was given and the linker. The first is that of entities,
which the rest of the report is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.report.tables import arm_names, in_order, presets_of, settings_of
from fedmedlora.report.wording import FigureName, figure_title, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.report.finished_run import (
        Cohort,
        FinishedRun,
        Interval,
        LabelScores,
        StudyScores,
        TaskComparison,
        TaskResult,
    )

ENTITIES: FigureName = ("entities", "predicted", None)
LINKS: FigureName = ("relations", "predicted", "model")
LINKS_BY_RULE: FigureName = ("relations", "predicted", "rules")
RULE_ON_GOLD: FigureName = ("relations", "gold-spans", "rules")
_GROUPS = (
    ("Entities", (ENTITIES,)),
    ("Modifiers", (("modifiers", "predicted", None), ("modifiers", "gold", None))),
    ("Relations, end to end", (LINKS, LINKS_BY_RULE)),
    (
        "Relations with gold entities",
        (("relations", "gold", "model"), ("relations", "gold", "rules")),
    ),
)
_HEADS = {
    ENTITIES: "end to end",
    ("modifiers", "predicted", None): "end to end",
    ("modifiers", "gold", None): "modifier tagging with gold entities",
    LINKS: "model",
    LINKS_BY_RULE: "rule linker",
    ("relations", "gold", "model"): "model",
    ("relations", "gold", "rules"): "rule linker",
}


@dataclass(frozen=True, slots=True)
class Value:
    """An F1 with its interval, where one is known."""

    f1: float
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Block:
    """The three scores of every arm in one setting or on one cohort, under one preset.

    Attributes:
        preset: How was counted.
        groups: What stands over several columns, with the heads of those columns.
        rows: Arm, and its value in each column, None where there is none.
        rule_on_gold: The rule linker where entities and modifiers are given, which is of no arm.
        fewer_cohorts: Of each column that is a mean over fewer cohorts than entities: over which.
    """

    preset: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, tuple[Value | None, ...]], ...]
    rule_on_gold: Value | None
    fewer_cohorts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelTable:
    """F1 by modifier, or by pair of modifier and entity, of one score on one cohort."""

    title: str
    labels: tuple[str, ...]
    gold: tuple[int, ...]
    rows: tuple[tuple[str, tuple[LabelScores | None, ...]], ...]


def relations_view(run: FinishedRun) -> dict[str, object] | None:
    """What the template says about modifiers and links; None for a run of entities alone."""
    scores = run.scores
    if not scores.task_results:
        return None
    preset = presets_of(scores)[0]
    settings = settings_of(scores)
    return {
        "settings": setting_blocks(scores),
        "cohorts": cohort_blocks(scores),
        "labels": label_tables(scores, preset),
        "linkers": [(s, rows) for s in settings if (rows := linker_comparisons(scores, s, preset))],
        "arms": [
            (s, titles, rows)
            for s in settings
            for titles, rows in [arm_comparisons(scores, s, preset)]
            if rows
        ],
        "preset": preset,
    }


def setting_blocks(scores: StudyScores) -> list[tuple[str, list[Block]]]:
    """The means by setting, a block for each preset."""
    found = []
    for setting in settings_of(scores):
        blocks = [_setting_block(scores, setting, preset) for preset in presets_of(scores)]
        if known := [block for block in blocks if block is not None]:
            found.append((setting, known))
    return found


def cohort_blocks(scores: StudyScores) -> list[tuple[Cohort, list[Block]]]:
    """The scores on each cohort that any of them beyond entities is known of."""
    found = []
    for cohort in scores.cohorts:
        blocks = [_cohort_block(scores, cohort, preset) for preset in presets_of(scores)]
        if known := [block for block in blocks if block is not None]:
            found.append((cohort, known))
    return found


def label_tables(scores: StudyScores, preset: str) -> list[tuple[Cohort, list[LabelTable]]]:
    """For each cohort every score by label or pair."""
    found = []
    for cohort in scores.cohorts:
        results = [r for r in scores.task_results if (r.cohort, r.preset) == (cohort.name, preset)]
        figures = in_order_of_columns([result.figure for result in results])
        tables = [_label_table(scores, f, [r for r in results if r.figure == f]) for f in figures]
        if tables:
            found.append((cohort, tables))
    return found


def linker_comparisons(
    scores: StudyScores, setting: str, preset: str
) -> list[tuple[str, list[TaskComparison | None]]]:
    """By arm, how much better the model links than the rule: end to end, and with gold entities."""
    by_arm: dict[str, dict[str, TaskComparison]] = {}
    for row in scores.task_comparisons:
        if row.against_linker and (row.setting, row.preset) == (setting, preset):
            by_arm.setdefault(row.arm, {})[row.given] = row
    return [
        (arm, [by_arm[arm].get("predicted"), by_arm[arm].get("gold")])
        for arm in arm_names(scores)
        if arm in by_arm
    ]


def arm_comparisons(
    scores: StudyScores, setting: str, preset: str
) -> tuple[list[str], list[tuple[str, str, list[TaskComparison | None]]]]:
    """The titles of the scores, and for each pair of arms their paired difference in each."""
    rows = [
        row
        for row in scores.task_comparisons
        if not row.against_linker and (row.setting, row.preset) == (setting, preset)
    ]
    figures = in_order_of_columns([row.figure for row in rows])
    by_pair: dict[tuple[str, str], dict[FigureName, TaskComparison]] = {}
    for row in rows:
        by_pair.setdefault((row.arm, row.against), {})[row.figure] = row
    # All comparisons of an arm together, whichever score knew of them first.
    arms = in_order((arm for arm, _ in by_pair), arm_names(scores))
    pairs = sorted(by_pair, key=lambda pair: arms.index(pair[0]))
    cells = [(*pair, [by_pair[pair].get(figure) for figure in figures]) for pair in pairs]
    return [figure_title(figure) for figure in figures], cells


def in_order_of_columns(figures: Sequence[FigureName]) -> list[FigureName]:
    """Each score once, those that have a column first and in the order of the columns."""
    columns = [figure for _, group in _GROUPS for figure in group]
    unique = list(dict.fromkeys(figures))
    return [f for f in columns if f in unique] + [f for f in unique if f not in columns]


def _setting_block(scores: StudyScores, setting: str, preset: str) -> Block | None:
    values: dict[tuple[str | None, FigureName], Value] = {
        (row.arm, ENTITIES): Value(row.macro_f1, row.ci95)
        for row in scores.summary
        if (row.setting, row.preset) == (setting, preset)
    }
    tasks = [r for r in scores.task_summary if (r.setting, r.preset) == (setting, preset)]
    values |= {(row.arm, row.figure): Value(row.macro_f1, row.ci95) for row in tasks}
    num_cohorts = sum(cohort.setting == setting for cohort in scores.cohorts)
    fewer = {r.figure: r.cohorts for r in tasks if 0 < len(r.cohorts) < num_cohorts}
    notes = [
        f"{figure_title(figure)}: {listed(list(cohorts))} only"
        for figure, cohorts in fewer.items()
        if figure[2] != "rules"
    ]
    return _block(scores, preset, values, notes) if tasks else None


def _cohort_block(scores: StudyScores, cohort: Cohort, preset: str) -> Block | None:
    wanted = (cohort.name, preset)
    values: dict[tuple[str | None, FigureName], Value] = {
        (row.arm, ENTITIES): Value(row.scores.micro.f1, row.scores.micro.f1_ci95)
        for row in scores.results
        if (row.cohort, row.preset) == wanted
    }
    tasks: list[TaskResult] = [r for r in scores.task_results if (r.cohort, r.preset) == wanted]
    values |= {(r.arm, r.figure): Value(r.scores.micro.f1, r.scores.micro.f1_ci95) for r in tasks}
    return _block(scores, preset, values, ()) if tasks else None


def _block(
    scores: StudyScores,
    preset: str,
    values: dict[tuple[str | None, FigureName], Value],
    fewer_cohorts: Sequence[str],
) -> Block:
    known = {figure for _, figure in values}
    groups = [(name, [f for f in figures if f in known]) for name, figures in _GROUPS]
    columns = [figure for _, figures in groups for figure in figures]
    rows = [
        (arm, tuple(values.get((arm, figure)) for figure in columns)) for arm in arm_names(scores)
    ]
    return Block(
        preset,
        tuple((name, tuple(_HEADS[f] for f in figures)) for name, figures in groups if figures),
        tuple(row for row in rows if any(row[1])),
        values.get((None, RULE_ON_GOLD)),
        tuple(fewer_cohorts),
    )


def _label_table(
    scores: StudyScores, figure: FigureName, results: Sequence[TaskResult]
) -> LabelTable:
    by_arm = {result.arm: result.scores.labels for result in results}
    counted = {label for labels in by_arm.values() for label, n in labels.items() if n.num_gold}
    labels = in_order((label for known in by_arm.values() for label in known), sorted(counted))
    gold = [max(known[lb].num_gold for known in by_arm.values() if lb in known) for lb in labels]
    # Pairs that nobody annotated are mistakes of single arms: they are in the files, not here.
    kept = [(label, num) for label, num in zip(labels, gold, strict=True) if num]
    arms: list[str | None] = [*arm_names(scores), None]
    return LabelTable(
        figure_title(figure),
        tuple(label for label, _ in kept),
        tuple(num for _, num in kept),
        tuple(
            (arm or "rule linker", tuple(by_arm[arm].get(label) for label, _ in kept))
            for arm in arms
            if arm in by_arm
        ),
    )
