"""How long the rest of a study will take: by what was measured at its start, and by its work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedmedlora.study.conditions import num_passes
from fedmedlora.study.plan import planned_work, training_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmedlora.core.records import Observer, RoundRecord
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.data import Cohort
    from fedmedlora.study.machine_speed import MachineSpeed
    from fedmedlora.study.plan import Kind, Planned

# What was measured at the start counts as much as so many seconds of work.
_TRUST_SECONDS = 15.0


class TimeLeft:
    """Learns the speed of each kind of work and tells how long the rest will take.

    Besides training and extraction there is what comes between them: adapters merged, opening tags
    calibrated, scores taken. Every second since the start belongs to one of the three.

    Args:
        prepared: The study.
        arms: Its arms.
        observer: Told of progress, and of the time left.
        speed: What was measured at the start. None: nothing is told before it was seen.
    """

    def __init__(
        self,
        prepared: Planned,
        arms: Sequence[Arm],
        observer: Observer,
        speed: MachineSpeed | None = None,
    ) -> None:
        self.observer = observer
        self.tokens_by_round = training_tokens(prepared, arms)
        work = planned_work(prepared, arms, speed)
        self._todo: dict[Kind, float] = work.amounts()
        self._done: dict[Kind, float] = dict.fromkeys(self._todo, 0.0)
        self._seconds: dict[Kind, float] = dict.fromkeys(self._todo, 0.0)
        self._expected: Mapping[Kind, float] = work.seconds_a_unit(speed) if speed else {}
        self._between = work.between_by_arm
        self._scale = {arm.name: 1 / speed.factor(len(arm.sites)) if speed else 1.0 for arm in arms}
        self._untrained = work.untrained_weight
        self._end = work.at_end
        self._arm: str | None = None
        self._worked = False
        self._paused = 0.0
        self._last = time.perf_counter()

    def starts(self, arm: Arm) -> None:
        """The arm before is done, this one begins."""
        self.pause()
        if self._arm is not None:
            units = self._between.get(self._arm, 0.0)
            self._todo["between"] -= units
            if self._worked:
                self._done["between"] += units
                self._seconds["between"] += self._paused
        self._arm, self._worked, self._paused = arm.name, False, 0.0

    def seconds(self, kind: Kind, amount: float) -> float | None:
        """How long so much work will take; None if there is nothing to tell it by."""
        done, spent = self._done[kind], self._seconds[kind]
        if kind in self._expected:
            trusted = _TRUST_SECONDS / (self._expected[kind] * self._slowness())
            return amount * (_TRUST_SECONDS + spent) / (trusted + done)
        if done:
            return amount * spent / done
        return 0.0 if kind == "between" or amount < 1 else None

    def _slowness(self) -> float:
        """How many times as long as expected the work so far has taken, whatever it was.

        Others may have come or gone since the start; that meets the kinds of work that are to come.
        """
        if not self._expected:
            return 1.0
        kinds: tuple[Kind, ...] = ("training", "extraction")
        spent = sum(self._seconds[kind] for kind in kinds)
        expected = sum(self._done[kind] * self._expected[kind] for kind in kinds)
        return (_TRUST_SECONDS + spent) / (_TRUST_SECONDS + expected)

    def all_seconds(self) -> float | None:
        """Of all work left; None as long as the speed of some of it is unknown."""
        parts = [self.seconds(kind, max(0.0, todo)) for kind, todo in self._todo.items()]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        end = self._end * self._expected.get("between", 0.0) * self._slowness()
        return sum(known) + end

    def phrase(self) -> str:
        """`, about 12 min left`, as far as that is known; else nothing."""
        left = self.all_seconds()
        return "" if left is None else f", about {max(1, round(left / 60))} min left"

    def training(self, arm: Arm, total: float) -> Meter:
        """The observer of one arm's training, counted in tokens."""
        scale = self._scale.get(arm.name, 1.0)
        return Meter(self, "training", scale, f"{arm.name}: training", total, "tokens")

    def extraction(self, arm: Arm, cohorts: Sequence[Cohort]) -> Meter:
        """The observer of one arm's extraction, counted in notes, once a pass over them."""
        notes = sum(num_passes(arm, cohort) * len(cohort.documents) for cohort in cohorts)
        characters = sum(num_passes(arm, cohort) * cohort.num_characters for cohort in cohorts)
        weight = self._untrained if arm.condition == "zero-shot" else 1.0
        scale = weight * characters / notes if notes else 0.0
        title = f"{arm.name}: extraction"
        return Meter(self, "extraction", scale, title, notes, "notes", character_weight=weight)

    def spend(self, kind: Kind, amount: float) -> None:
        """Work of this kind was done since the last time that any was."""
        now = time.perf_counter()
        self._seconds[kind] += now - self._last
        self._last = now
        self._done[kind] += amount
        self._todo[kind] -= amount
        self._worked = self._worked or amount > 0

    def pause(self) -> None:
        """What was done since the last work is neither training nor extraction."""
        now = time.perf_counter()
        self._paused += now - self._last
        self._last = now

    def drop(self, kind: Kind, amount: float) -> None:
        """Work of this kind was found done; that took no time worth counting."""
        self._last = time.perf_counter()
        self._todo[kind] -= amount


class Meter:
    """Passes one stage's progress on, and its speed to `TimeLeft`."""

    def __init__(
        self,
        parent: TimeLeft,
        kind: Kind,
        scale: float,
        title: str,
        total: float,
        unit: str,
        character_weight: float = 0.0,
    ) -> None:
        self._parent = parent
        self._kind = kind
        self._scale = scale
        self._left = total
        self._character_weight = character_weight
        self._reads = False
        self._observer = parent.observer
        parent.pause()
        if total:
            self._observer.stage(title, total, unit)
            self._tell()

    def stage(self, title: str, total: float, unit: str) -> None:
        """A stage within this one is not shown."""

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """`amount` more units are done; what of them was told as read has been counted by then."""
        if not self._reads:
            self._work(amount)
        self._tell()
        self._observer.advance(amount, worked=worked, **figures)

    def read(self, num_characters: int) -> None:
        """Notes differ in length and end late: their characters tell how far the work is."""
        self._reads = True
        if self._scale:
            self._work(num_characters * self._character_weight / self._scale)
        self._tell()

    def _work(self, amount: float) -> None:
        self._left -= amount
        self._parent.spend(self._kind, amount * self._scale)

    def skip(self, amount: float, planned: float) -> None:
        """`amount` units were done before; the plan held `planned` of them as work to do."""
        if amount:
            self._left -= amount
            self._parent.drop(self._kind, planned * self._scale)
            self._tell()
            self._observer.advance(amount, worked=False)

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        """Estimates within this stage are not shown."""

    def message(self, text: str) -> None:
        """Passed on; what it tells of is no training and no extraction."""
        self._parent.pause()
        self._observer.message(text)

    def round_ended(self, record: RoundRecord) -> None:
        """Passed on; a round's end is part of training."""
        self._parent.spend(self._kind, 0.0)
        self._observer.round_ended(record)

    def _tell(self) -> None:
        stage = self._parent.seconds(self._kind, max(0.0, self._left) * self._scale)
        everything = self._parent.all_seconds()
        if stage is not None and everything is not None:
            self._observer.expect(stage, max(stage, everything))
