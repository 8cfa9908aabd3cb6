"""How much work a study is, and how long it takes where one token's training takes so long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from fedmedlora.study.conditions import num_passes, tested_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedmedlora.core.example import Task
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import StudyNotes
    from fedmedlora.study.machine_speed import MachineSpeed

Kind = Literal["training", "extraction", "between"]

# By measurement with SmolLM2-135M, in bfloat16 and on slow cores in float32. In the time of one
# token's training: tokens whose loss alone is taken, and characters that a trained model extracts
# from. A character takes a model without training less, as it marks nearly nothing.
READING, CHARACTERS, UNTRAINED = 2.2, 1.7, 0.5
# What an arm takes besides, and scores and report at the end; in tokens whose loss is taken.
ARM_TOKENS, END_TOKENS = 300.0, 1500.0


def training_tokens(prepared: Planned, arms: Sequence[Arm]) -> dict[str, list[float]]:
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


class Planned(Protocol):
    """What a plan needs to know of a study: less than is prepared to run it."""

    @property
    def config(self) -> StudyConfig:
        """The study's settings, resolved."""

    @property
    def notes(self) -> StudyNotes:
        """Its notes."""

    def round_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        """Tokens that a client trains on in one round of these tasks."""

    def held_out_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        """Tokens of a client's validation examples of these tasks."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a study does, in units that take the same time each.

    Attributes:
        tokens: That are trained on, as many as one process could in the time that it takes.
        judged: Tokens that losses are taken on during training; in the time of training.
        characters: That trained models read.
        between_by_arm: Tokens read while opening tags are calibrated, and what else takes an arm's
            time, as such.
        at_end: Scores and report, in the same unit.
    """

    tokens: float
    judged: float
    characters: float
    between_by_arm: Mapping[str, float]
    at_end: float = END_TOKENS
    untrained_weight: float = UNTRAINED

    def amounts(self) -> dict[Kind, float]:
        """By kind."""
        between = sum(self.between_by_arm.values())
        return {"training": self.tokens, "extraction": self.characters, "between": between}

    def seconds_a_unit(self, speed: MachineSpeed) -> dict[Kind, float]:
        """How long a unit of each kind takes at this speed of training."""
        token = 1 / speed.tokens_per_second
        read = token / READING
        extra = self.judged * read / self.tokens if self.tokens else 0.0
        return {"training": token + extra, "extraction": token / CHARACTERS, "between": read}

    def seconds(self, speed: MachineSpeed) -> dict[Kind, float]:
        """How long all of it takes, by kind; what comes at the end counts as between arms."""
        each = self.seconds_a_unit(speed)
        found = {kind: amount * each[kind] for kind, amount in self.amounts().items()}
        return found | {"between": found["between"] + self.at_end * each["between"]}


def planned_work(study: Planned, arms: Sequence[Arm], speed: MachineSpeed | None = None) -> Work:
    """The work of these arms; workers, if `speed` has some, do that of several sites faster."""
    config = study.config
    tokens = training_tokens(study, arms)
    factors = {arm.name: speed.factor(len(arm.sites)) if speed else 1.0 for arm in arms}
    server = config.server_notes
    judged = 0.0
    between: dict[str, float] = {}
    for arm in arms:
        held_out = sum(study.held_out_tokens(*part) for part in arm.client_tasks.items())
        judged += held_out * config.federation.rounds
        if server is not None and arm.strategy is not None and arm.strategy.build().needs_scorer:
            judged += (server.max_tokens or 0) * len(arm.sites) * config.federation.rounds
        calibrated = held_out if config.evaluation.open_bonus == "auto" else 0.0
        between[arm.name] = ARM_TOKENS + calibrated
    return Work(
        tokens=sum(sum(rounds) / factors[name] for name, rounds in tokens.items()),
        judged=judged,
        characters=sum(
            (UNTRAINED if arm.condition == "zero-shot" else 1.0)
            * extraction_characters(config, study.notes, [arm])
            for arm in arms
        ),
        between_by_arm=between,
    )
