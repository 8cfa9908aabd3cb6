"""Sites weighted by how well their adapters do on validation notes: Fed-MedLoRA+."""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003  # pydantic reads it
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.aggregation.by_notes import decide_by_notes
from fedmedlora.aggregation.cross_eval import decide_by_sites
from fedmedlora.aggregation.decision import Candidates, Decision, Mode
from fedmedlora.aggregation.limits import capped, with_momentum
from fedmedlora.aggregation.merging import Merged, merge
from fedmedlora.aggregation.screening import screen, screen_products
from fedmedlora.aggregation.site_ranks import cut_for
from fedmedlora.aggregation.strategy import Aggregate, LossKind, Merge
from fedmedlora.aggregation.tuning import PlusTuning
from fedmedlora.aggregation.weighting import SizeUnit, by_loss, by_size_and_loss, size_of
from fedmedlora.core.errors import AggregationError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory, Scorer

_PUBLISHED = ("reference", "paper")


class FedMedLoRAPlusConfig(BaseModel):
    """Options of `fedmedlora-plus`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedmedlora-plus"] = "fedmedlora-plus"

    mode: Mode = "auto"
    """`reference`: weights from the validation loss only, as in the published code. `paper`: times
    the site's size, as in the paper's text. `gibbs-auto`: as much as the losses' standard errors
    allow. `learned`: those that make the merged model do best. `cross-eval`: from losses on the
    other sites' notes. `auto`: `learned` where the server's notes are enough for it, else
    `gibbs-auto`; `cross-eval` without server notes. All but the first two are guarded: they act
    only where they beat `reference`."""

    merge: Merge | None = None
    """What is averaged: the sites' factors or their products. None: factors in modes `reference`
    and `paper`, products in all others."""

    size: SizeUnit = "tokens"
    """The unit of a site's size; mode `reference` needs none."""

    validation_loss: LossKind = "completion"
    """Over the completion's tokens or, in modes `reference` and `paper`, over the whole sequence as
    in the published code."""

    ranks: Mapping[str, PositiveInt] = {}
    """Rank of a site's adapter by site name, where products are averaged; sites that are not named
    have the study's, and none may have more. What a site's rank cannot hold stays as it is."""

    tuning: PlusTuning = PlusTuning()
    """Of the guarded modes."""

    @model_validator(mode="after")
    def _check(self) -> FedMedLoRAPlusConfig:
        """An option that would do nothing is a fault: it looks like another experiment."""
        if self.mode in _PUBLISHED and self.tuning != PlusTuning():
            raise ValueError(f"tuning: mode {self.mode} uses none of it; take it out")
        if self.mode not in _PUBLISHED and self.validation_loss != "completion":
            raise ValueError(
                f"validation_loss: mode {self.mode} reads completions only; "
                "take it out, or choose mode reference or paper"
            )
        if self.ranks and self.build().merge == "factor":
            raise ValueError(
                "ranks: factors of several ranks cannot be averaged; take them out, or choose "
                'merge = "product"'
            )
        return self

    def build(self) -> FedMedLoRAPlus:
        """The strategy."""
        return FedMedLoRAPlus(
            self.mode, self.size, self.validation_loss, self.merge, self.tuning, self.ranks
        )


@dataclass(frozen=True, slots=True)
class _Screened:
    """Sound updates, codes of the others, how weights are clipped, and what to write down."""

    sound: Mapping[str, SiteUpdate]
    refused: Mapping[str, str]
    clip: Callable[[Mapping[str, float]], Mapping[str, float]]
    record: Mapping[str, Any]

    def completed(self, before: AdapterState) -> dict[str, AdapterState]:
        """What each update alone makes of the global adapter: what sites are judged by.

        That is the site's own adapter, and of a site of lower rank also what it could not receive.
        Their mean by weights is the merged adapter.
        """
        return {
            site: update.adapter
            if update.adapter.spec.rank == before.spec.rank
            else mean_of_products(before, {site: update.adapter}, {site: 1.0})[0]
            for site, update in self.sound.items()
        }


