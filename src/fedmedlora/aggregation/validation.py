"""Site adapters on the server's notes: who is better than whom, and how sure that is.

A site is judged on what it annotates only. Sites with the same labels are asked the same; a site
with fewer is compared with the others where all are asked for its labels alone, and a site without
a task is not asked for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.aggregation.strategy import NoteLosses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from numpy.typing import NDArray

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Scorer
    from fedmedlora.core.example import Task


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences over notes; infinite standard error: fewer than two notes."""

    mean: float
    standard_error: float
    num_notes: int

    def is_gain(self, errors: float) -> bool:
        """Whether it is below 0 by more than so many standard errors; more of them for few notes.

        Nothing is, by less than two notes.
        """
        return self.mean < -_for_few(errors, self.num_notes) * self.standard_error

    def is_harm(self, errors: float) -> bool:
        """Whether it is above 0 by more than so many standard errors, or not a number."""
        if math.isinf(self.standard_error) and math.isfinite(self.mean):
            return False
        return not self.mean <= _for_few(errors, self.num_notes) * self.standard_error

    def to_json(self) -> dict[str, float]:
        """Plain values for a record."""
        return {
            "difference": self.mean,
            "standard_error": self.standard_error,
            "num_notes": self.num_notes,
        }


def difference_of(values: NDArray[np.float64]) -> Difference:
    """The mean of differences that were measured independently of each other."""
    if values.size == 0:
        return Difference(0.0, math.inf, 0)
    if values.size == 1:
        return Difference(float(values[0]), math.inf, 1)
    error = float(np.std(values, ddof=1)) / math.sqrt(values.size)
    return Difference(float(np.mean(values)), error, values.size)


def _for_few(errors: float, num_notes: int) -> float:
    """Normal standard errors as Student's, by the first terms of their expansion.

    An error that is itself estimated from a handful of notes is often far too small.
    """
    freedom = max(1, num_notes - 1)
    first = (errors**3 + errors) / 4
    second = (5 * errors**5 + 16 * errors**3 + 3 * errors) / 96
    return errors + first / freedom + second / freedom**2


def paired(after: NoteLosses, before: NoteLosses) -> Difference:
    """By how much the completion loss rises from `before` to `after`; every task counts alike."""
    tasks = sorted(after.completion)
    return _pooled([after.completion[task] - before.completion[task] for task in tasks])


def joined(parts: Iterable[NoteLosses]) -> NoteLosses:
    """The completion losses of all parts as those of one set of notes."""
    found = list(parts)
    tasks = sorted({task for part in found for task in part.completion})
    return NoteLosses(
        {
            task: np.concatenate(
                [part.completion[task] for part in found if task in part.completion]
            )
            for task in tasks
        }
    )


