"""`results.json` and `results.csv`: every number of the page, for scripts and spreadsheets."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import fedmedlora
from fedmedlora.evaluation.intervals import MIN_DOCUMENTS
from fedmedlora.report.tables import arm_costs, label_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmedlora.report.finished_run import FinishedRun, LabelScores, Result, TaskResult

CSV_COLUMNS = (
    "run",
    "study",
    "seed",
    "arm",
    "condition",
    "site",
    "strategy",
    "cohort",
    "setting",
    "documents",
    "preset",
    "task",
    "given",
    "linker",
    "label",
    "tp",
    "fp",
    "fn",
    "precision",
    "recall",
    "f1",
    "f1_ci95_low",
    "f1_ci95_high",
)


def results_json(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """One entry a run: its scores as they were written, where they come from and what they cost."""
    return {
        "version": fedmedlora.__version__,
        "runs": [
            {
                "run": run.name,
                **run.plain_scores,
                "config_sha256": run.config_sha256,
                "created_utc": run.environment.get("created_utc"),
                "costs": [asdict(cost) for cost in arm_costs(run)],
            }
            for run in runs
        ],
    }


def results_csv(runs: Sequence[FinishedRun]) -> str:
    """One row for each arm, cohort, preset, score and label; `micro` and `macro` are labels too."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        writer.writerows(_rows(run))
    return text.getvalue()


def _rows(run: FinishedRun) -> Iterator[dict[str, Any]]:
    labels = {cohort.name: cohort.labels for cohort in run.scores.cohorts}
    entities = {"task": "entities", "given": "predicted", "linker": ""}
    for result in run.scores.results:
        yield from _cell(run, result, entities, labels[result.cohort])
    for task in run.scores.task_results:
        names = {"task": task.task, "given": task.given, "linker": task.linker or ""}
        yield from _cell(run, task, {key: _inert(name) for key, name in names.items()}, ())


def _cell(
    run: FinishedRun,
    result: Result | TaskResult,
    names: Mapping[str, str],
    labels: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """The rows of one result; links by rule on gold mentions are of no arm."""
    [cohort] = [c for c in run.scores.cohorts if c.name == result.cohort]
    arm = next((a for a in run.scores.arms if a.name == result.arm), None)
    shared = {
        "run": _inert(run.name),
        "study": _inert(run.scores.study),
        "seed": run.scores.seed,
        "arm": _inert(arm.name) if arm else "",
        "condition": _inert(arm.condition) if arm else "",
        "site": _inert(arm.site or "") if arm else "",
        "strategy": _inert(str((arm.strategy or {}).get("name", ""))) if arm else "",
        "cohort": _inert(cohort.name),
        "setting": _inert(cohort.setting),
        "documents": cohort.documents,
        "preset": _inert(result.preset),
        **names,
    }
    cell = result.scores
    known = cell.micro.f1_ci95 if cohort.documents >= MIN_DOCUMENTS else None
    low, high = known or ("", "")
    ends = {"f1_ci95_low": low, "f1_ci95_high": high}
    yield shared | {"label": "micro"} | _figures(cell.micro) | ends
    yield shared | {"label": "macro", "f1": cell.macro_f1}
    for label in label_order([cell], labels):
        yield shared | {"label": _inert(label)} | _figures(cell.labels[label])


def _figures(scores: LabelScores) -> dict[str, Any]:
    return {name: getattr(scores, name) for name in ("tp", "fp", "fn", "precision", "recall", "f1")}


def _inert(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
