"""How site updates become one adapter. `StrategyConfig` is the list of strategies."""

from typing import Annotated

from pydantic import Field

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

StrategyConfig = Annotated[
    FedAvgConfig
    | UniformConfig
    | FedMedLoRAPlusConfig
    | FedProxConfig
    | FedAdamConfig
    | FFALoRAConfig
    | RoLoRAConfig
    | FedSALoRAConfig
    | FlexLoRAConfig
    | GreedySoupConfig
    | MultiKrumConfig
    | GeometricMedianConfig,
    Field(discriminator="name"),
]
