"""Has the rounds of an arm noted while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmedlora.core.records import Observer, RoundRecord


class RoundWatcher:
    """Passes on what an arm tells, and has its rounds noted."""

    def __init__(self, observer: Observer, note_round: Callable[[RoundRecord], None]) -> None:
        self._observer = observer
        self._note_round = note_round

    def stage(self, title: str, total: float, unit: str) -> None:
        """Passed on."""
        self._observer.stage(title, total, unit)

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """Passed on."""
        self._observer.advance(amount, worked=worked, **figures)

    def read(self, num_characters: int) -> None:
        """Passed on."""
        self._observer.read(num_characters)

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        """Passed on."""
        self._observer.expect(stage_seconds, all_seconds)

    def message(self, text: str) -> None:
        """Passed on."""
        self._observer.message(text)

    def round_ended(self, record: RoundRecord) -> None:
        """Noted, then passed on."""
        self._note_round(record)
        self._observer.round_ended(record)
