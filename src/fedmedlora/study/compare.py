"""From predictions to tables: scores by arm and cohort, means over cohorts, paired differences."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from fedmedlora.core.seeds import derive_seed
from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.counting import count_entities
from fedmedlora.evaluation.intervals import Estimate, mean_of, paired_difference
from fedmedlora.evaluation.presets import find_preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.scores import DocumentCounts
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort

SINGLE_MEAN = "single-site (mean)"
SETTINGS = ("in-domain", "external")

Cell = tuple[str, str, str]
"""Arm, cohort, preset."""


def score_cell(cohort: Cohort, predicted: Iterable[Document], preset_name: str) -> DocumentCounts:
    """Counts by document and label of one arm on one cohort; its labels only."""
    gold = [document.only_labels(cohort.labels) for document in cohort.documents]
    aligned = align_documents(gold, list(predicted))
    return count_entities(aligned, find_preset(preset_name), cohort.labels)


def scores_json(
    config: StudyConfig,
    arms: Sequence[Arm],
    cohorts: Sequence[Cohort],
    counts: Mapping[Cell, DocumentCounts],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """What `scores.json` holds: every cell, the means by setting, and the paired differences.

    Intervals resample documents within each cohort, with the same draws for every arm, so that
    differences are paired.
    """
    table = _Table(config, arms, cohorts, counts)
    return {
        **header,
        "arms": [arm.to_json() for arm in arms],
        "cohorts": [
            {
                "name": cohort.name,
                "setting": cohort.setting,
                "documents": len(cohort.documents),
                "characters": cohort.num_characters,
                "labels": list(cohort.labels),
            }
            for cohort in cohorts
        ],
        "results": table.results(),
        "summary": table.summary(),
        "comparisons": table.comparisons(),
    }


class _Table:
    """Counts with their bootstrap draws, each computed once."""

    def __init__(
        self,
        config: StudyConfig,
        arms: Sequence[Arm],
        cohorts: Sequence[Cohort],
        counts: Mapping[Cell, DocumentCounts],
    ) -> None:
        self._config = config
        self._arms = arms
        self._cohorts = cohorts
        self._counts = counts
        self._estimates = {
            cell: counts[cell].estimate(num_draws=config.evaluation.draws, seed=self._seed(cell[1]))
            for cell in counts
        }

    def _seed(self, cohort: str) -> int:
        return derive_seed(self._config.seed, "bootstrap", cohort)

    def results(self) -> list[dict[str, Any]]:
        draws = self._config.evaluation.draws
        found = []
        for (arm, cohort, preset), counts in self._counts.items():
            scores = counts.scores(num_draws=draws, seed=self._seed(cohort))
            micro = scores.micro.to_json() | {"f1_ci95": list(scores.f1_ci95)}
            labels = {label: value.to_json() for label, value in scores.labels.items()}
            block = {"micro": micro, "macro_f1": scores.macro_f1, "labels": labels}
            found.append({"arm": arm, "cohort": cohort, "preset": preset, "scores": block})
        return found

    def _mean(self, arm: str, setting: str, preset: str) -> Estimate | None:
        """The mean F1 over the setting's cohorts, if the arm was tested on all of them."""
        names = [c.name for c in self._cohorts if c.setting == setting]
        cells = [self._estimates.get((arm, name, preset)) for name in names]
        known = [cell for cell in cells if cell is not None]
        return mean_of(known) if names and len(known) == len(names) else None

    def _single_mean(self, setting: str, preset: str) -> Estimate | None:
        """The mean of the single-site models; in-domain, each site's model on its own notes."""
        singles = [arm for arm in self._arms if arm.condition == "single-site"]
        if setting == "in-domain":
            cells = [self._estimates.get((a.name, a.sites[0], preset)) for a in singles]
        else:
            cells = [self._mean(arm.name, setting, preset) for arm in singles]
        known = [cell for cell in cells if cell is not None]
        return mean_of(known) if known and len(known) == len(singles) else None

    def _rows(self, setting: str, preset: str) -> dict[str, Estimate]:
        rows: dict[str, Estimate] = {}
        for arm in self._arms:
            mean = self._mean(arm.name, setting, preset)
            if mean is not None:
                rows[arm.name] = mean
        single = self._single_mean(setting, preset)
        if single is not None:
            rows[SINGLE_MEAN] = single
        return rows

    def summary(self) -> list[dict[str, Any]]:
        return [
            {
                "arm": arm,
                "setting": setting,
                "preset": preset,
                "macro_f1": estimate.value,
                "ci95": list(estimate.ci95),
                "cohorts": [c.name for c in self._cohorts if c.setting == setting],
            }
            for setting, preset in self._views()
            for arm, estimate in self._rows(setting, preset).items()
        ]

    def comparisons(self) -> list[dict[str, Any]]:
        """Every federated arm against zero-shot, mean single-site, centralized and the others."""
        federated = [arm.name for arm in self._arms if arm.condition == "federated"]
        found = []
        for setting, preset in self._views():
            rows = self._rows(setting, preset)
            others = ["zero-shot", SINGLE_MEAN, "centralized", *federated]
            for index, arm in enumerate(federated):
                for against in others:
                    later = against in federated and federated.index(against) <= index
                    if arm not in rows or against not in rows or later:
                        continue
                    difference = paired_difference(rows[arm], rows[against])
                    found.append(
                        {
                            "setting": setting,
                            "preset": preset,
                            "arm": arm,
                            "against": against,
                            "difference": difference.value,
                            "ci95": list(difference.ci95),
                        }
                    )
        return found

    def _views(self) -> list[tuple[str, str]]:
        return list(product(SETTINGS, self._config.evaluation.presets))