def _pooled(differences: list[NDArray[np.float64]]) -> Difference:
    """The mean over arrays of their means.

    Arrays may be of the same notes, whose errors go together; hence the errors are averaged, as if
    they always did, instead of summed in squares.
    """
    found = [difference_of(part) for part in differences]
    if not found:
        return Difference(0.0, math.inf, 0)
    return Difference(
        sum(part.mean for part in found) / len(found),
        sum(part.standard_error for part in found) / len(found),
        min(part.num_notes for part in found),
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the server's notes say about the sites.

    Attributes:
        losses: By site, the mean loss beyond that of the median site on the same notes.
        standard_errors: By site, of the difference to the best one; of that one 0.
        harmful: Sites whose adapter is worse than the one that they started from. That is told and
            not punished: adapters of small sites are often worse alone and better together.
    """

    losses: dict[str, float]
    standard_errors: dict[str, float]
    harmful: tuple[str, ...]

    @property
    def noise(self) -> float:
        """The median standard error of a difference between sites; infinite if there is none."""
        best = min(self.losses, key=lambda site: (self.losses[site], site), default=None)
        errors = [error for site, error in self.standard_errors.items() if site != best]
        return float(np.median(errors)) if errors else math.inf


_Cell = tuple[int, "Task"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Losses of site adapters, note by note.

    Attributes:
        plain: Of every site, on all notes as they were given.
        before: Of the adapter that the sites started from, likewise.
        by_site: Of every site, by group of labels and task: where it is compared.
        before_by_cell: Of the adapter that the sites started from, in the same cells.
    """

    plain: Mapping[str, NoteLosses]
    before: NoteLosses
    by_site: Mapping[str, Mapping[_Cell, NDArray[np.float64]]]
    before_by_cell: Mapping[_Cell, NDArray[np.float64]]

    def half(self, which: int) -> Measurement:
        """The measurement on every second note."""
        return Measurement(
            {site: losses.half(which) for site, losses in self.plain.items()},
            self.before.half(which),
            {
                site: {cell: losses[which::2] for cell, losses in cells.items()}
                for site, cells in self.by_site.items()
            },
            {cell: losses[which::2] for cell, losses in self.before_by_cell.items()},
        )

    def without(self, sites: Iterable[str]) -> Measurement:
        """The measurement of the other sites."""
        gone = set(sites)
        return Measurement(
            {site: losses for site, losses in self.plain.items() if site not in gone},
            self.before,
            {site: cells for site, cells in self.by_site.items() if site not in gone},
            self.before_by_cell,
        )

    def judge(self, errors: float) -> Judgement:
        """Losses, errors, and who is worse than before by more than so many standard errors.

        A site that was compared nowhere has no loss here.
        """
        beyond: dict[str, dict[_Cell, NDArray[np.float64]]] = {}
        for cell in self.before_by_cell:
            asked = ~np.isnan(self.before_by_cell[cell])
            found = {s: cells[cell][asked] for s, cells in self.by_site.items() if cell in cells}
            if not found or not asked.any():
                continue
            middle = np.median(np.stack(list(found.values())), axis=0)
            for site, losses in found.items():
                beyond.setdefault(site, {})[cell] = losses - middle
        means = {site: _mean_by_task(cells) for site, cells in sorted(beyond.items())}
        best = min(means, key=lambda site: (means[site], site), default="")
        standard_errors: dict[str, float] = {}
        for site in means:
            common = [cell for cell in beyond[site] if cell in beyond[best]]
            gaps = [beyond[site][cell] - beyond[best][cell] for cell in common]
            if site == best:
                standard_errors[site] = 0.0
            else:
                standard_errors[site] = _pooled(gaps or list(beyond[site].values())).standard_error
        harmful = tuple(
            site
            for site in means
            if _pooled(
                [
                    gaps[~np.isnan(gaps)]
                    for cell in beyond[site]
                    for gaps in [self.by_site[site][cell] - self.before_by_cell[cell]]
                ]
            ).is_harm(errors)
        )
        return Judgement(means, standard_errors, harmful)


def _mean_by_task(cells: Mapping[_Cell, NDArray[np.float64]]) -> float:
    """The mean over notes, then over groups of labels, then over tasks."""
    by_task: dict[Task, list[float]] = {}
    for (_, task), losses in cells.items():
        by_task.setdefault(task, []).append(float(np.mean(losses)))
    return sum(sum(means) / len(means) for means in by_task.values()) / len(by_task)


def measure(
    scorer: Scorer,
    adapters: Mapping[str, AdapterState],
    tasks: Mapping[str, Set[Task]],
    before: AdapterState,
) -> Measurement:
    """The losses of the sites' adapters, one adapter at a time.

    Args:
        scorer: The server's notes.
        adapters: By site.
        tasks: What each site was trained on.
        before: What the sites started from.
    """
    plain = {site: scorer.loss(adapters[site]) for site in sorted(adapters)}
    plain_before = scorer.loss(before)
    labels = {site: scorer.labels_of(site) for site in plain}
    groups = sorted({own for own in labels.values() if own is not None}, key=sorted)
    by_site: dict[str, dict[_Cell, NDArray[np.float64]]] = {site: {} for site in plain}
    before_by_cell: dict[_Cell, NDArray[np.float64]] = {}
    for number, group in enumerate(groups or [None]):
        asked = scorer if group is None else scorer.asking(group)
        if asked is None:
            continue
        same = asked is scorer
        members = [
            site for site, own in labels.items() if own is None or group is None or group <= own
        ]
        found = {site: plain[site] if same else asked.loss(adapters[site]) for site in members}
        of_before = plain_before if same else asked.loss(before)
        for task, losses in of_before.completion.items():
            before_by_cell[number, task] = losses
            for site in members:
                if task in tasks[site]:
                    by_site[site][number, task] = found[site].completion[task]
    return Measurement(plain, plain_before, by_site, before_by_cell)
