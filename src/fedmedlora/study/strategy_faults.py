"""Strategies that cannot work with a study's sites: told before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlusConfig
from fedmedlora.aggregation.flexlora import FlexLoRAConfig
from fedmedlora.aggregation.multi_krum import MultiKrumConfig
from fedmedlora.aggregation.site_ranks import too_high

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.aggregation import StrategyConfig
    from fedmedlora.study.conditions import Arm


def faults_of_strategies(
    strategies: Sequence[StrategyConfig], arms: Sequence[Arm], rank: int | None
) -> list[str]:
    """What is wrong with the strategies for the arms that are made of them.

    Args:
        strategies: Those of the study.
        arms: All arms of the study.
        rank: The study's; None if it is not known.
    """
    faults: list[str] = []
    for strategy in strategies:
        own = [arm for arm in arms if arm.condition == "federated" and arm.strategy == strategy]
        if isinstance(strategy, MultiKrumConfig):
            faults += _too_few(strategy, own)
        if isinstance(strategy, FlexLoRAConfig | FedMedLoRAPlusConfig):
            faults += _wrong_ranks(strategy, own, rank)
    return faults


def _too_few(strategy: MultiKrumConfig, arms: Sequence[Arm]) -> list[str]:
    krum = strategy.build()
    smallest = min(arms, key=lambda arm: len(arm.sites), default=None)
    if smallest is None or len(smallest.sites) >= krum.num_needed:
        return []
    return [f"arm {smallest.name}: {krum.too_few(len(smallest.sites))}"]


def _wrong_ranks(
    strategy: FlexLoRAConfig | FedMedLoRAPlusConfig, arms: Sequence[Arm], rank: int | None
) -> list[str]:
    sites = sorted({site for arm in arms for site in arm.sites})
    faults = [
        f"{strategy.name}: ranks: {site!r} is not a training site; "
        f"expected some of {', '.join(sites)}."
        for site in strategy.ranks
        if site not in sites
    ]
    return faults + [
        too_high(strategy.name, site, own, rank)
        for site, own in strategy.ranks.items()
        if rank is not None and site in sites and own > rank
    ]
