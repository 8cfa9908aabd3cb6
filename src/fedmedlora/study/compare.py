"""From predictions to tables: scores by arm and cohort, means over cohorts, paired differences."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmedlora.core.seeds import derive_seed
from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.counting import count_entities
from fedmedlora.evaluation.intervals import (
    Estimate,
    bootstrap_f1,
    f1_of,
    mean_of,
    paired_difference,
)
from fedmedlora.evaluation.presets import find_preset
from fedmedlora.evaluation.relation_scores import (
    END_TO_END_ENTITIES,
    FIGURES,
    RULES_ON_GOLD,
    Annotated,
    Figure,
    Given,
    count_modifiers_and_links,
)
from fedmedlora.inference.rule_linker import link_by_rule

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

TaskCell = tuple[str | None, str, str, Figure]
"""Arm, cohort, preset, figure. Without an arm: the rule linker alone, on gold mentions."""


def score_cell(cohort: Cohort, predicted: Iterable[Document], preset_name: str) -> DocumentCounts:
    """Counts by document and label of one arm on one cohort; its labels only."""
    gold = [document.only_labels(cohort.labels) for document in cohort.documents]
    aligned = align_documents(gold, list(predicted))
    return count_entities(aligned, find_preset(preset_name), cohort.labels)


def score_tasks(
    arm: str,
    cohort: Cohort,
    predicted: Iterable[Document],
    given: Given,
    presets: Iterable[str],
    *,
    modifiers: tuple[str, ...],
    relations: bool,
) -> dict[TaskCell, DocumentCounts]:
    """Counts of modifiers, of the arm's links, and of those by rule between the same mentions.

    Args:
        arm: The arm's name.
        cohort: The cohort; its `labels` are those of entities.
        predicted: The arm's predictions with entities, modifiers and links.
        given: `predicted` end to end, `gold` where the gold entities were given.
        presets: How to count.
        modifiers: The modifier labels that the cohort annotates; without any there is no count.
        relations: Whether the cohort annotates links; where it does not, none are counted.
    """
    annotated = Annotated(cohort.labels, modifiers, relations)
    # Labels that are not scored here must not draw links of the rule to themselves.
    of_model = [document.only_labels(annotated.labels) for document in predicted]
    of_rule = [link_by_rule(document) for document in of_model]
    return {
        (arm, cohort.name, preset, figure): counts
        for preset in presets
        for figure, counts in count_modifiers_and_links(
            cohort.documents,
            {"model": of_model, "rules": of_rule},
            find_preset(preset),
            annotated,
            given,
        ).items()
    }


def score_rules_on_gold(
    cohort: Cohort, presets: Iterable[str], *, modifiers: tuple[str, ...], relations: bool
) -> dict[TaskCell, DocumentCounts]:
    """Counts of the rule linker on the cohort's gold mentions; none where links are unknown."""
    annotated = Annotated(cohort.labels, modifiers, relations)
    linked = [link_by_rule(document.only_labels(annotated.labels)) for document in cohort.documents]
    return {
        (None, cohort.name, preset, figure): counts
        for preset in presets
        for figure, counts in count_modifiers_and_links(
            cohort.documents, {"rules": linked}, find_preset(preset), annotated, RULES_ON_GOLD.given
        ).items()
    }


def scores_json(
    config: StudyConfig,
    arms: Sequence[Arm],
    cohorts: Sequence[Cohort],
    counts: Mapping[Cell, DocumentCounts],
    header: Mapping[str, Any],
    task_counts: Mapping[TaskCell, DocumentCounts] | None = None,
) -> dict[str, Any]:
    """What `scores.json` holds: every cell, the means by setting, and the paired differences.

    Intervals resample documents within each cohort, with the same draws for every arm and every
    figure, so that differences are paired. What is known of modifiers and links has keys of its
    own, `task_...`, which a study of entities alone does not have.
    """
    cells: dict[TaskCell, DocumentCounts] = {
        (*cell, END_TO_END_ENTITIES): found for cell, found in counts.items()
    }
    table = _Table(config, arms, cohorts, cells | dict(task_counts or {}))
    tasks = [figure for figure in FIGURES[1:] if table.knows(figure)]
    own = [figure for figure in tasks if figure.linker != "rules"]
    scores = {
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
        "results": table.results(END_TO_END_ENTITIES),
        "summary": table.summary(END_TO_END_ENTITIES),
        "comparisons": table.comparisons(END_TO_END_ENTITIES),
    }
    if tasks:
        scores |= {
            "task_results": [_named(f, row) for f in tasks for row in table.results(f)],
            "task_summary": [_named(f, row) for f in tasks for row in table.summary(f)],
            "task_comparisons": [
                *(_named(f, row) for f in own for row in table.comparisons(f)),
                *(_named(f, row) for f in own for row in table.linker_comparisons(f)),
            ],
        }
    return scores


def _named(figure: Figure, row: dict[str, Any]) -> dict[str, Any]:
    return figure.to_json() | row


