"""The sites that lie closest to their neighbours are averaged, the others left out: multi-Krum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.aggregation.screening import screen_products
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.core.errors import AggregationError, ConfigError
from fedmedlora.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class MultiKrumConfig(BaseModel):
    """Options of `multi-krum`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["multi-krum"] = "multi-krum"

    num_bad: int = Field(default=1, ge=0)
    """How many bad sites there may be (f); it takes 2 f + 3 sites in all."""

    num_selected: int | None = Field(default=None, ge=1)
    """How many sites are averaged (m); by default all but `num_bad`. 1 is Krum."""

    def build(self) -> MultiKrum:
        """The strategy."""
        return MultiKrum(self.num_bad, self.num_selected)


class MultiKrum:
    """Average the sites whose changes lie closest to those of most others.

    Update:    score_i = sum of the N - f - 2 least |D_i - D_j|^2 over j != i, where D_i is the
               change of site i's product in the round; G <- mean of the m sites of least score,
               cut to the rank.
    Sends:     A and B, up and down.
    Limits:    Needs N >= 2 f + 3 sites: five for one bad one. Leaves out honest sites that differ,
               such as the only one with a rare kind of note. Sizes do not count.
    Reference: Blanchard et al. 2017, arXiv:1703.02757; on products through their Gram matrix.
    """

    needs_scorer = False

    def __init__(self, num_bad: int = 1, num_selected: int | None = None) -> None:
        self.num_bad = num_bad
        self.num_selected = num_selected

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site.

        Raises:
            ConfigError: There are too few sites, so that training them would be in vain.
        """
        if len(plans) < self.num_needed:
            raise ConfigError(self.too_few(len(plans)))
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean product of the chosen sites; the others have weight 0.

        Raises:
            AggregationError: Too few updates are sound.
        """
        found = screen_products(updates, context)
        sites = list(found.updates)
        if len(sites) < self.num_needed:
            raise AggregationError(f"round {context.round_index}: {self.too_few(len(sites))}")
        scores = krum_scores(found.gram, self.num_bad)
        count = self.num_selected or len(sites) - self.num_bad
        chosen = sorted(range(len(sites)), key=lambda i: (scores[i], sites[i]))[:count]
        weights = {s: 1 / len(chosen) if i in chosen else 0.0 for i, s in enumerate(sites)}
        adapters = {site: update.adapter for site, update in found.updates.items()}
        adapter, energy_kept = mean_of_products(context.adapter, adapters, weights)
        record = found.record() | {
            "scores": dict(zip(sites, scores, strict=True)),
            "energy_kept": energy_kept,
        }
        return Aggregate(adapter, weights, record=record, refused=found.refused)

    @property
    def num_needed(self) -> int:
        """The fewest sites that it can work with."""
        return 2 * self.num_bad + 3

    def too_few(self, num_sites: int) -> str:
        """What is wrong with so few sites."""
        return (
            f"multi-krum: to withstand {counted(self.num_bad, 'bad site')} it needs "
            f"{self.num_needed}; expected so many, got {num_sites}. Lower `num_bad`, or "
            "choose `geometric-median`."
        )


def krum_scores(gram: NDArray[np.float64], num_bad: int) -> list[float]:
    """For each site the sum of its N - f - 2 least squared distances to others."""
    lengths = gram.diagonal()
    squares = np.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sort(squares, axis=1)[:, : len(gram) - num_bad - 2]
    return [float(score) for score in nearest.sum(axis=1)]
