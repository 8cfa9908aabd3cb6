"""What a run writes down: one record a round, one a run; and how progress is announced."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round of one arm: who took part, with which weight, at which loss, at what cost.

    Attributes:
        arm: The arm of the study, e.g. `fedavg` or `single-site/north`.
        round_index: 1..R.
        sites: Sites whose update was merged, in name order.
        failed: Code by site for those that did not answer or were refused; never a text.
        weights: Aggregation weight by site.
        train_loss: Mean loss a completion token over the round's local training, by site.
        validation_loss: Loss of the adapter that the site *received*, on its own held-out notes.
        num_examples: Training examples seen in the round, by site.
        num_completion_tokens: Supervised tokens of the site's training split, by site.
        update_norms: Frobenius norm of the change of the factors, by site; not of one that sends
            another rank than it received.
        bytes_up: Bytes that left each site.
        bytes_down: Bytes that each site received.
        site_seconds: Local training time by site. A time field: excluded from comparisons.
        elapsed_seconds: The whole round. A time field: excluded from comparisons.
        tasks: By site and task: both losses, `num_examples` and `num_completion_tokens`; where a
            site trains one task, the same as above.
        notes: The strategy's own record (losses, temperatures, flags).
    """

    arm: str
    round_index: int
    sites: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    train_loss: Mapping[str, float] = field(default_factory=dict)
    validation_loss: Mapping[str, float] = field(default_factory=dict)
    num_examples: Mapping[str, int] = field(default_factory=dict)
    num_completion_tokens: Mapping[str, int] = field(default_factory=dict)
    update_norms: Mapping[str, float] = field(default_factory=dict)
    bytes_up: Mapping[str, int] = field(default_factory=dict)
    bytes_down: Mapping[str, int] = field(default_factory=dict)
    site_seconds: Mapping[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    tasks: Mapping[str, Mapping[str, Mapping[str, float | int | None]]] = field(
        default_factory=dict
    )
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line of `rounds.jsonl`."""
        return asdict(self) | {"sites": list(self.sites)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RoundRecord:
        """The record that `to_json` wrote."""
        return cls(**{**data, "sites": tuple(data["sites"])})


class Observer(Protocol):
    """Who is told how far the work is. The library never prints; the CLI's console does."""

    def stage(self, title: str, total: float, unit: str) -> None:
        """A stage starts that will take `total` units; it replaces the stage before."""

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """`amount` more units are done; `figures` are shown beside the bar (loss, notes/s).

        What was found done, not `worked` for, says nothing about the speed.
        """

    def read(self, num_characters: int) -> None:
        """So many characters of notes were answered; a note is done only with its last window."""

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        """How long the stage and everything that is to be done will yet take, as far as is known.

        Told again and again; whoever is never told estimates a stage by its speed.
        """

    def message(self, text: str) -> None:
        """Something worth a line; never note text."""

    def round_ended(self, record: RoundRecord) -> None:
        """A round was merged and saved."""


class SilentObserver:
    """An observer that shows nothing."""

    def stage(self, title: str, total: float, unit: str) -> None:
        """Nothing."""

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        """Nothing."""

    def read(self, num_characters: int) -> None:
        """Nothing."""

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def round_ended(self, record: RoundRecord) -> None:
        """Nothing."""
