"""Whether new weights may replace those of `reference`, and the merged adapter the one before.

Weights that were fitted to notes look good on these notes. So they are fitted on one half and
scored on the other, and the reverse; they are accepted if they win by more than noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.aggregation.validation import Difference, joined, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Scorer

Weights = dict[str, float]

WIN_ERRORS = 1.645
"""Standard errors that a challenger must win by: 5 % of the draws of pure noise do."""

HARM_ERRORS = 2.0
"""Standard errors by which an adapter must be worse than the one before to be turned away."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something was accepted, and what was measured for it, if that was needed."""

    accepted: bool
    difference: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        measured = self.difference.to_json() if self.difference is not None else {}
        return {"accepted": self.accepted, **measured}


def cross_fitted(
    scorer: Scorer,
    fitted: tuple[Mapping[str, float], Mapping[str, float]],
    incumbents: tuple[Mapping[str, float], Mapping[str, float]],
    merged: Callable[[Mapping[str, float]], AdapterState],
) -> Verdict:
    """Whether challengers beat the incumbents on notes that they were not fitted on.

    Args:
        scorer: All notes.
        fitted: The challengers, fitted on the first and on the second half of the notes.
        incumbents: The same for the rule that stands until it is beaten.
        merged: The adapter that weights give.
    """
    pairs = list(zip(fitted, incumbents, strict=True))
    if all(_close(challenger, incumbent) for challenger, incumbent in pairs):
        return Verdict(accepted=True)
    after, before = [], []
    for half, (challenger, incumbent) in enumerate(pairs):
        others = scorer.half(1 - half)
        after.append(others.loss(merged(challenger)))
        before.append(others.loss(merged(incumbent)))
    difference = paired(joined(after), joined(before))
    return Verdict(difference.is_gain(WIN_ERRORS), difference)


def _close(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether no weight differs by a thousandth."""
    return all(abs(one[site] - other[site]) < 1e-3 for site in one)
