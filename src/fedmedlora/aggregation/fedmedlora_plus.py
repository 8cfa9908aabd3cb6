"""Sites weighted by how well their adapters do on the server's validation notes: Fed-MedLoRA+."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate, LossKind
from fedmedlora.aggregation.weighting import SizeUnit, by_loss, by_size_and_loss, size_of
from fedmedlora.core.errors import AggregationError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory

Mode = Literal["reference", "paper"]


class FedMedLoRAPlusConfig(BaseModel):
    """Options of `fedmedlora-plus`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedmedlora-plus"] = "fedmedlora-plus"

    mode: Mode = "reference"
    """`reference`: weights from the validation loss only, as in the published code. `paper`: times
    the site's size, as in the paper's text."""

    size: SizeUnit = "tokens"
    """The unit of a site's size in mode `paper`."""

    validation_loss: LossKind = "completion"
    """Over the completion's tokens, or over the whole sequence as in the published code."""

    def build(self) -> FedMedLoRAPlus:
        """The strategy."""
        return FedMedLoRAPlus(self.mode, self.size, self.validation_loss)


class FedMedLoRAPlus:
    """Average the adapters, each site as loud as its adapter is useful on the server's notes.

    Update:    A <- sum_i w_i A_i and B <- sum_i w_i B_i, separately, with w_i proportional to
               exp(1 - L_i) (`reference`) or n_i exp(1 - L_i) (`paper`).
    Sends:     A and B, up and down.
    Limits:    Needs labelled notes at the server, and one pass over them a site and round. For the
               losses of ordinary fine-tuning `reference` is nearly `uniform`.
    Reference: Fed-MedLoRA+, arXiv:2601.22124; its text and its code give the two rules.
    """

    needs_scorer = True

    def __init__(
        self,
        mode: Mode = "reference",
        size: SizeUnit = "tokens",
        validation_loss: LossKind = "completion",
    ) -> None:
        self.mode: Mode = mode
        self.size: SizeUnit = size
        self.validation_loss: LossKind = validation_loss

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean of the sound updates, weighted by validation loss; a NaN loss is refused.

        Raises:
            ConfigError: The server has no validation notes.
            AggregationError: No update is sound, or none has a finite loss.
        """
        if context.scorer is None:
            raise ConfigError(
                f"fedmedlora-plus, mode {self.mode}: the weights come from the loss on validation "
                "notes at the server; expected some, got none. Name them as `server_notes` in the "
                "study file, or choose `fedavg` or `uniform`."
            )
        sound, refused = screen(updates, context)
        losses: dict[str, float] = {}
        for site, update in sound.items():
            loss = context.scorer.loss(update.adapter).mean(self.validation_loss)
            if math.isfinite(loss):
                losses[site] = loss
            else:
                refused[site] = "non-finite-loss"
        if not losses:
            raise AggregationError(
                f"round {context.round_index}: no adapter of {', '.join(sound)} has a finite loss "
                "on the server's validation notes. Lower the learning rate."
            )
        sizes = {site: size_of(sound[site], self.size) for site in losses}
        weights = by_loss(losses) if self.mode == "reference" else by_size_and_loss(sizes, losses)
        adapter = mean_of_factors({site: sound[site].adapter for site in weights}, weights)
        record = {"mode": self.mode, "server_losses": losses, "sizes": sizes}
        return Aggregate(adapter, weights, record=record, refused=dict(sorted(refused.items())))
