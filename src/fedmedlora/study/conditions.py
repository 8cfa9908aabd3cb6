"""The arms of a study: who is trained on what, by which strategy, and where it is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.aggregation.fedavg import FedAvgConfig

if TYPE_CHECKING:
    from fedmedlora.aggregation import StrategyConfig
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort

Condition = Literal["zero-shot", "single-site", "centralized", "federated"]

POOL = "pooled"
"""The site name of the centralized arm, which trains on all sites' examples in one place."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to come to an adapter. Every trained arm is the same round loop over `sites`.

    A single-site arm is a federation of one; a centralized arm, one of the pooled notes. So equal
    epochs, restarts and seeds hold by construction, and work that is identical is done once.
    """

    name: str
    condition: Condition
    sites: tuple[str, ...]
    strategy: StrategyConfig | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `scores.json`."""
        federated = self.condition == "federated" and self.strategy is not None
        return {
            "name": self.name,
            "condition": self.condition,
            "site": self.sites[0] if self.condition == "single-site" else None,
            "strategy": self.strategy.model_dump() if federated and self.strategy else None,
        }


def arms_of(config: StudyConfig) -> list[Arm]:
    """The arms in the order in which they run; single sites first, as others reuse their work."""
    names = tuple(sorted(site.name for site in config.sites))
    arms: list[Arm] = []
    if config.arms.zero_shot:
        arms.append(Arm("zero-shot", "zero-shot", (), None))
    if config.arms.single_site:
        arms += [
            Arm(f"single-site/{name}", "single-site", (name,), FedAvgConfig()) for name in names
        ]
    if config.arms.centralized:
        arms.append(Arm("centralized", "centralized", (POOL,), FedAvgConfig()))
    arms += [
        Arm(strategy_arm(strategy), "federated", names, strategy) for strategy in config.strategies
    ]
    return arms


def strategy_arm(strategy: StrategyConfig) -> str:
    """The arm's name: the strategy's, its mode, and what else differs from the default."""
    options = strategy.model_dump(exclude={"name", "mode"}, exclude_defaults=True)
    mode = getattr(strategy, "mode", None)
    return "-".join([strategy.name, *([mode] if mode else []), *map(str, options.values())])


def tested_on(arm: Arm, cohort: Cohort, config: StudyConfig) -> bool:
    """Whether the study tests this arm on this cohort."""
    own_only = config.evaluation.single_site_in_domain == "own"
    elsewhere = cohort.setting == "in-domain" and cohort.name not in arm.sites
    return not (arm.condition == "single-site" and own_only and elsewhere)
