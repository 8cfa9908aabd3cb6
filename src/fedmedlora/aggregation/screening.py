"""Which updates may be merged, and how loud: checks that need no data.

`screen` holds for every merge. `screen_products` is for merges of products: ranks and scales may
differ, and each site's pull is bounded.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from fedmedlora.adapters.algebra import check_modules, check_pair, product_norm, product_shape
from fedmedlora.adapters.products import delta_gram
from fedmedlora.adapters.ranks import change_rank
from fedmedlora.core.errors import AdapterMismatchError, AggregationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from fedmedlora.adapters.exchange import SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext

Flag = Literal["norm-clipped", "norm-above-bound", "against-others", "no-change"]

MAX_NORM = 3.0
"""A round delta may be so many times as long as the median one."""
AGAINST_OTHERS = -0.2
"""A cosine below this with the mean direction of the other sites is told,"""
OUTLYING = 4.0
"""if it also lies so many median absolute deviations below those of the others."""

# Beside the product that was sent, a change smaller than this is rounding.
_NO_CHANGE = 1e-6
# What a codec rounds away on the way to a site is smaller than this.
_ROUNDING = 2e-2


def screen(
    updates: Iterable[SiteUpdate], context: AggregationContext
) -> tuple[dict[str, SiteUpdate], dict[str, str]]:
    """Sound updates by site in name order, and a code for every site whose update is not.

    Codes: `wrong-round`; `duplicate` (a site that answers twice counts with neither, as nobody can
    tell which one it meant); `foreign-adapter` (another base model, rank, scale or shape than the
    adapter that was sent); `non-finite`; `empty-update` (a factor of zeros where others were sent).

    Raises:
        AggregationError: No update is sound.
    """
    return _sort(updates, context, lambda adapter: _factors_fault(context.adapter, adapter))


@dataclass(frozen=True, slots=True)
class Screening:
    """Sound updates, and what is known of each site's round delta before anything is weighted.

    A round delta is the site's product less what the site received. Mappings are in name order.

    Attributes:
        updates: Sound updates by site.
        refused: Code by site for the others.
        norms: Length of each round delta.
        median_norm: The median of those that are not nothing, the lower one of an even number.
        multipliers: What a site's weight is to be multiplied with, so that it pulls at most as
            hard as a delta of `MAX_NORM` times the median length.
        cosines: Of each delta with the mean direction of the others; absent where there is none.
        flags: Findings by site, for the sites that have any.
        gram: Inner products of the round deltas, sites in name order.
    """

    updates: Mapping[str, SiteUpdate]
    refused: Mapping[str, str]
    norms: Mapping[str, float]
    median_norm: float
    multipliers: Mapping[str, float]
    cosines: Mapping[str, float]
    flags: Mapping[str, tuple[Flag, ...]]
    gram: NDArray[np.float64]

    def clip(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weights times the multipliers; not renormalised, the rest stays with the old adapter.

        Sites of the result pull on the mean of products by at most `weight * 3 * median_norm` each.
        """
        return {site: weight * self.multipliers[site] for site, weight in weights.items()}

    def unclipped(self) -> Screening:
        """The same findings where nobody knows what a round delta is: nothing is said of norms."""
        return self._with_flags({"norm-clipped": None})

    def told(self) -> Screening:
        """The same findings where they are told only: who is too long is named, and not clipped."""
        return self._with_flags({"norm-clipped": "norm-above-bound"})

    def _with_flags(self, changed: Mapping[Flag, Flag | None]) -> Screening:
        flags: dict[str, tuple[Flag, ...]] = {}
        for site, found in self.flags.items():
            kept = [changed.get(flag, flag) for flag in found]
            if own := tuple(flag for flag in kept if flag is not None):
                flags[site] = own
        return replace(self, multipliers=dict.fromkeys(self.multipliers, 1.0), flags=flags)

    def record(self) -> dict[str, Any]:
        """Every decision, as JSON can hold it."""
        return {
            "delta_norms": dict(self.norms),
            "median_delta_norm": self.median_norm,
            "cosines": dict(self.cosines),
            "clipped_to": {site: m for site, m in self.multipliers.items() if m < 1},
            "flags": {site: list(flags) for site, flags in self.flags.items()},
        }


def screen_products(updates: Iterable[SiteUpdate], context: AggregationContext) -> Screening:
    """Every update's soundness, and its round delta's length and direction.

    Codes as of `screen`, but a rank below that of the sent adapter and any scale are no fault; and
    `empty-update` (nothing at all, or a product of zeros where a product was sent).

    The bound that `Screening.clip` gives does not depend on what a site sends, as long as more than
    half of the sites are honest (of two sites the shorter delta sets the length). It holds for
    the mean of products; cutting the mean to a rank moves it on by no more than what is cut off,
    which `mean_of_products` tells. A mean of factors has no such bound: the same product can be
    written with factors of any length. Direction alone never takes a site's weight away: an honest
    minority looks like that.

    Raises:
        AggregationError: No update is sound.
    """
    before = context.adapter
    shapes = {module: product_shape(pair) for module, pair in before.pairs.items()}
    sent_norm = product_norm(before)
    sound, refused = _sort(
        updates, context, lambda adapter: _product_fault(before, shapes, sent_norm > 0, adapter)
    )
    sites, gram = delta_gram(before, {site: update.adapter for site, update in sound.items()})
    norms = {
        site: math.sqrt(max(0.0, float(square)))
        for site, square in zip(sites, gram.diagonal(), strict=True)
    }
    changed = [
        site
        for site in sites
        if norms[site] > _NO_CHANGE * sent_norm
        and not (norms[site] <= _ROUNDING * sent_norm and _came_back(before, sound[site].adapter))
    ]
    median = statistics.median_low([norms[site] for site in changed]) if changed else 0.0
    longest = MAX_NORM * median
    multipliers = {
        site: longest / norm if site in changed and norm > longest else 1.0
        for site, norm in norms.items()
    }
    cosines = _cosines(sites, gram, changed)
    flags = {
        site: found
        for site in sites
        if (found := _flags(site, site in changed, multipliers[site], cosines))
    }
    return Screening(sound, refused, norms, median, multipliers, cosines, flags, gram)


