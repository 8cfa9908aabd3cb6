"""How much work a study is, and how long the rest of it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedmedlora.study.conditions import num_passes, tested_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer, RoundRecord
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort, StudyNotes
    from fedmedlora.study.prepare import Prepared


def training_tokens(prepared: Prepared, arms: Sequence[Arm]) -> dict[str, list[float]]:
    """Tokens that are trained on, by arm and round.

    A client's first round of the same tasks is the same in all arms; it is counted in the first.
    """
    later_rounds = prepared.config.federation.rounds - 1
    done: set[tuple[str, tuple[Task, ...]]] = set()
    tokens: dict[str, list[float]] = {}
    for arm in arms:
        work = arm.client_tasks.items()
        amounts = {part: prepared.round_tokens(*part) for part in work}
        first = sum(amount for part, amount in amounts.items() if part not in done)
        tokens[arm.name] = [first, *[sum(amounts.values())] * later_rounds] if amounts else []
        done.update(work)
    return tokens


def extraction_characters(config: StudyConfig, notes: StudyNotes, arms: Sequence[Arm]) -> int:
    """Characters that the arms' models read: of each note, once a pass over it."""
    return sum(
        num_passes(arm, cohort) * cohort.num_characters
        for arm in arms
        for cohort in notes.cohorts
        if tested_on(arm, cohort, config)
    )


class TimeLeft:
    """Learns the speed of both kinds of work and tells how long the rest will take."""

    def __init__(self, prepared: Prepared, arms: Sequence[Arm], observer: Observer) -> None:
        self._observer = observer
        self.tokens_by_round = training_tokens(prepared, arms)
        self._todo = {
            "training": sum(sum(rounds) for rounds in self.tokens_by_round.values()),
            "extraction": float(extraction_characters(prepared.config, prepared.notes, arms)),
        }
        self._done = {"training": 0.0, "extraction": 0.0}
        self._seconds = {"training": 0.0, "extraction": 0.0}

    def phrase(self) -> str:
        """`, about 12 min left` once the speed of all kinds of work left is known; else nothing."""
        kinds = [kind for kind, amount in self._todo.items() if amount >= 1]
        if not all(self._done[kind] for kind in kinds):
            return ""
        left = sum(self._todo[kind] * self._seconds[kind] / self._done[kind] for kind in kinds)
        return f", about {max(1, round(left / 60))} min left"

    def training(self, title: str, total: float) -> Meter:
        """The observer of one arm's training, counted in tokens."""
        return Meter(self, "training", 1.0, self._observer, title, total, "tokens")

    def extraction(self, arm: Arm, cohorts: Sequence[Cohort]) -> Meter:
        """The observer of one arm's extraction, counted in notes, once a pass over them."""
        notes = sum(num_passes(arm, cohort) * len(cohort.documents) for cohort in cohorts)
        characters = sum(num_passes(arm, cohort) * cohort.num_characters for cohort in cohorts)
        scale = characters / notes if notes else 0.0
        title = f"{arm.name}: extraction"
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

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """`amount` more units are done."""
        now = time.perf_counter()
        self._parent.spend(self._kind, amount * self._scale, now - self._last)
        self._last = now
        self._observer.advance(amount, worked=worked, **figures)

    def skip(self, amount: float, planned: float) -> None:
        """`amount` units were done before; the plan held `planned` of them as work to do."""
        if amount:
            self._last = time.perf_counter()
            self._parent.drop(self._kind, planned * self._scale)
            self._observer.advance(amount, worked=False)

    def message(self, text: str) -> None:
        """Passed on."""
        self._observer.message(text)

    def round_ended(self, record: RoundRecord) -> None:
        """Passed on."""
        self._observer.round_ended(record)