class _Table:
    """Counts with their bootstrap draws, each computed once."""

    def __init__(
        self,
        config: StudyConfig,
        arms: Sequence[Arm],
        cohorts: Sequence[Cohort],
        counts: Mapping[TaskCell, DocumentCounts],
    ) -> None:
        self._config = config
        self._arms = arms
        self._cohorts = cohorts
        self._counts = counts
        self._estimates: dict[TaskCell, Estimate] = {}
        for cohort in cohorts:
            self._estimates |= self._drawn([cell for cell in counts if cell[1] == cohort.name])

    def _drawn(self, cells: list[TaskCell]) -> dict[TaskCell, Estimate]:
        """The estimates of cells of one cohort, all from the same draws of its documents."""
        if not cells:
            return {}
        counts = np.stack([self._counts[cell].matrix() for cell in cells])
        seed = derive_seed(self._config.seed, "bootstrap", cells[0][1])
        draws = bootstrap_f1(counts, num_draws=self._config.evaluation.draws, seed=seed)
        values = f1_of(counts.sum(axis=1))
        return {cell: Estimate(float(values[i]), draws[i]) for i, cell in enumerate(cells)}

    def knows(self, figure: Figure) -> bool:
        """Whether there is anything to say about the figure."""
        return any(cell[3] == figure for cell in self._counts)

    def results(self, figure: Figure) -> list[dict[str, Any]]:
        found = []
        for cell, counts in self._counts.items():
            arm, cohort, preset, own = cell
            if own != figure:
                continue
            micro = counts.total().to_json() | {"f1_ci95": list(self._estimates[cell].ci95)}
            labels = {label: counts.total_of(label).to_json() for label in counts.labels}
            block = {"micro": micro, "macro_f1": counts.macro_f1, "labels": labels}
            found.append({"arm": arm, "cohort": cohort, "preset": preset, "scores": block})
        return found

    def _cohorts_of(self, setting: str, figure: Figure) -> list[str]:
        """The cohorts of the setting whose annotations allow the figure."""
        known = {cell[1] for cell in self._counts if cell[3] == figure}
        return [
            cohort.name
            for cohort in self._cohorts
            if cohort.setting == setting and (figure == END_TO_END_ENTITIES or cohort.name in known)
        ]

    def _mean(self, arm: str | None, setting: str, preset: str, figure: Figure) -> Estimate | None:
        """The mean F1 over the setting's cohorts, if the arm was tested on all of them."""
        names = self._cohorts_of(setting, figure)
        cells = [self._estimates.get((arm, name, preset, figure)) for name in names]
        known = [cell for cell in cells if cell is not None]
        return mean_of(known) if names and len(known) == len(names) else None

    def _single_mean(self, setting: str, preset: str, figure: Figure) -> Estimate | None:
        """The mean of the single-site models; in-domain, each site's model on its own notes."""
        tested = {cell[0] for cell in self._counts if cell[3] == figure}
        singles = [a for a in self._arms if a.condition == "single-site" and a.name in tested]
        if setting == "in-domain":
            names = self._cohorts_of(setting, figure)
            singles = [arm for arm in singles if arm.sites[0] in names]
            cells = [self._estimates.get((a.name, a.sites[0], preset, figure)) for a in singles]
        else:
            cells = [self._mean(arm.name, setting, preset, figure) for arm in singles]
        known = [cell for cell in cells if cell is not None]
        return mean_of(known) if known and len(known) == len(singles) else None

    def _rows(self, setting: str, preset: str, figure: Figure) -> dict[str | None, Estimate]:
        rows: dict[str | None, Estimate] = {}
        for arm in (*(arm.name for arm in self._arms), None):
            mean = self._mean(arm, setting, preset, figure)
            if mean is not None:
                rows[arm] = mean
        single = self._single_mean(setting, preset, figure)
        if single is not None:
            rows[SINGLE_MEAN] = single
        return rows

    def summary(self, figure: Figure) -> list[dict[str, Any]]:
        return [
            {
                "arm": arm,
                "setting": setting,
                "preset": preset,
                "macro_f1": estimate.value,
                "ci95": list(estimate.ci95),
                "cohorts": self._cohorts_of(setting, figure),
            }
            for setting, preset in self._views()
            for arm, estimate in self._rows(setting, preset, figure).items()
        ]

    def comparisons(self, figure: Figure) -> list[dict[str, Any]]:
        """Every federated arm against the start, those without federation, and the others."""
        start = [arm.name for arm in self._arms if arm.condition == "start"]
        federated = [arm.name for arm in self._arms if arm.condition == "federated"]
        found = []
        for setting, preset in self._views():
            rows = self._rows(setting, preset, figure)
            others = ["zero-shot", *start, SINGLE_MEAN, "centralized", *federated]
            for index, arm in enumerate(federated):
                for against in others:
                    later = against in federated and federated.index(against) <= index
                    if arm not in rows or against not in rows or later:
                        continue
                    names = {"setting": setting, "preset": preset, "arm": arm, "against": against}
                    found.append(names | _difference(rows[arm], rows[against]))
        return found

    def linker_comparisons(self, figure: Figure) -> list[dict[str, Any]]:
        """Every arm's own links against those by rule between the same mentions."""
        if figure.linker is None:
            return []
        by_rule = Figure(figure.task, figure.given, "rules")
        found = []
        for setting, preset in self._views():
            rows = self._rows(setting, preset, by_rule)
            for arm, estimate in self._rows(setting, preset, figure).items():
                names = {"setting": setting, "preset": preset, "arm": arm, "against": arm}
                against = {"against_linker": by_rule.linker}
                found.append(names | against | _difference(estimate, rows[arm]))
        return found

    def _views(self) -> list[tuple[str, str]]:
        return list(product(SETTINGS, self._config.evaluation.presets))


def _difference(first: Estimate, second: Estimate) -> dict[str, Any]:
    difference = paired_difference(first, second)
    return {"difference": difference.value, "ci95": list(difference.ci95)}
