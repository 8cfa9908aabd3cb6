"""How much work a study is, and how long the rest of it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedmedlora.study.conditions import tested_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.records import Observer, RoundRecord
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort, StudyNotes
    from fedmedlora.study.prepare import Prepared


def training_tokens(prepared: Prepared, arms: Sequence[Arm]) -> float:
    """Tokens that the arms train on, work that is shared between arms counted once."""
    rounds = prepared.config.federation.rounds
    first_done: set[str] = set()
    total = 0.0
    for arm in arms:
        for site in arm.sites:
            total += prepared.round_tokens(site) * (rounds - (site in first_done))
            first_done.add(site)
    return total


def extraction_characters(config: StudyConfig, notes: StudyNotes, arms: Sequence[Arm]) -> int:
    """Characters of the notes that the arms are tested on."""
    return sum(c.num_characters for arm in arms for c in notes.cohorts if tested_on(arm, c, config))


class TimeLeft:
    """Learns the speed of both kinds of work and tells how long the rest will take."""

    def __init__(self, prepared: Prepared, arms: Sequence[Arm], observer: Observer) -> None:
        self._observer = observer
        self._todo = {
            "training": training_tokens(prepared, arms),
            "extraction": float(extraction_characters(prepared.config, prepared.notes, arms)),
        }
        self._done = {"training": 0.0, "extraction": 0.0}
        self._seconds = {"training": 0.0, "extraction": 0.0}

    def phrase(self) -> str:
        """`, about 12 min left`, as soon as both speeds are known; else nothing."""
        if not all(self._done.values()):
            return ""
        left = sum(
            max(0.0, self._todo[kind]) * self._seconds[kind] / self._done[kind]
            for kind in self._todo
        )
        return f", about {max(1, round(left / 60))} min left"

    def training(self, title: str, total: float) -> Meter:
        """The observer of one arm's training, counted in tokens."""
        return Meter(self, "training", 1.0, self._observer, title, total, "tokens")

    def extraction(self, title: str, cohorts: Sequence[Cohort]) -> Meter:
        """The observer of one arm's extraction, counted in notes."""
        notes = sum(len(cohort.documents) for cohort in cohorts)
        characters = sum(cohort.num_characters for cohort in cohorts)
        scale = characters / notes if notes else 0.0
        return Meter(self, "extraction", scale, self._observer, title, notes, "notes")

    def spend(self, kind: str, amount: float, seconds: float) -> None:
        """Work of this kind was done in so many seconds."""
        self._done[kind] += amount
        self._seconds[kind] += seconds
        self._todo[kind] -= amount

    def drop(self, kind: str, amount: float) -> None:
        """Work of this kind was found done."""
        self._todo[kind] -= amount


class Meter:
    """Passes one stage's progress on, and its speed to `TimeLeft`."""

    def __init__(
        self,
        parent: TimeLeft,
        kind: str,
        scale: float,
        observer: Observer,
        title: str,
        total: float,
        unit: str,
    ) -> None:
        self._parent = parent
        self._kind = kind
        self._scale = scale
        self._observer = observer
        self._last = time.perf_counter()
        if total:
            observer.stage(title, total, unit)

    def stage(self, title: str, total: float, unit: str) -> None:
        """A stage within this one is not shown."""

    def advance(self, amount: float, **figures: float) -> None:
        """`amount` more units are done."""
        now = time.perf_counter()
        self._parent.spend(self._kind, amount * self._scale, now - self._last)
        self._last = now
        self._observer.advance(amount, **figures)

    def skip(self, amount: float) -> None:
        """`amount` units were done before."""
        if amount:
            self._last = time.perf_counter()
            self._parent.drop(self._kind, amount * self._scale)
            self._observer.advance(amount)

    def message(self, text: str) -> None:
        """Passed on."""
        self._observer.message(text)

    def round_ended(self, record: RoundRecord) -> None:
        """Passed on."""
        self._observer.round_ended(record)