class FedMedLoRAPlus:
    """Average the adapters, each site as loud as its adapter is useful on validation notes.

    Update:    sum_i w_i of the sites' products (or of A and B separately), with w_i proportional to
               exp(1 - L_i) (`reference`), n_i exp(1 - L_i) (`paper`), pi_i exp(-L_i / tau) with tau
               from the standard errors (`gibbs-auto`, `cross-eval`), or the minimiser of the merged
               model's loss (`learned`).
    Sends:     A and B, up and down; in `cross-eval` also the sites' adapters to the other sites,
               and their losses up.
    Limits:    Needs labelled notes at the server and one pass over them a site and round, or sites
               that may see each other's adapters. For the losses of ordinary fine-tuning
               `reference` is nearly `uniform`. Validation notes that are unlike the sites' own
               judge wrongly. Where products are averaged, a site moves the mean by at most its
               weight times three median changes, whatever it sends, as long as most sites are
               honest; where factors are, such a site is named, and only its loss holds it back.
    Reference: Fed-MedLoRA+, arXiv:2601.22124; its text and its code give `paper` and `reference`.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        size: SizeUnit = "tokens",
        validation_loss: LossKind = "completion",
        merge: Merge | None = None,
        tuning: PlusTuning | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.mode: Mode = mode
        self.size: SizeUnit = size
        self.validation_loss: LossKind = validation_loss
        self.merge: Merge = merge or ("factor" if mode in _PUBLISHED else "product")
        self.tuning = tuning or PlusTuning()
        self.ranks = dict(ranks or {})

    @property
    def needs_scorer(self) -> bool:
        """Whether this mode cannot do without notes at the server."""
        return self.mode not in ("auto", "cross-eval")

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # weights are remembered, plans do not depend on them
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, cut to the site's rank, for every site.

        Raises:
            ConfigError: A site has more than the study's rank.
        """
        return {
            site: Train(plan, cut_for("fedmedlora-plus", site, adapter, self.ranks))
            for site, plan in plans.items()
        }

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The weighted mean of the sound updates; a site with a NaN loss is refused.

        Raises:
            ConfigError: The mode needs validation notes at the server, or sites that can be asked,
                and there are none.
            AggregationError: No update is sound, or none has a finite loss.
        """
        scorer = context.scorer
        if self.needs_scorer and scorer is None:
            raise ConfigError(
                f"fedmedlora-plus, mode {self.mode}: the weights come from the loss on validation "
                "notes at the server; expected some, got none. Name them as `server_notes` in the "
                "study file, or choose mode `cross-eval`, `fedavg` or `uniform`."
            )
        if self.mode in _PUBLISHED and scorer is not None:
            return self._as_published(updates, context, scorer)
        return self._guarded(updates, context)

    def _as_published(
        self, updates: Iterable[SiteUpdate], context: AggregationContext, scorer: Scorer
    ) -> Aggregate:
        found = self._screened(updates, context)
        refused = dict(found.refused)
        losses: dict[str, float] = {}
        for site, adapter in found.completed(context.adapter).items():
            loss = scorer.loss(adapter).mean(self.validation_loss)
            if math.isfinite(loss):
                losses[site] = loss
            else:
                refused[site] = "non-finite-loss"
        if not losses:
            raise AggregationError(
                f"round {context.round_index}: no adapter of {', '.join(found.sound)} has a finite "
                "loss on the server's validation notes. Lower the learning rate."
            )
        sizes = {site: size_of(found.sound[site], self.size) for site in losses}
        weights = by_loss(losses) if self.mode == "reference" else by_size_and_loss(sizes, losses)
        result = self._merged(found, context.adapter, weights)
        record: dict[str, Any] = {
            "mode": self.mode,
            "server_losses": losses,
            "sizes": sizes,
            **found.record,
        }
        if result.energy_kept is not None:
            record["energy_kept"] = result.energy_kept
        return Aggregate(
            result.adapter, weights, record=record, refused=dict(sorted(refused.items()))
        )

    def _guarded(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        found = self._screened(updates, context)
        sizes = {site: size_of(update, self.size) for site, update in found.sound.items()}
        merged = partial(self._merged, found, context.adapter)
        candidates = Candidates(
            found.completed(context.adapter),
            sizes,
            {site: frozenset(update.metrics) for site, update in found.sound.items()},
            lambda weights: merged(weights).adapter,
        )
        decision = self._decide(candidates, context)
        refused = {**found.refused, **decision.refused}
        tuning = self.tuning
        earlier = context.memory.get("weights", {})
        free = with_momentum(decision.weights, earlier, tuning.momentum)
        weights = capped(free, tuning.weight_cap)
        result = merged(weights)
        verdict = decision.may_follow(result.adapter)
        record: dict[str, Any] = {
            "mode": self.mode,
            **decision.record,
            "sizes": sizes,
            "guard": decision.guard.to_json(),
            "may_follow": verdict.to_json(),
            "energy_kept": result.energy_kept,
            "held_at_cap": [site for site in free if free[site] > weights[site] + 1e-12],
            **found.record,
        }
        return Aggregate(
            result.adapter if verdict.accepted else context.adapter,
            weights,
            {"weights": weights},
            record,
            dict(sorted(refused.items())),
        )

    def _screened(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> _Screened:
        """What may be merged. A merge of factors has no bound to hold; there, findings are told."""
        if self.merge == "product":
            found = screen_products(updates, context)
            return _Screened(found.updates, found.refused, found.clip, found.record())
        sound, refused = screen(updates, context)
        told = screen_products(sound.values(), context).told()
        return _Screened(sound, refused, dict, told.record())

    def _merged(
        self, found: _Screened, before: AdapterState, weights: Mapping[str, float]
    ) -> Merged:
        adapters = {site: found.sound[site].adapter for site in weights}
        return merge(self.merge, before, adapters, found.clip(weights))

    def _decide(self, candidates: Candidates, context: AggregationContext) -> Decision:
        if context.scorer is not None and self.mode != "cross-eval":
            return decide_by_notes(
                self.mode,
                self.merge,
                context.scorer,
                candidates,
                context.adapter,
                self.tuning,
                context.seed,
            )
        if context.call is None:
            raise ConfigError(
                f"fedmedlora-plus, mode {self.mode}: without notes at the server the sites judge "
                "each other; expected a way to ask them, got none. Name `server_notes` in the "
                "study file, or choose `fedavg` or `uniform`."
            )
        return decide_by_sites(context.call, candidates, context.adapter, self.tuning, context.seed)
