"""Ids of a letter and a number, for formats that take no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def numbered_ids(
    letter: str, ids: Sequence[str], *, number: str = "[0-9]+", first: int = 1
) -> dict[str, str]:
    """An id such as T1 for each id; one that has the form already keeps it.

    Args:
        letter: The letter.
        ids: The ids, none twice.
        number: A regular expression for the numbers that may be kept.
        first: The lowest number to give.
    """
    taken = {identity for identity in ids if re.fullmatch(f"{letter}(?:{number})", identity)}
    names: dict[str, str] = {}
    counted = first - 1
    for identity in ids:
        if identity in taken:
            names[identity] = identity
            continue
        counted += 1
        while f"{letter}{counted}" in taken:
            counted += 1
        names[identity] = f"{letter}{counted}"
    return names
