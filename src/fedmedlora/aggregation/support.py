"""Which questions sites can be compared on, if each annotates other labels.

A support is what a site annotates for one task; None is one that nobody told, taken as everything.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from fedmedlora.aggregation.strategy import LINKS

if TYPE_CHECKING:
    from collections.abc import Iterable

Support = frozenset[str] | None


def shared_supports(supports: Iterable[Support]) -> list[Support]:
    """Every site's own labels, and what any two sites have in common; each once, largest first.

    Nothing is asked where two sites have no label in common.
    """
    known = dict.fromkeys(supports)
    found = {_common(one, other) for one, other in combinations_with_replacement(known, 2)}
    asked = [support for support in found if support is None or support - {LINKS}]
    return sorted(asked, key=lambda s: (s is not None, -len(s or ()), sorted(s or ())))


def annotates(own: Support, labels: Support) -> bool:
    """Whether a site can be asked for all of these labels."""
    return own is None or (labels is not None and labels <= own)


def _common(one: Support, other: Support) -> Support:
    if one is None:
        return other
    return one if other is None else one & other
