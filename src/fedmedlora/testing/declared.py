"""Our own strategies as the laws see them: which law cannot hold for which, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedmedlora.aggregation.fedadam import FedAdamConfig
from fedmedlora.aggregation.fedavg import FedAvgConfig
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlusConfig
from fedmedlora.aggregation.fedprox import FedProxConfig
from fedmedlora.aggregation.fedsa_lora import FedSALoRAConfig
from fedmedlora.aggregation.ffa_lora import FFALoRAConfig
from fedmedlora.aggregation.flexlora import FlexLoRAConfig
from fedmedlora.aggregation.geometric_median import GeometricMedianConfig
from fedmedlora.aggregation.greedy_soup import GreedySoupConfig
from fedmedlora.aggregation.multi_krum import MultiKrumConfig
from fedmedlora.aggregation.rolora import RoLoRAConfig
from fedmedlora.aggregation.uniform import UniformConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.aggregation import StrategyConfig


@dataclass(frozen=True, slots=True)
class Declared:
    """A strategy, the laws that it cannot keep with the reason, and how many updates it takes."""

    config: StrategyConfig
    exceptions: Mapping[str, str] = field(default_factory=dict)
    min_sites: int = 1


_OF_FACTORS = {
    "mean-of-products": "the product of the mean factors is not the mean of the products",
    "own-gauge": "factors of different gauges are averaged as if they were of one",
}
_OF_PRODUCTS = {"mean-of-factors": "products are averaged, and split into new factors"}
_OF_ONE_FACTOR = {"own-gauge": "the factor that is not sent fixes the gauge"}
_UNBOUNDED = {"far-site": "the mean goes as far as one site pulls it"}
_NOT_BY_SIZE = {"halves": "a site's weight is not proportional to its size"}
_BY_LOSS = {"proportion": "larger changes have other losses, hence other weights"}

DECLARED: Mapping[str, Declared] = {
    "fedavg": Declared(FedAvgConfig(), _OF_FACTORS | _UNBOUNDED),
    "fedavg, documents": Declared(FedAvgConfig(size="documents"), _OF_FACTORS | _UNBOUNDED),
    "uniform": Declared(UniformConfig(), _OF_FACTORS | _UNBOUNDED | _NOT_BY_SIZE),
    "fedmedlora-plus, reference": Declared(
        FedMedLoRAPlusConfig(mode="reference"), _OF_FACTORS | _NOT_BY_SIZE | _BY_LOSS
    ),
    "fedmedlora-plus, paper": Declared(FedMedLoRAPlusConfig(mode="paper"), _OF_FACTORS | _BY_LOSS),
    "fedmedlora-plus, gibbs-auto": Declared(
        FedMedLoRAPlusConfig(mode="gibbs-auto"), _OF_PRODUCTS | _NOT_BY_SIZE | _BY_LOSS
    ),
    "fedmedlora-plus, learned": Declared(
        FedMedLoRAPlusConfig(mode="learned"), _OF_PRODUCTS | _NOT_BY_SIZE | _BY_LOSS
    ),
    "fedmedlora-plus, cross-eval": Declared(
        FedMedLoRAPlusConfig(mode="cross-eval"), _OF_PRODUCTS | _NOT_BY_SIZE | _BY_LOSS
    ),
    "fedmedlora-plus, mixed ranks": Declared(
        FedMedLoRAPlusConfig(mode="gibbs-auto", ranks={"site-1": 1}),
        _OF_PRODUCTS
        | _NOT_BY_SIZE
        | _BY_LOSS
        | {
            "one-site": "beyond the site's rank the global adapter stays",
            "alike-sites": "a site of lower rank cannot send all of it",
        },
    ),
    "fedprox": Declared(FedProxConfig(), _OF_FACTORS | _UNBOUNDED),
    "fedadam": Declared(
        FedAdamConfig(),
        _OF_FACTORS
        | {
            "one-site": "the server goes a step of its own length along a site's change",
            "alike-sites": "the server goes a step of its own length along the sites' change",
            "mean-of-factors": "the server goes a step of its own length along the mean change",
            "scaling": "Adam's step does not shrink with the numbers that it moves",
            "common-gauge": "Adam works on single numbers, which each gauge has others of",
            "proportion": "Adam's step hardly grows with the change",
        },
    ),
    "ffa-lora": Declared(FFALoRAConfig(), _OF_ONE_FACTOR | _UNBOUNDED),
    "rolora": Declared(RoLoRAConfig(), _OF_ONE_FACTOR | _UNBOUNDED),
    "fedsa-lora": Declared(
        FedSALoRAConfig(),
        _UNBOUNDED
        | {
            "own-gauge": "the factor that is not sent fixes the gauge",
            "mean-of-products": "in the last round both factors are averaged, separately",
        },
    ),
    "flexlora": Declared(FlexLoRAConfig(), _OF_PRODUCTS | _UNBOUNDED),
    "flexlora, mixed ranks": Declared(
        FlexLoRAConfig(ranks={"site-1": 1}),
        _OF_PRODUCTS
        | _UNBOUNDED
        | {
            "alike-sites": "a site of lower rank cannot send all of it",
            "mean-of-products": "what a site could not receive counts as zero",
            "no-op": "what a site could not receive counts as zero, so the tail shrinks",
        },
    ),
    "greedy-soup": Declared(GreedySoupConfig(), _OF_PRODUCTS | _NOT_BY_SIZE | _BY_LOSS),
    "multi-krum": Declared(
        MultiKrumConfig(),
        _OF_PRODUCTS | _NOT_BY_SIZE | {"one-site": "one bad site among five is what it withstands"},
        min_sites=5,
    ),
    "geometric-median": Declared(GeometricMedianConfig(), _OF_PRODUCTS | _NOT_BY_SIZE),
}
"""By name, with what differs from the defaults behind a comma."""
