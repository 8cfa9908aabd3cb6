"""What a strategy is: which plan each site gets, and how the sites' updates become one adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Set

    from numpy.typing import NDArray

    from fedmedlora.adapters.exchange import LocalPlan, Reply, Request, SiteUpdate, Train
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task

LossKind = Literal["completion", "sequence"]

Merge = Literal["factor", "product"]
"""Whether the sites' factors are averaged, or their products `B A`."""

LINKS = "<links>"
"""Stands among the modifier labels of a site that annotated what modifiers belong to."""

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

    @property
    def fewest_notes(self) -> int:
        """Notes of the task that has the fewest."""
        return min((losses.size for losses in self.completion.values()), default=0)

    def half(self, which: int) -> NoteLosses:
        """The losses of every second note of each task: the first, third, ... (0) or the others."""
        return NoteLosses(
            {task: losses[which::2] for task, losses in self.completion.items()},
            {task: losses[which::2] for task, losses in self.sequence.items()},
        )


class Scorer(Protocol):
    """The server's validation notes, behind a few questions. Absent where a server has no notes.

    `reference` and `paper` ask for `loss` only.
    """

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The adapter's loss by note and task."""

    def weight_gradient(
        self, adapters: Mapping[str, AdapterState], weights: Mapping[str, float], merge: Merge
    ) -> dict[str, float]:
        """The slope of the merged adapter's mean loss along each site's weight.

        The weights are taken as free numbers: nothing holds their sum at 1.
        """

    def labels_of(self, site: str, task: Task) -> frozenset[str] | None:
        """What the site annotates for a task: entity labels, or modifier labels and `LINKS`.

        None if nobody said.
        """

    def asking(self, task: Task, labels: Set[str]) -> Scorer | None:
        """The notes of a task, asked for no other labels than these; None if none are left to ask.

        A note that has none of these labels keeps its place and has the loss NaN. Without `LINKS`,
        modifiers are asked for, and not what they belong to. The scorer itself, with all its tasks,
        if the notes of this one ask for nothing else anyway.
        """

    def half(self, which: int) -> Scorer:
        """Every second note of each task, as `NoteLosses.half` parts them."""

    def drawn(self, num_notes: int, seed: int) -> Scorer:
        """So many notes of each task, drawn by seed; the scorer itself if it has no more."""


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
