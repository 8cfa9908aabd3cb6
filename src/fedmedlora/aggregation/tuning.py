"""The numbers behind Fed-MedLoRA+, with their defaults."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class PlusTuning(BaseModel):
    """What the guarded modes go by; `reference` and `paper` use none of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_exponent: float = Field(default=0.5, ge=0, le=1)
    """Of the size in the prior: 0 takes all sites alike, 1 as `fedavg` does."""

    weight_cap: float = Field(default=0.6, gt=0, le=1)
    """Most that one site may weigh; of too few sites for it, the equal share."""

    momentum: float = Field(default=0.3, ge=0, lt=1)
    """Share of the weights of the round before."""

    noise_factor: PositiveFloat = 2.0
    """Temperature in standard errors of a difference between sites."""

    least_temperature: PositiveFloat = 0.02
    """In nats a completion token: below it nothing counts as a difference, however sure it is."""

    learned_below: float = Field(default=0.02, ge=0)
    """Mode `auto` learns the weights if a difference between sites has at most this standard
    error, in nats; else it takes `gibbs-auto`."""

    learned_steps: PositiveInt = 20
    """Backward passes of `learned`."""

    learned_pull: PositiveFloat = 0.02
    """How strongly `learned` is held to the prior: the advantage, in nats, that changes a log
    weight by 1."""

    notes_per_step: PositiveInt = 16
    """Server notes that one backward pass of `learned` sees."""

    max_score_tokens: PositiveInt | None = 4096
    """Completion tokens on which a site scores one adapter of another, by task; none: all."""
