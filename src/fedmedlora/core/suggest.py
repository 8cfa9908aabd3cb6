"""The known word that somebody probably meant."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MIN_SIMILARITY = 0.7
_MIN_PART = 4
_MIN_SLIP = 5


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs by a slip: case, a letter or two, or a part left out.

    None if the word itself is known, or nothing is near enough to be meant.
    """
    return _meant(word, known, _similar)


def slip(word: str, known: Iterable[str], *, most: int = 2) -> str | None:
    """The known word that `word` can only be a slip of: case, or at most `most` letters.

    Stricter than `closest`, for places where people may use words of their own: short words, and
    those with another first letter, are taken as they are.
    """
    return _meant(word, known, partial(_slipped, most=most))


def _meant(
    word: str, known: Iterable[str], near: Callable[[str, Iterable[str]], str | None]
) -> str | None:
    words = list(dict.fromkeys(known))
    if word in words:
        return None
    by_plain = {_plain(other): other for other in reversed(words)}
    plain = _plain(word)
    found = plain if plain in by_plain else near(plain, by_plain)
    return None if found is None else by_plain[found]


def _similar(plain: str, known: Iterable[str]) -> str | None:
    if found := get_close_matches(plain, known, n=1, cutoff=_MIN_SIMILARITY):
        return found[0]
    holding = [other for other in known if len(plain) >= _MIN_PART and plain in other]
    return holding[0] if len(holding) == 1 else None


def _slipped(plain: str, known: Iterable[str], most: int) -> str | None:
    if len(plain) < _MIN_SLIP:
        return None
    distances = {other: _distance(plain, other) for other in known if other[:1] == plain[0]}
    near = min(distances, key=distances.__getitem__, default=None)
    return None if near is None or distances[near] > most else near


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
