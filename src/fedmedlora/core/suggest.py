"""The known word that somebody probably meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MIN_SIMILARITY = 0.7
_MIN_PART = 4
_MIN_SLIP = 5


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs by a slip: case, a letter or two, or a part left out.

    None if the word itself is known, or nothing is near enough to be meant.
    """
    words = list(dict.fromkeys(known))
    if word in words:
        return None
    plain = _plain(word)
    by_plain = {_plain(other): other for other in reversed(words)}
    if plain in by_plain:
        return by_plain[plain]
    found = get_close_matches(plain, by_plain, n=1, cutoff=_MIN_SIMILARITY)
    if found:
        return by_plain[found[0]]
    holding = [other for key, other in by_plain.items() if len(plain) >= _MIN_PART and plain in key]
    return holding[0] if len(holding) == 1 else None


def slip(word: str, known: Iterable[str], *, most: int = 2) -> str | None:
    """The known word that `word` can only be a slip of: case, or at most `most` letters.

    Stricter than `closest`, for places where people may use words of their own: short words, and
    those with another first letter, are taken as they are.
    """
    words = list(dict.fromkeys(known))
    if word in words:
        return None
    plain = _plain(word)
    by_plain = {_plain(other): other for other in reversed(words)}
    if plain in by_plain:
        return by_plain[plain]
    if len(plain) < _MIN_SLIP:
        return None
    distances = {key: _distance(plain, key) for key in by_plain if key[:1] == plain[0]}
    near = min(distances, key=distances.__getitem__, default=None)
    return None if near is None or distances[near] > most else by_plain[near]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'rounds'?` with its leading blank, or nothing."""
    found = closest(word, known)
    return f" Did you mean {found!r}?" if found else ""


def _distance(one: str, other: str) -> int:
    """How many letters have to be put in, taken out or changed: Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        before, row = row, [number]
        for position, wanted in enumerate(other, 1):
            changed = before[position - 1] + (letter != wanted)
            row.append(min(changed, before[position] + 1, row[-1] + 1))
    return row[-1]


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_").replace(" ", "_")
