"""Progress on stderr: a bar with the time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from types import TracebackType

    from fedmedlora.core.records import RoundRecord

SECONDS_BETWEEN_LINES = 20.0


class ConsoleObserver:
    """Shows what the library tells. Use it as a context manager, so that the bar is closed."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title, self._total, self._unit = "", 0.0, ""
        self._done = self._worked = 0.0
        self._expected: tuple[float, float] | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> ConsoleObserver:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_stage()
        self._bar.stop()

    def stage(self, title: str, total: float, unit: str) -> None:
        """A stage starts; the one before is closed with a line. A total of 0 is an unknown one."""
        self._end_stage()
        self._title, self._total, self._unit = title, total, unit
        self._done = self._worked = 0.0
        self._expected = None
        self._started = self._said = time.monotonic()
        self._task = self._bar.add_task(
            title, total=round(total) or None, unit=unit, left="", rate="", figures=""
        )

    def read(self, num_characters: int) -> None:
        """Not shown: notes are counted when they are done."""

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        """How long the stage and everything will yet take; shown from now on."""
        self._expected = (stage_seconds, all_seconds)
        if self._task is not None:
            self._bar.update(self._task, left=self._left(0.0))

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """More is done."""
        if self._task is None:
            return
        self._done += amount
        self._worked += amount if worked else 0.0
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        now = time.monotonic()
        seconds = now - self._started
        rate = self._rate(seconds)
        left = self._left(seconds)
        self._bar.update(
            self._task, completed=round(self._done), left=left, rate=rate, figures=shown
        )
        if not self._console.is_terminal and now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            state = " ".join(filter(None, [self._state(seconds), rate]))
            self._say(f"  {self._title}: {state}  {shown}".rstrip())

    def _state(self, seconds: float) -> str:
        if not self._total:
            return f"{self._done:,.0f} {self._unit}"
        share = f"{min(1.0, self._done / self._total):.0%}"
        return ", ".join(filter(None, [share, self._left(seconds)]))

    def _left(self, seconds: float) -> str:
        """What was told to expect, else by the speed so far; nothing if that is unknown."""
        if self._expected is not None:
            stage, everything = self._expected
            return f"{_span(stage)} left, {_span(everything)} of all"
        if not self._worked or not self._total:
            return ""
        return f"{_span(max(0.0, self._total - self._done) * seconds / self._worked)} left"

    def _rate(self, seconds: float) -> str:
        """Of what was worked for; nothing as long as there is nothing to tell it by."""
        if seconds < 1 or not self._worked:
            return ""
        rate = self._worked / seconds
        if rate < 1:
            taken = f"{1 / rate:.1f}" if rate > 0.1 else f"{1 / rate:,.0f}"
            return f"({taken} s a {self._unit.removesuffix('s')})"
        return f"({rate:,.1f} {self._unit}/s)"

    def message(self, text: str) -> None:
        """A line, after that of a stage that is complete."""
        if self._task is not None and 0 < self._total <= self._done:
            self._end_stage()
        self._say(text)

    def round_ended(self, record: RoundRecord) -> None:
        """One line a round."""
        losses = record.train_loss.values()
        loss = f"{sum(losses) / len(losses):.3f}" if losses else "unknown"
        weights = " ".join(f"{site} {weight:.3f}" for site, weight in record.weights.items())
        shared = f"; weights {weights}" if len(record.weights) > 1 else ""
        self._say(f"  round {record.round_index}: training loss {loss}{shared}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def _end_stage(self) -> None:
        if self._task is None:
            return
        self._bar.remove_task(self._task)
        self._task = None
        seconds = time.monotonic() - self._started
        found = self._done - self._worked
        known = f", {found:,.0f} of them done before," if found else ""
        unit = self._unit.removesuffix("s") if round(self._done) == 1 else self._unit
        line = f"  {self._title}: {self._done:,.0f} {unit}{known} in {_span(seconds)}"
        self._say(f"{line} {self._rate(seconds)}".rstrip())


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
