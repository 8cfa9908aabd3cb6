"""What the modes of Fed-MedLoRA+ hand over: weights, and what speaks for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.aggregation.guard import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task

Mode = Literal["auto", "reference", "paper", "gibbs-auto", "learned", "cross-eval"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The site adapters to choose among.

    Attributes:
        adapters: By site.
        sizes: Of the sites' training splits.
        tasks: What each site was trained on.
        merged: The adapter that weights give.
    """

    adapters: Mapping[str, AdapterState]
    sizes: Mapping[str, int]
    tasks: Mapping[str, frozenset[Task]]
    merged: Callable[[Mapping[str, float]], AdapterState]


@dataclass(frozen=True, slots=True)
class Decision:
    """Weights after the guard; sites that are not named were refused.

    Attributes:
        weights: By site, summing to 1.
        guard: Whether the proposed weights were accepted; if not, these are the incumbent's.
        record: What was measured.
        refused: Code by site.
        harm: Whether an adapter may follow the one before, where that was not yet asked.
        harmless: The answer, where it was.
    """

    weights: dict[str, float]
    guard: Verdict
    record: dict[str, Any]
    refused: Mapping[str, str] = field(default_factory=dict)
    harm: Callable[[AdapterState], Verdict] | None = None
    harmless: Verdict = field(default_factory=lambda: Verdict(accepted=True))

    def may_follow(self, adapter: AdapterState) -> Verdict:
        """Whether the merged adapter is not worse than the one before, beyond noise."""
        return self.harm(adapter) if self.harm is not None else self.harmless
