"""Weight rules as pure functions: what sites told, in; weights that sum to 1, out, in name order.

Every rule is a point of w_i proportional to n_i^a * exp(-beta * L_i).
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import TYPE_CHECKING, Literal

from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.adapters.exchange import SiteUpdate

SizeUnit = Literal["tokens", "examples", "documents", "entities"]

# Forty digits and unbounded exponents: each weight is its formula's value rounded once, on every
# machine, and exp(-L) of a diverged site is tiny instead of 0/0.
_EXACT = Context(prec=40, Emin=MIN_EMIN, Emax=MAX_EMAX)


def size_of(update: SiteUpdate, unit: SizeUnit) -> int:
    """How large the site's training split is.

    Tokens (completion tokens), examples and entities add up over tasks. Documents do not: both
    tasks are trained on the same notes, so the larger count stands.
    """
    tasks = update.metrics.values()
    if unit == "tokens":
        return sum(metrics.num_completion_tokens for metrics in tasks)
    if unit == "examples":
        return sum(metrics.num_examples for metrics in tasks)
    if unit == "entities":
        return sum(metrics.num_entities for metrics in tasks)
    return max((metrics.num_documents for metrics in tasks), default=0)


def by_size(sizes: Mapping[str, int]) -> dict[str, float]:
    """w_i = n_i / sum_j n_j (McMahan et al. 2017, arXiv:1602.05629).

    Raises:
        AggregationError: There is no site, or no site has anything.
    """
    total = sum(_checked_sizes(sizes).values())
    return {site: sizes[site] / total for site in sorted(sizes)}


def equal(sites: Mapping[str, object]) -> dict[str, float]:
    """w_i = 1 / N.

    Raises:
        AggregationError: There is no site.
    """
    if not sites:
        raise AggregationError("weights: expected at least one site, got none.")
    return {site: 1 / len(sites) for site in sorted(sites)}


def by_loss(losses: Mapping[str, float]) -> dict[str, float]:
    """w_i = exp(1 - L_i) / sum_j exp(1 - L_j): the rule of the Fed-MedLoRA+ reference code.

    Raises:
        AggregationError: There is no site, or a loss is not finite.
    """
    return _size_times_utility(dict.fromkeys(losses, 1), losses)


def by_size_and_loss(sizes: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, float]:
    """w_i = n_i exp(1 - L_i) / sum_j n_j exp(1 - L_j): the rule of the Fed-MedLoRA+ paper's text.

    Raises:
        AggregationError: There is no site, no site has anything, or a loss is not finite.
    """
    return _size_times_utility(_checked_sizes(sizes), losses)


def _checked_sizes(sizes: Mapping[str, int]) -> Mapping[str, int]:
    if sum(sizes.values()) <= 0 or min(sizes.values()) < 0:
        raise AggregationError(
            f"weights: expected sizes >= 0 with a positive sum, got {dict(sorted(sizes.items()))}. "
            "Choose another `size`, or give these sites notes to train on."
        )
    return sizes


def _size_times_utility(sizes: Mapping[str, int], losses: Mapping[str, float]) -> dict[str, float]:
    if not losses or not all(math.isfinite(loss) for loss in losses.values()):
        raise AggregationError(
            f"weights: expected a finite validation loss of every site, "
            f"got {dict(sorted(losses.items()))}."
        )
    with localcontext(_EXACT):
        # The least loss of a site that has anything; subtracting it cancels in the quotient.
        least = Decimal(min(loss for site, loss in losses.items() if sizes[site]))
        utility = {
            site: sizes[site] * (least - Decimal(losses[site])).exp() if sizes[site] else Decimal(0)
            for site in sorted(losses)
        }
        total = sum(utility.values(), Decimal(0))
        return {site: float(value / total) for site, value in utility.items()}
