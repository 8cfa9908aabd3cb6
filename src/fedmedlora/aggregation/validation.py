"""Site adapters on the server's notes: who is better than whom, and how sure that is.

A site is judged on what it annotates only, task by task: a site without a task is not asked for it,
and two sites are compared where the notes are asked for the labels that both annotate, and for what
modifiers belong to if both annotate that. With equal labels these are all; where one site has more
than the other, they are the other's; where each has some of its own, what they have in common:
`{problem, drug}` and `{problem, test}` meet on problems. Sites that share nothing are not compared.
`support.py` says which questions that takes.

The unit is the note. A note that is asked several questions counts once, with the mean of what it
says; tasks count alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.aggregation.strategy import NoteLosses
from fedmedlora.aggregation.support import annotates, shared_supports

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
        losses: By site, the mean loss beyond that of the median site on the same questions. A site
            that was compared with no other, or on fewer than two notes, has none.
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


_Cell = tuple["Task", int]
"""One question to all notes of a task."""

_Cells = dict[_Cell, "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Losses of site adapters, note by note.

    Attributes:
        plain: Of every site, on all notes as they were given.
        before: Of the adapter that the sites started from, likewise.
        by_site: Of every site, by the questions that it annotates the labels of.
        before_by_cell: Of the adapter that the sites started from, for every question; NaN where a
            note is not asked it.
    """

    plain: Mapping[str, NoteLosses]
    before: NoteLosses
    by_site: Mapping[str, Mapping[_Cell, NDArray[np.float64]]]
    before_by_cell: Mapping[_Cell, NDArray[np.float64]]

    @property
    def diverged(self) -> tuple[str, ...]:
        """Sites with a loss that is not finite where one was asked for."""
        return tuple(
            site
            for site, losses in self.plain.items()
            if not math.isfinite(losses.mean())
            or any(
                not np.isfinite(found[~np.isnan(self.before_by_cell[cell])]).all()
                for cell, found in self.by_site[site].items()
            )
        )

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
        """Losses, errors, and who is worse than before by more than so many standard errors."""
        beyond = self._beyond_the_median_site()
        values = {site: _by_task(cells) for site, cells in beyond.items()}
        means = {site: _pooled(parts).mean for site, parts in values.items() if parts}
        best = min(means, key=lambda site: (means[site], site), default="")
        standard_errors: dict[str, float] = {}
        for site in means:
            common = beyond[site].keys() & beyond[best].keys()
            gaps = {cell: beyond[site][cell] - beyond[best][cell] for cell in common}
            if site == best:
                standard_errors[site] = 0.0
            else:
                standard_errors[site] = _pooled(_by_task(gaps) or values[site]).standard_error
        harmful = tuple(
            site
            for site, cells in sorted(self.by_site.items())
            if _pooled(
                _by_task({c: losses - self.before_by_cell[c] for c, losses in cells.items()})
            ).is_harm(errors)
        )
        return Judgement(means, standard_errors, harmful)

    def _beyond_the_median_site(self) -> dict[str, _Cells]:
        """In every question to two sites or more, by how much each loses more than their median."""
        found: dict[str, _Cells] = {site: {} for site in sorted(self.by_site)}
        for cell, before in self.before_by_cell.items():
            asked = {site: cells[cell] for site, cells in self.by_site.items() if cell in cells}
            if len(asked) < 2:
                continue
            middle = np.median(np.stack(list(asked.values())), axis=0)
            middle[np.isnan(before)] = np.nan
            for site, losses in asked.items():
                found[site][cell] = losses - middle
        return found


def _by_task(cells: Mapping[_Cell, NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """By task, one number a note: the mean over the questions that it is asked.

    Notes that are asked none are left out, and tasks with fewer than two notes: of a single one
    nobody knows how far it is off.
    """
    found = []
    for task in sorted({task for task, _ in cells}):
        table = np.stack([cells[cell] for cell in sorted(cells) if cell[0] == task])
        asked = ~np.isnan(table)
        num_questions = asked.sum(axis=0)
        if (num_questions > 0).sum() >= 2:
            sums = np.where(asked, table, 0.0).sum(axis=0)
            found.append((sums / np.maximum(num_questions, 1))[num_questions > 0])
    return found


def measure(
    scorer: Scorer,
    adapters: Mapping[str, AdapterState],
    tasks: Mapping[str, Set[Task]],
    before: AdapterState,
) -> Measurement:
    """The losses of the sites' adapters, one adapter at a time.

    Sites that annotate alike cost one pass over the notes each, and a pass more for every other set
    of labels that they share with some site.

    Args:
        scorer: The server's notes.
        adapters: By site.
        tasks: What each site was trained on.
        before: What the sites started from.
    """
    plain = {site: scorer.loss(adapters[site]) for site in sorted(adapters)}
    plain_before = scorer.loss(before)
    by_site: dict[str, _Cells] = {site: {} for site in plain}
    before_by_cell: _Cells = {}
    for task in sorted(plain_before.completion):
        known = {site: scorer.labels_of(site, task) for site in plain if task in tasks[site]}
        for number, labels in enumerate(shared_supports(known.values())):
            asked = scorer if labels is None else scorer.asking(task, labels)
            if asked is None:
                continue
            same = asked is scorer
            of_before = plain_before if same else asked.loss(before)
            before_by_cell[task, number] = of_before.completion[task]
            for site, own in known.items():
                if annotates(own, labels):
                    losses = plain[site] if same else asked.loss(adapters[site])
                    by_site[site][task, number] = losses.completion[task]
    return Measurement(plain, plain_before, by_site, before_by_cell)
