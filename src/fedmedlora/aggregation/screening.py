"""Which updates may be merged at all: the checks that need no data and no statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.errors import AdapterMismatchError, AggregationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.adapters.exchange import SiteUpdate
    from fedmedlora.aggregation.strategy import AggregationContext


def screen(
    updates: Iterable[SiteUpdate], context: AggregationContext
) -> tuple[dict[str, SiteUpdate], dict[str, str]]:
    """Sound updates by site in name order, and a code for every site whose update is not.

    Codes: `wrong-round`; `duplicate` (a site that answers twice counts with neither, as nobody can
    tell which one it meant); `foreign-adapter` (another base model, rank, scale or shape than the
    adapter that was sent); `non-finite`.

    Raises:
        AggregationError: No update is sound.
    """
    sound: dict[str, SiteUpdate] = {}
    refused: dict[str, str] = {}
    for update in updates:
        if update.site in sound or update.site in refused:
            sound.pop(update.site, None)
            refused[update.site] = "duplicate"
            continue
        code = _fault(update, context)
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


def _fault(update: SiteUpdate, context: AggregationContext) -> str | None:
    if update.round_index != context.round_index:
        return "wrong-round"
    try:
        context.adapter.check_compatible(update.adapter, f"update of {update.site}")
    except AdapterMismatchError:
        return "foreign-adapter"
    return None if update.adapter.is_finite() else "non-finite"
