"""`results.json` and `results.csv`: every number of the page, for scripts and spreadsheets."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import fedmedlora
from fedmedlora.report.tables import arm_costs, label_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedmedlora.report.finished_run import FinishedRun, LabelScores

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
    """One row for each arm, cohort, preset and label, with `micro` and `macro` as labels."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        writer.writerows(_rows(run))
    return text.getvalue()


def _rows(run: FinishedRun) -> Iterator[dict[str, Any]]:
    arms = {arm.name: arm for arm in run.scores.arms}
    cohorts = {cohort.name: cohort for cohort in run.scores.cohorts}
    for result in run.scores.results:
        arm, cohort, cell = arms[result.arm], cohorts[result.cohort], result.scores
        shared = {
            "run": _inert(run.name),
            "study": _inert(run.scores.study),
            "seed": run.scores.seed,
            "arm": _inert(arm.name),
            "condition": _inert(arm.condition),
            "site": _inert(arm.site or ""),
            "strategy": _inert(str((arm.strategy or {}).get("name", ""))),
            "cohort": _inert(cohort.name),
            "setting": _inert(cohort.setting),
            "documents": cohort.documents,
            "preset": _inert(result.preset),
        }
        low, high = cell.micro.f1_ci95 or ("", "")
        ends = {"f1_ci95_low": low, "f1_ci95_high": high}
        yield shared | {"label": "micro"} | _figures(cell.micro) | ends
        yield shared | {"label": "macro", "f1": cell.macro_f1}
        for label in label_order([cell], cohort.labels):
            yield shared | {"label": _inert(label)} | _figures(cell.labels[label])


def _figures(scores: LabelScores) -> dict[str, Any]:
    return {name: getattr(scores, name) for name in ("tp", "fp", "fn", "precision", "recall", "f1")}


def _inert(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
