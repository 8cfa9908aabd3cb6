"""How site updates become one adapter. `StrategyConfig` is the list of strategies."""

from typing import Annotated

from pydantic import Field

from fedmedlora.aggregation.fedavg import FedAvgConfig
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlusConfig
from fedmedlora.aggregation.uniform import UniformConfig

StrategyConfig = Annotated[
    FedAvgConfig | UniformConfig | FedMedLoRAPlusConfig, Field(discriminator="name")
]
