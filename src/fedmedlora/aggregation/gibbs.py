"""`gibbs-auto`: how much losses count is read off their standard errors.

w_i proportional to pi_i exp(-(L_i - min L) / tau): the Gibbs posterior with prior pi, which is the
rule of `reference` and `paper` for tau = 1. With tau at twice the standard error of a difference,
differences within noise act like the prior alone, and real ones bite.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def prior_of(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """pi_i proportional to n_i^a; equal if no site has a size."""
    shares = {site: sizes[site] ** exponent if sizes[site] > 0 else 0.0 for site in sorted(sizes)}
    total = math.fsum(shares.values())
    if total <= 0:
        return {site: 1 / len(shares) for site in shares}
    return {site: share / total for site, share in shares.items()}


def temperature_of(noise: float, least: float, errors: float) -> float:
    """The temperature: so many times the noise, but never below `least`."""
    return max(least, errors * noise)


def gibbs(
    prior: Mapping[str, float], losses: Mapping[str, float], temperature: float
) -> dict[str, float]:
    """The weights; a site without a loss counts as the median of those that have one."""
    known = [losses[site] for site in prior if site in losses]
    middle = statistics.median(known) if known else 0.0
    least = min(known, default=0.0)
    shares = {
        site: share * math.exp(-(losses.get(site, middle) - least) / temperature)
        for site, share in sorted(prior.items())
    }
    total = math.fsum(shares.values())
    if total <= 0:  # the only sites with a prior are hopeless against one without
        return dict(prior)
    return {site: share / total for site, share in shares.items()}
