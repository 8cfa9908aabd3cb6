"""What a run found, in plain sentences that are made from its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmedlora.core.words import counted
from fedmedlora.evaluation.intervals import MIN_DOCUMENTS
from fedmedlora.report.relation_tables import LINKS
from fedmedlora.report.tables import fewest_notes, presets_of, settings_of
from fedmedlora.report.wording import includes_zero, interval, listed, points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.report.finished_run import (
        Comparison,
        FinishedRun,
        StudyScores,
        TaskComparison,
    )

SETTING_TITLES = {
    "in-domain": "In-domain: cohorts of the training sites",
    "external": "External: held-out cohorts",
}
_PLACES = {
    "in-domain": "the cohorts of the sites that took part in training",
    "external": "the held-out cohorts, from which no model saw a note in training",
}
_MOST_NAMES = 6
TOO_FEW_NOTES = "A cohort with a single test note has no interval, so nothing can be concluded."


def headline(run: FinishedRun) -> list[str]:
    """Paragraphs: what was done, then for each setting what came out of it and how sure it is."""
    scores = run.scores
    preset = next(iter(presets_of(scores)), "")
    found = [
        told(scores, setting, preset)
        for setting in settings_of(scores)
        for told in (_what_came_out, _what_was_linked)
    ]
    return [
        _what_was_done(run),
        *_where_it_began(run),
        *filter(None, found),
        *_what_was_given(run),
        *_how_tags_open(run),
    ]


def _where_it_began(run: FinishedRun) -> list[str]:
    """What all training went on from, where that was not a fresh adapter."""
    start = run.config.get("start")
    if not start:
        return []
    what = (
        "the starter, an adapter trained on public literature"
        if start == "starter"
        else "an adapter that had been trained before"
    )
    tested = [arm.name for arm in run.scores.arms if arm.condition == "start"]
    as_it_was = f" The arm {listed(tested)} is that adapter as it was." if tested else ""
    return [f"All training went on from {what}.{as_it_was}"]


def _what_was_given(run: FinishedRun) -> list[str]:
    """Which arms saw labelled notes that the others did not get."""
    if not run.config.get("server_notes"):
        return []
    weighing = [arm.name for arm in run.scores.arms if _weighs_by_server_notes(arm.strategy or {})]
    training = [arm.name for arm in run.scores.arms if arm.name.startswith("fedavg+val")]
    if not weighing:
        return []
    others = (
        f"which only {listed(training)} trained on" if training else "which no other arm was given"
    )
    return [
        f"To weigh the sites, {listed(weighing)} used labelled validation notes at the server, "
        f"{others}."
    ]


def _how_tags_open(run: FinishedRun) -> list[str]:
    """What was found on labelled notes beside the training, and by which arms."""
    bonus = (run.config.get("evaluation") or {}).get("open_bonus", 0)
    if not bonus:
        return []
    if bonus != "auto":
        return [
            f"Tags of all arms open more readily than the models say, by {bonus:g} in log odds."
        ]
    untrained = [arm.name for arm in run.scores.arms if arm.condition == "zero-shot"]
    others = f"; {listed(untrained)} looked at no labelled note" if untrained else ""
    return [
        "How readily the tags of a trained arm open was found on validation notes of its own "
        f"sites{others}."
    ]


def _weighs_by_server_notes(strategy: Mapping[str, Any]) -> bool:
    by_sites = strategy.get("mode") == "cross-eval"
    return strategy.get("name") in ("fedmedlora-plus", "greedy-soup") and not by_sites


def _what_was_done(run: FinishedRun) -> str:
    scores = run.scores
    rounds = [record for record in run.rounds if record.arm in run.federated_arms]
    sites = sorted({site for record in rounds for site in record.sites})
    training = ""
    if sites:
        most = max(record.round_index for record in rounds)
        training = (
            f" on the notes of {counted(len(sites), 'site')}{_names(sites)} "
            f"in {counted(most, 'round')}"
        )
    return (
        f"This study trained adapters of {scores.base_model_name}{training}, and scored "
        f"{counted(len(scores.arms), 'arm')} on the notes of "
        f"{counted(len(scores.cohorts), 'cohort')}."
    )


def _what_came_out(scores: StudyScores, setting: str, preset: str) -> str:
    conditions = {arm.name: arm.condition for arm in scores.arms}
    rows = [row for row in scores.summary if (row.setting, row.preset) == (setting, preset)]
    federated = [row for row in rows if conditions.get(row.arm) == "federated"]
    candidates = federated or [row for row in rows if row.arm in conditions]
    if not candidates:
        return ""
    best = max(candidates, key=lambda row: row.macro_f1)
    documents = sum(c.documents for c in scores.cohorts if c.setting == setting)
    where = _PLACES.get(setting, f"the cohorts of the setting {setting}")
    others = len(candidates) - 1
    kind = "federated arms" if federated else "arms"
    chosen = f" (picked because it is the highest of {others + 1} {kind})" if others else ""
    judged = fewest_notes(scores, setting) >= MIN_DOCUMENTS
    sure = f" (95 % interval {interval(best.ci95)})" if best.ci95 and judged else ""
    score = "entity F1" if scores.task_results else "F1"
    first = (
        f"On {where} ({counted(documents, 'test note')}), {best.arm}{chosen} reaches "
        f"a {preset} {score} of {points(best.macro_f1)} points{sure}."
    )
    compared = [
        _difference(c, _named(c.against, conditions), judged=judged)
        for c in scores.comparisons
        if (c.setting, c.preset, c.arm) == (setting, preset, best.arm)
        and conditions.get(c.against) != "federated"
    ]
    doubt = "" if judged else f" {TOO_FEW_NOTES}"
    return f"{first} That is {listed(compared)}.{doubt}" if compared else f"{first}{doubt}"


def _what_was_linked(scores: StudyScores, setting: str, preset: str) -> str:
    """The best links of a model end to end, and how far they are from those by rule."""
    conditions = {arm.name: arm.condition for arm in scores.arms}
    rows = [
        row
        for row in scores.task_summary
        if (row.setting, row.preset, row.figure) == (setting, preset, LINKS)
    ]
    federated = [row for row in rows if conditions.get(row.arm or "") == "federated"]
    candidates = federated or [row for row in rows if row.arm in conditions]
    if not candidates:
        return ""
    best = max(candidates, key=lambda row: row.macro_f1)
    kind = "federated arms" if federated else "arms"
    picked = f" (picked because it is the highest of {len(candidates)} {kind})"
    chosen = picked if len(candidates) > 1 else ""
    documents = [c.documents for c in scores.cohorts if c.name in best.cohorts]
    judged = min(documents, default=0) >= MIN_DOCUMENTS
    sure = f" (95 % interval {interval(best.ci95)})" if best.ci95 and judged else ""
    by_rule = [
        f", {_difference(row, 'the rule linker on the same mentions', judged=judged)}"
        for row in scores.task_comparisons
        if (row.setting, row.preset, row.figure) == (setting, preset, LINKS)
        and row.arm == best.arm
        and row.against_linker == "rules"
    ]
    return (
        f"Relations on {listed(list(best.cohorts))} ({counted(sum(documents), 'test note')}): "
        f"{best.arm}{chosen} reaches a {preset} relation F1 of {points(best.macro_f1)} points "
        f"end to end{sure}{''.join(by_rule)}."
    )


def _named(arm: str, conditions: Mapping[str, str]) -> str:
    """The arm as it stands in a sentence."""
    return f"the {arm} as it was" if conditions.get(arm) == "start" else arm


def _names(names: list[str]) -> str:
    return f" ({listed(names)})" if len(names) <= _MOST_NAMES else ""


def _difference(comparison: Comparison | TaskComparison, against: str, *, judged: bool) -> str:
    """Such as `20.0 points above zero-shot (12.0 to 28.0)`."""
    size = points(abs(comparison.difference))
    side = "above" if comparison.difference >= 0 else "below"
    difference = f"{size} points {side} {against}"
    if not judged or comparison.ci95 is None:
        return difference
    doubt = ": includes 0, so no clear difference" if includes_zero(comparison.ci95) else ""
    return f"{difference} ({interval(comparison.ci95)}{doubt})"
