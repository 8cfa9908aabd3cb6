"""What a strategy is: which plan each site gets, and how the sites' updates become one adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from fedmedlora.adapters.exchange import LocalPlan, Reply, Request, SiteUpdate, Train
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task

LossKind = Literal["completion", "sequence"]

# What a strategy remembers between rounds, by name: tensors, or what JSON can hold. Saved with the
# round, so that a resumed run goes on as if it had never stopped.
Memory = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NoteLosses:
    """Validation losses of one adapter: by task, one number a note, in the order of the notes.

    Attributes:
        completion: Mean loss a completion token of each note.
        sequence: Mean loss a token of each note, prompt included; empty if it was not measured.
    """

    completion: Mapping[Task, NDArray[np.float64]]
    sequence: Mapping[Task, NDArray[np.float64]] = field(default_factory=dict)

    def mean(self, kind: LossKind = "completion") -> float:
        """The mean over notes, then over tasks; every note of a task counts alike.

        Raises:
            AggregationError: This kind of loss was not measured, or a task has no notes.
        """
        by_task = self.completion if kind == "completion" else self.sequence
        if not by_task or any(losses.size == 0 for losses in by_task.values()):
            raise AggregationError(
                f"validation: the {kind} loss was measured on no notes. "
                "Give the server notes for every task, or choose the other validation_loss."
            )
        means = [float(np.mean(by_task[task], dtype=np.float64)) for task in sorted(by_task)]
        return sum(means) / len(means)


class Scorer(Protocol):
    """The server's validation notes, behind one question. Absent where a server has no notes."""

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The adapter's loss by note and task."""


@dataclass(frozen=True, slots=True)
class AggregationContext:
    """What a strategy may use beside the updates.

    Attributes:
        round_index: 1..R.
        adapter: The global adapter that the sites started from.
        memory: What the strategy remembered in the round before.
        seed: Seed of this round's aggregation.
        num_rounds: R, where the run knows its end.
        scorer: The server's validation notes, if it has any.
        call: Asks sites and returns their replies, if the runtime can.
    """

    round_index: int
    adapter: AdapterState
    memory: Memory = field(default_factory=dict)
    seed: int = 0
    scorer: Scorer | None = None
    call: Callable[[Mapping[str, Request]], Iterator[Reply]] | None = None
    num_rounds: int | None = None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round made of the updates.

    Attributes:
        adapter: The new global adapter.
        weights: Weight of every site that was merged, in name order, summing to 1.
        memory: What the strategy wants back in the next round: tensors, or what JSON can hold.
        record: The strategy's own figures for the round record; what JSON can hold.
        refused: Code by site for updates that were not merged.
    """

    adapter: AdapterState
    weights: Mapping[str, float]
    memory: Memory = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Strategy(Protocol):
    """One federated algorithm. Stateless: what it remembers travels in `memory`."""

    @property
    def needs_scorer(self) -> bool:
        """Whether `aggregate` cannot work without validation notes at the server."""

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,
    ) -> dict[str, Train]:
        """The request of every site; `plans` are the study's own, with round and seed in them."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """One adapter of all updates. Ignores their order and leaves them unchanged.

        Raises:
            AggregationError: No update can be merged.
        """
