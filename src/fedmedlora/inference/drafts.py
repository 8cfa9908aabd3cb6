"""Guesses of how an answer goes on. A wrong guess costs time, never a different answer.

Every pass answers more questions than it may use: those behind the first wrong guess were asked
with a wrong past, but mostly have the right answer. They are kept as hints for the next draft.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.inference.cursor import Choice
    from fedmedlora.inference.path import AnswerPath

State = Literal["outside", "label", "inside", "number"]


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """How far to guess. Guessing further saves passes and costs tokens.

    Attributes:
        unsure_guesses: Labels and ends guessed without a hint, before a draft stops.
        open_pieces: Pieces of a span whose end nothing hints at.
        max_tokens: Tokens of a draft, those that are certain not counted.
    """

    unsure_guesses: int
    open_pieces: int
    max_tokens: int


FEW_TOKENS = DraftLimits(unsure_guesses=1, open_pieces=3, max_tokens=12)
"""For many windows side by side, where the time goes into tokens (docs/log.md)."""
FEW_PASSES = DraftLimits(unsure_guesses=3, open_pieces=4, max_tokens=96)
"""For a window alone, where the time goes into passes."""


@dataclass(frozen=True, slots=True)
class Question:
    """A choice that a draft passes by.

    Attributes:
        offset: Which of the fed tokens' hidden state answers it.
        candidates: The tokens to compare.
        guess: The one that the draft goes on with; None where it ends here.
        state: What is being decided.
        piece: At which piece of the source.
        num_told: How many numbers of the present tag are written.
        choices: The ways on, in the candidates' order.
        bonuses: What each candidate is given beside its logit.
    """

    offset: int
    candidates: list[int]
    guess: int | None
    state: State
    piece: int
    num_told: int
    choices: list[Choice]
    bonuses: list[float]


@dataclass(slots=True)
class Draft:
    """Tokens to feed, of which the first `num_certain` are no guess, and the questions on them."""

    tokens: list[int]
    num_certain: int
    questions: list[Question]


@dataclass(slots=True)
class Hints:
    """What a window's earlier passes said, by piece."""

    opens: dict[int, bool] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)
    closes: dict[int, bool] = field(default_factory=dict)
    numbers: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    def learn(self, question: Question, answer: int) -> None:
        """Keep an answer, whether or not what came before it was guessed right.

        Args:
            question: Of an earlier draft.
            answer: Index of the best of its candidates.
        """
        choice = question.choices[answer]
        if question.state == "outside":
            self.opens[question.piece] = choice.kind != "copy"
        elif question.state == "number":
            self.numbers[question.piece, question.num_told] = (choice.kind, choice.label)
        elif question.state == "inside":
            self.closes[question.piece] = choice.kind == "close"
        else:
            self.labels[question.piece] = choice.label


class Memory:
    """Which label and how many pieces the spans had that began with a word."""

    def __init__(self) -> None:
        self._by_word: dict[str, tuple[str, int]] = {}
        self._labels: Counter[str] = Counter()

    def learn(self, word: str, label: str, num_pieces: int) -> None:
        """Remember a span that was found."""
        self._by_word[word.lower()] = (label, num_pieces)
        self._labels[label] += 1

    def label(self, word: str) -> str | None:
        """The label to expect; None before anything was found."""
        if known := self._by_word.get(word.lower()):
            return known[0]
        return self._labels.most_common(1)[0][0] if self._labels else None

    def num_pieces(self, word: str) -> int | None:
        """The length to expect, where the word is known."""
        known = self._by_word.get(word.lower())
        return known[1] if known else None


def draft(
    path: AnswerPath, pending: Sequence[int], hints: Hints, memory: Memory, limits: DraftLimits
) -> Draft:
    """The pending tokens and a guess of what follows them. The path itself is not moved.

    Args:
        path: Stands at a question, or at its end.
        pending: Certain tokens that were not fed yet.
        hints: Of this window.
        memory: Of all windows so far.
        limits: How far to go.
    """
    tokens = list(pending)
    questions: list[Question] = []
    guesses_left, pieces_left = limits.unsure_guesses, limits.open_pieces
    last = len(tokens) + limits.max_tokens
    ahead = path.fork()
    while not ahead.done:
        wanted, sure = _guess(ahead, hints, memory)
        state = _state(ahead)
        choices = _by_candidate(ahead)
        piece = ahead.cursor.at
        candidates = list(choices)
        unhinted = state == "inside" and piece not in hints.closes and wanted.kind == "copy"
        pieces_left = pieces_left - 1 if unhinted else limits.open_pieces
        guesses_left -= not sure
        stop = guesses_left < 0 or pieces_left < 0 or len(tokens) >= last
        guess = None if stop else ahead.token_of(wanted)
        questions.append(
            Question(
                len(tokens) - 1,
                candidates,
                guess,
                state,
                piece,
                ahead.cursor.num_told,
                list(choices.values()),
                ahead.bonuses,
            )
        )
        if guess is None:
            break
        token = ahead.follow(guess)
        tokens += [] if token is None else [token]
        tokens += ahead.forced()
    return Draft(tokens, len(pending), questions)


def _by_candidate(path: AnswerPath) -> dict[int, Choice]:
    """The first choice behind each candidate token."""
    found: dict[int, Choice] = {}
    for choice in path.choices:
        found.setdefault(path.token_of(choice), choice)
    return found


def _state(path: AnswerPath) -> State:
    if path.cursor.num_told >= 0:
        return "number"
    if all(choice.kind == "open" for choice in path.choices):
        return "label"
    return "inside" if path.cursor.opened_at >= 0 else "outside"


def _guess(path: AnswerPath, hints: Hints, memory: Memory) -> tuple[Choice, bool]:
    """The choice that is most likely to win, and whether a hint says so."""
    cursor, choices = path.cursor, path.choices
    at = cursor.at
    state = _state(path)
    if state == "number":
        hint = hints.numbers.get((at, cursor.num_told))
        known = next((c for c in choices if (c.kind, c.label) == hint), None)
        return known or _of_number(choices, cursor.nearest()), known is not None
    if state == "inside":
        closes = hints.closes.get(at)
        if closes is None:
            expected = memory.num_pieces(cursor.word(cursor.opened_at))
            close = expected is not None and at - cursor.opened_at >= expected
            return _of_kind(choices, "close" if close else "copy"), not close
        return _of_kind(choices, "close" if closes else "copy"), True
    if state == "outside":
        return _of_kind(choices, "open" if hints.opens.get(at) else "copy"), True
    label = hints.labels.get(at)
    if label is not None:
        return _of_label(choices, label), True
    return _of_label(choices, memory.label(cursor.word(at))), False


def _of_kind(choices: Sequence[Choice], kind: str) -> Choice:
    return next((choice for choice in choices if choice.kind == kind), choices[0])


def _of_number(choices: Sequence[Choice], number: str) -> Choice:
    """The number as the last one of its tag."""
    ends = [choice for choice in choices if choice.kind == "number"]
    return next((c for c in ends if c.label == number), ends[0] if ends else choices[0])


def _of_label(choices: Sequence[Choice], label: str | None) -> Choice:
    return next((choice for choice in choices if choice.label == label), choices[0])
