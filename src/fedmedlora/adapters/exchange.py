"""All that crosses a site's wall: requests go down, replies come up. Nothing else does.

What is not a field here does not leave a site. Strings on the wire are identifiers, names of tasks
and codes of closed sets; a sentence of a note has no place to go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from fedmedlora.adapters.codec import BF16, CODECS, FP32
from fedmedlora.adapters.state import FACTORS, TORCH_DTYPES, AdapterSpec, AdapterState, Factor
from fedmedlora.adapters.wire import Fields, Wire, from_bytes, is_name, to_bytes, wire_names
from fedmedlora.core.errors import ExchangeError
from fedmedlora.core.example import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.adapters.codec import Codec

TASKS: tuple[Task, ...] = get_args(Task)

FailureCode = Literal[
    "error", "out-of-memory", "bad-request", "bad-reply", "wrong-site", "late", "lost"
]
FAILURE_CODES: tuple[FailureCode, ...] = get_args(FailureCode)

Extra = float | int | str | bool | torch.Tensor


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What one site shall do in one round. Strategies differ in this, not in the trainer.

    Attributes:
        round_index: 1..R.
        train_factors: Factors that are trained; the others stay as received.
        share_factors: Factors that travel back; see `AdapterState.only`.
        proximal_mu: Weight of the pull towards the received adapter (FedProx); 0 is none.
        learning_rate: Peak rate; None leaves the site's own.
        epochs: Passes over the site's training notes.
        steps: Optimiser steps, instead of `epochs`. Neither: the site's own length.
        tasks: Tasks to train on.
        seed: Seed of this site in this round.
        num_rounds: R, where the run knows its end; some strategies ask for more in the last round.
        extras: What a strategy declares beyond these: numbers, identifiers, tensors.

    Raises:
        ExchangeError: Both `epochs` and `steps` are given, or a value is out of its range.
    """

    round_index: int
    train_factors: frozenset[Factor] = FACTORS
    share_factors: frozenset[Factor] = FACTORS
    proximal_mu: float = 0.0
    learning_rate: float | None = None
    epochs: float | None = None
    steps: int | None = None
    tasks: tuple[Task, ...] = ("entities",)
    seed: int = 0
    num_rounds: int | None = None
    extras: Mapping[str, Extra] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ExchangeError(
                f"plan of round {self.round_index}: expected epochs or steps, got both."
            )
        for name in ("proximal_mu", "learning_rate", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ExchangeError(
                    f"plan of round {self.round_index}: expected {name} >= 0, got {value}."
                )
        if not self.tasks or not self.train_factors or not self.share_factors:
            raise ExchangeError(
                f"plan of round {self.round_index}: expected at least one task, one factor to "
                "train and one to share."
            )
        wire_names(f"plan of round {self.round_index}, extras", self.extras)

    def to_wire(self) -> Wire:
        """Plain values."""
        return {
            "round_index": self.round_index,
            "train_factors": sorted(self.train_factors),
            "share_factors": sorted(self.share_factors),
            "proximal_mu": self.proximal_mu,
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "steps": self.steps,
            "tasks": list(self.tasks),
            "seed": self.seed,
            "num_rounds": self.num_rounds,
            "extras": dict(self.extras),
        }

    @classmethod
    def from_wire(cls, wire: object) -> LocalPlan:
        """The plan that `to_wire` wrote.

        Raises:
            ExchangeError: It is not a plan.
        """
        fields = Fields(wire, "plan", cls.__dataclass_fields__)
        extras: dict[str, Extra] = {}
        for name, value in fields.mapping("extras").items():
            if not isinstance(value, float | int | str | bool | torch.Tensor):
                raise ExchangeError("plan.extras: expected numbers, strings and tensors.")
            extras[name] = value
        return cls(
            round_index=fields.integer("round_index"),
            train_factors=frozenset(fields.choices("train_factors", sorted(FACTORS))),
            share_factors=frozenset(fields.choices("share_factors", sorted(FACTORS))),
            proximal_mu=fields.number("proximal_mu"),
            learning_rate=fields.optional("learning_rate", fields.number),
            epochs=fields.optional("epochs", fields.number),
            steps=fields.optional("steps", fields.integer),
            tasks=fields.choices("tasks", TASKS),
            seed=fields.integer("seed"),
            num_rounds=fields.optional("num_rounds", fields.integer),
            extras=extras,
        )


@dataclass(frozen=True, slots=True)
class Train:
    """Request: train this adapter by this plan; answered with a `SiteUpdate`."""

    plan: LocalPlan
    adapter: AdapterState

    def to_wire(self, codec: Codec = FP32) -> Wire:
        """Plain values; the codec writes the adapter."""
        return {
            "type": "train",
            "plan": self.plan.to_wire(),
            "adapter": adapter_to_wire(self.adapter, codec),
        }

    @classmethod
    def from_wire(cls, wire: object) -> Train:
        """The request that `to_wire` wrote.

        Raises:
            ExchangeError: It is not this request.
            AdapterMismatchError: Its adapter contradicts itself.
        """
        fields = Fields(wire, "train", ("type", "plan", "adapter"))
        fields.choice("type", ["train"])
        return cls(
            LocalPlan.from_wire(fields.raw("plan")), adapter_from_wire(fields.raw("adapter"))
        )


@dataclass(frozen=True, slots=True)
class Score:
    """Request: the site's validation losses of these adapters; answered with `SiteScores`.

    `max_tokens` bounds the work: completion tokens scored by task, None for all.
    """

    adapters: Mapping[str, AdapterState]
    tasks: tuple[Task, ...] = ("entities",)
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        wire_names("score request, adapters", self.adapters)

    def to_wire(self, codec: Codec = FP32) -> Wire:
        """Plain values; the codec writes the adapters."""
        return {
            "type": "score",
            "adapters": {name: adapter_to_wire(a, codec) for name, a in self.adapters.items()},
            "tasks": list(self.tasks),
            "max_tokens": self.max_tokens,
        }

    @classmethod
    def from_wire(cls, wire: object) -> Score:
        """The request that `to_wire` wrote.

        Raises:
            ExchangeError: It is not this request.
            AdapterMismatchError: An adapter contradicts itself.
        """
        fields = Fields(wire, "score", ("type", *cls.__dataclass_fields__))
        fields.choice("type", ["score"])
        return cls(
            adapters={n: adapter_from_wire(a) for n, a in fields.mapping("adapters").items()},
            tasks=fields.choices("tasks", TASKS),
            max_tokens=fields.optional("max_tokens", fields.integer),
        )


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """What a site tells about one task of one round: counts of its training split, and losses.

    Attributes:
        num_documents: Notes trained on.
        num_examples: Training examples of those notes.
        num_completion_tokens: Supervised tokens of those examples, counted once.
        num_entities: Annotated entities in those notes.
        train_loss: Mean loss a completion token over the round; None if nothing was trained.
        validation_loss: Loss of the adapter that the site *received* on its own held-out notes;
            None if it holds none.
    """

    num_documents: int
    num_examples: int
    num_completion_tokens: int
    num_entities: int
    train_loss: float | None = None
    validation_loss: float | None = None

    def to_wire(self) -> Wire:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_wire(cls, wire: object) -> TaskMetrics:
        """The metrics that `to_wire` wrote.

        Raises:
            ExchangeError: They are not metrics.
        """
        fields = Fields(wire, "metrics", cls.__dataclass_fields__)
        return cls(
            num_documents=fields.integer("num_documents"),
            num_examples=fields.integer("num_examples"),
            num_completion_tokens=fields.integer("num_completion_tokens"),
            num_entities=fields.integer("num_entities"),
            train_loss=fields.optional("train_loss", fields.number),
            validation_loss=fields.optional("validation_loss", fields.number),
        )


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """Reply to `Train`: the trained adapter and what the site tells about the round.

    `extras` are tensors that the strategy declared. `elapsed_seconds` is local training time.

    Raises:
        ExchangeError: A name could not travel, or a task is unknown.
    """

    site: str
    round_index: int
    adapter: AdapterState
    metrics: Mapping[Task, TaskMetrics]
    num_steps: int
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    elapsed_seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_site(self.site)
        if not set(self.metrics) <= set(TASKS):
            raise ExchangeError(f"update of {self.site}: metrics of an unknown task.")
        wire_names(f"update of {self.site}, extras", self.extras)

    def to_wire(self, codec: Codec = FP32) -> Wire:
        """Plain values; the codec writes the adapter."""
        return {
            "type": "update",
            "site": self.site,
            "round_index": self.round_index,
            "adapter": adapter_to_wire(self.adapter, codec),
            "metrics": {task: metrics.to_wire() for task, metrics in self.metrics.items()},
            "num_steps": self.num_steps,
            "extras": dict(self.extras),
            # A tensor: as text its length would change with the time, and bytes are counted.
            "elapsed_seconds": torch.tensor(self.elapsed_seconds, dtype=torch.float64),
        }

    @classmethod
    def from_wire(cls, wire: object) -> SiteUpdate:
        """The reply that `to_wire` wrote.

        Raises:
            ExchangeError: It is not this reply.
            AdapterMismatchError: Its adapter contradicts itself.
        """
        fields = Fields(wire, "update", ("type", *cls.__dataclass_fields__))
        fields.choice("type", ["update"])
        return cls(
            site=fields.text("site"),
            round_index=fields.integer("round_index"),
            adapter=adapter_from_wire(fields.raw("adapter")),
            metrics={
                _task(task): TaskMetrics.from_wire(metrics)
                for task, metrics in fields.mapping("metrics").items()
            },
            num_steps=fields.integer("num_steps"),
            extras=fields.tensors("extras"),
            elapsed_seconds=fields.scalar("elapsed_seconds"),
        )


@dataclass(frozen=True, slots=True)
class SiteScores:
    """Reply to `Score`: mean validation loss by adapter and task, each with its standard error."""

    site: str
    losses: Mapping[str, Mapping[Task, float]]
    standard_errors: Mapping[str, Mapping[Task, float]]

    def __post_init__(self) -> None:
        _check_site(self.site)
        for table in (self.losses, self.standard_errors):
            wire_names(f"scores of {self.site}", table)
            if not all(set(row) <= set(TASKS) for row in table.values()):
                raise ExchangeError(f"scores of {self.site}: losses of an unknown task.")

    def to_wire(self, codec: Codec = FP32) -> Wire:  # noqa: ARG002  # one signature for all
        """Plain values."""
        return {
            "type": "scores",
            "site": self.site,
            "losses": {name: dict(row) for name, row in self.losses.items()},
            "standard_errors": {name: dict(row) for name, row in self.standard_errors.items()},
        }

    @classmethod
    def from_wire(cls, wire: object) -> SiteScores:
        """The reply that `to_wire` wrote.

        Raises:
            ExchangeError: It is not this reply.
        """
        fields = Fields(wire, "scores", ("type", *cls.__dataclass_fields__))
        fields.choice("type", ["scores"])
        return cls(
            site=fields.text("site"),
            losses=_table_from_wire(fields, "losses"),
            standard_errors=_table_from_wire(fields, "standard_errors"),
        )


@dataclass(frozen=True, slots=True)
class SiteFailure:
    """Reply of a site that could not answer, or made for one that did not. A code, never a text."""

    site: str
    code: FailureCode

    def __post_init__(self) -> None:
        _check_site(self.site)
        if self.code not in FAILURE_CODES:
            raise ExchangeError(
                f"failure of {self.site}: expected a code of {list(FAILURE_CODES)}."
            )

    def to_wire(self, codec: Codec = FP32) -> Wire:  # noqa: ARG002  # one signature for all
        """Plain values."""
        return {"type": "failure", "site": self.site, "code": self.code}

    @classmethod
    def from_wire(cls, wire: object) -> SiteFailure:
        """The reply that `to_wire` wrote.

        Raises:
            ExchangeError: It is not this reply.
        """
        fields = Fields(wire, "failure", ("type", "site", "code"))
        fields.choice("type", ["failure"])
        return cls(fields.text("site"), fields.choice("code", FAILURE_CODES))


Request = Train | Score
Reply = SiteUpdate | SiteScores | SiteFailure
Message = Request | Reply

_MESSAGES: dict[str, type[Message]] = {
    "train": Train,
    "score": Score,
    "update": SiteUpdate,
    "scores": SiteScores,
    "failure": SiteFailure,
}


def encode(message: Message, codec: Codec = BF16) -> bytes:
    """The message as bytes; equal messages give equal bytes."""
    return to_bytes(message.to_wire(codec))


def decode(data: bytes) -> Message:
    """The message in bytes that `encode` wrote.

    Raises:
        ExchangeError: The bytes are damaged, or no message.
        AdapterMismatchError: The message's adapter contradicts itself.
    """
    wire = from_bytes(data)
    kind = wire.get("type")
    if not isinstance(kind, str) or kind not in _MESSAGES:
        raise ExchangeError(f"message: expected a type of {sorted(_MESSAGES)}.")
    return _MESSAGES[kind].from_wire(wire)


def adapter_to_wire(adapter: AdapterState, codec: Codec) -> Wire:
    """Spec, codec and tensors as plain values."""
    spec: dict[str, Any] = {
        name: getattr(adapter.spec, name) for name in AdapterSpec.__dataclass_fields__
    }
    spec["target_modules"] = list(adapter.spec.target_modules)
    _check_names(adapter.spec)
    return {"spec": spec, "codec": codec.name, "tensors": dict(codec.pack(adapter))}


def adapter_from_wire(wire: object) -> AdapterState:
    """The adapter that `adapter_to_wire` wrote.

    Raises:
        ExchangeError: It is not an adapter, or a name in it is none.
        AdapterMismatchError: Tensors and spec contradict each other.
    """
    fields = Fields(wire, "adapter", ("spec", "codec", "tensors"))
    spec = Fields(fields.raw("spec"), "adapter.spec", AdapterSpec.__dataclass_fields__)
    read = AdapterSpec(
        base_model=spec.text("base_model"),
        revision=spec.text("revision"),
        rank=spec.integer("rank", minimum=1),
        alpha=spec.number("alpha"),
        target_modules=spec.texts("target_modules"),
        rslora=spec.boolean("rslora"),
        dtype=spec.choice("dtype", TORCH_DTYPES),
    )
    _check_names(read)
    return CODECS[fields.choice("codec", CODECS)].unpack(read, fields.tensors("tensors"))


def _check_names(spec: AdapterSpec) -> None:
    """A sentence of a note has no place in a spec, either."""
    named = (spec.base_model, *spec.target_modules, *([spec.revision] if spec.revision else []))
    if not all(is_name(name) for name in named):
        raise ExchangeError(
            "adapter: expected identifiers as base model, revision and target modules. "
            "Name the base model by catalog, hub id or the last part of its path."
        )


def _check_site(site: str) -> None:
    if not is_name(site):
        raise ExchangeError("site: expected an identifier of 1 to 255 characters as its name.")


def _task(name: str) -> Task:
    for task in TASKS:
        if name == task:
            return task
    raise ExchangeError(f"metrics: expected tasks of {list(TASKS)}.")


def _table_from_wire(fields: Fields, key: str) -> dict[str, dict[Task, float]]:
    table: dict[str, dict[Task, float]] = {}
    for name, wire in fields.mapping(key).items():
        tasks = [task for task in TASKS if isinstance(wire, dict) and task in wire]
        row = Fields(wire, f"scores.{key}", tasks)
        table[name] = {task: row.number(task) for task in tasks}
    return table
