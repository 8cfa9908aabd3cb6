"""Sites of lower ranks than the study's: what they are sent, and which ranks are possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.adapters.ranks import change_rank
from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.adapters.state import AdapterState


def cut_for(
    strategy: str, site: str, adapter: AdapterState, ranks: Mapping[str, int]
) -> AdapterState:
    """As much of the adapter's product as the site's rank holds; `alpha` follows it.

    Raises:
        ConfigError: The site has more than the adapter's rank.
    """
    spec = adapter.spec
    rank = ranks.get(site, spec.rank)
    if rank == spec.rank:
        return adapter
    if rank > spec.rank:
        raise ConfigError(too_high(strategy, site, rank, spec.rank))
    return change_rank(adapter, rank, spec.scaling * (rank**0.5 if spec.rslora else rank))


def too_high(strategy: str, site: str, rank: int, most: int) -> str:
    """What is wrong with a site's rank, where the study's is `most`."""
    return (
        f"{strategy}: rank of {site}: expected at most the study's, {most}, got {rank}. "
        "Raise lora.rank, or lower the site's."
    )
