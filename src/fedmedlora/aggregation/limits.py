"""What keeps weights from jumping: a cap on any one site, and momentum over rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def capped(weights: Mapping[str, float], most: float) -> dict[str, float]:
    """The weights with none above `most`; what is cut off goes to the others, as they weigh.

    Sites of weight 0 stay at 0. Where the cap cannot hold, because too few sites have a weight, it
    is their equal share.
    """
    present = {site: weight for site, weight in sorted(weights.items()) if weight > 0}
    most = max(most, 1 / len(present))
    held: dict[str, float] = {}
    while True:
        free = {site: weight for site, weight in present.items() if site not in held}
        room = 1 - most * len(held)
        total = math.fsum(free.values())
        scaled = {site: room * weight / total for site, weight in free.items()}
        over = [site for site, weight in scaled.items() if weight > most * (1 + 1e-12)]
        if not over:
            break
        held |= dict.fromkeys(over, most)
    found = held | scaled
    return {site: found.get(site, 0.0) for site in sorted(weights)}


def with_momentum(
    weights: Mapping[str, float], earlier: Mapping[str, float], share: float
) -> dict[str, float]:
    """(1 - mu) w + mu w', with w' the weights of the round before among the sites that are here.

    Sites of weight 0 stay at 0.
    """
    present = [site for site, weight in weights.items() if weight > 0]
    known = math.fsum(earlier.get(site, 0.0) for site in present)
    if known <= 0:
        return dict(weights)
    return {
        site: (1 - share) * weight + share * earlier.get(site, 0.0) / known if weight > 0 else 0.0
        for site, weight in sorted(weights.items())
    }
