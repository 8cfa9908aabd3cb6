"""Following a source through an answer that copies it with faults."""

from __future__ import annotations

from bisect import bisect_left

# Where the two part, they meet again at the next place where this many characters agree, or all
# that is left of both if that is at least `_SHORTEST`. Fewer meet by chance.
_LONGEST = 8
_SHORTEST = 3
_END = "\0" * (_LONGEST - _SHORTEST)


def follow(answer: str, source: str) -> list[int]:
    """For each character of the answer the place of its original in the source, or -1.

    The places rise. Where answer and source part, the least is skipped on both sides together.
    Takes time in proportion to the two lengths.
    """
    places = [-1] * len(answer)
    answer_grams = _grams(answer)
    starts: dict[str, list[int]] = {}
    at = source_at = 0
    while at < len(answer) and source_at < len(source):
        if answer[at] == source[source_at]:
            places[at] = source_at
            at, source_at = at + 1, source_at + 1
            continue
        if not starts:
            for start, gram in enumerate(_grams(source)):
                starts.setdefault(gram, []).append(start)
        met = _meet(answer_grams, at, source_at, starts)
        if met is None:
            break
        at, source_at = met
    return places


def _grams(text: str) -> list[str]:
    padded = text + _END
    return [padded[start : start + _LONGEST] for start in range(len(padded) - _LONGEST + 1)]


def _meet(
    answer_grams: list[str], at: int, source_at: int, starts: dict[str, list[int]]
) -> tuple[int, int] | None:
    """The nearest places behind these from which answer and source agree again."""
    best: tuple[int, int] | None = None
    least = len(answer_grams) + len(starts)
    for index in range(at, len(answer_grams)):
        if index - at >= least:
            break
        found = starts.get(answer_grams[index], ())
        first = bisect_left(found, source_at)
        if first < len(found) and index - at + found[first] - source_at < least:
            best = (index, found[first])
            least = index - at + found[first] - source_at
    return best