def _sort(
    updates: Iterable[SiteUpdate],
    context: AggregationContext,
    fault_of: Callable[[AdapterState], str | None],
) -> tuple[dict[str, SiteUpdate], dict[str, str]]:
    sound: dict[str, SiteUpdate] = {}
    refused: dict[str, str] = {}
    for update in updates:
        if update.site in sound or update.site in refused:
            sound.pop(update.site, None)
            refused[update.site] = "duplicate"
            continue
        in_time = update.round_index == context.round_index
        code = fault_of(update.adapter) if in_time else "wrong-round"
        if code is None:
            sound[update.site] = update
        else:
            refused[update.site] = code
    refused = dict(sorted(refused.items()))
    if not sound:
        told = ", ".join(f"{site} ({code})" for site, code in refused.items()) or "none came"
        raise AggregationError(
            f"round {context.round_index}: no update can be merged; expected at least one sound "
            f"update, got: {told}. Look at these sites' logs."
        )
    return dict(sorted(sound.items())), refused


def _factors_fault(before: AdapterState, adapter: AdapterState) -> str | None:
    try:
        before.check_compatible(adapter, "update")
    except AdapterMismatchError:
        return "foreign-adapter"
    is_zero = dict.fromkeys(adapter.factors, True)
    for _, factor, tensor in adapter.tensors():
        if not bool(torch.isfinite(tensor).all()):
            return "non-finite"
        if tensor.numel():
            is_zero[factor] = is_zero[factor] and not tensor.any()
    emptied = [factor for factor, zero in is_zero.items() if zero]
    if any(tensor.any() for _, factor, tensor in before.tensors() if factor in emptied):
        return "empty-update"
    return None


def _product_fault(
    before: AdapterState,
    shapes: Mapping[str, tuple[int, int]],
    something_was_sent: bool,
    adapter: AdapterState,
) -> str | None:
    """A code, or None. Reads every pair once."""
    is_zero = True
    try:
        check_modules(before, adapter, "update")
        if adapter.spec.rank > before.spec.rank:
            return "foreign-adapter"
        for module, pair in adapter.pairs.items():
            if not pair.A.numel() and not pair.B.numel():
                return "empty-update"
            check_pair(shapes[module], pair, "update")
            if not all(bool(torch.isfinite(factor).all()) for factor in (pair.A, pair.B)):
                return "non-finite"
            is_zero = is_zero and not (pair.A.any() and pair.B.any())
    except AdapterMismatchError:
        return "foreign-adapter"
    return "empty-update" if is_zero and something_was_sent else None


def _came_back(before: AdapterState, adapter: AdapterState) -> bool:
    """Whether a site returned to the bit what reached it through the narrowest codec.

    Its product then differs from the one before by rounding, which is no change.
    """
    spec = adapter.spec
    if spec.rank != before.spec.rank:
        before = change_rank(before, spec.rank, spec.alpha, spec.rslora)
    return all(
        torch.equal(ours.to(torch.bfloat16).to(theirs.dtype), theirs)
        for (_, _, ours), (_, _, theirs) in zip(before.tensors(), adapter.tensors(), strict=True)
    )


def _cosines(
    sites: tuple[str, ...], gram: NDArray[np.float64], changed: list[str]
) -> dict[str, float]:
    """Of each changed site's delta with the mean of the others' directions.

    Of directions, not of deltas: one long delta must not turn the mean, and with it the others'
    cosines.
    """
    places = [sites.index(site) for site in changed]
    lengths = np.sqrt(gram.diagonal()[places])
    alike = gram[np.ix_(places, places)] / np.outer(lengths, lengths)
    found: dict[str, float] = {}
    for place, site in enumerate(changed):
        others = [other for other in range(len(changed)) if other != place]
        square = float(alike[np.ix_(others, others)].sum())
        if others and square > 1e-12:
            cosine = float(alike[place, others].sum()) / math.sqrt(square)
            found[site] = max(-1.0, min(1.0, cosine))
    return found


def _flags(
    site: str, changed: bool, multiplier: float, cosines: Mapping[str, float]
) -> tuple[Flag, ...]:
    found: list[Flag] = []
    if not changed:
        found.append("no-change")
    if multiplier < 1:
        found.append("norm-clipped")
    others = [cosine for other, cosine in cosines.items() if other != site]
    if others and cosines.get(site, 0.0) < AGAINST_OTHERS:
        middle = statistics.median(others)
        spread = statistics.median(abs(cosine - middle) for cosine in others)
        if middle - cosines[site] > OUTLYING * spread:
            found.append("against-others")
    return tuple(found)
