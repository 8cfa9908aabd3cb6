"""An answer on its way: the tokens that are certain, and the next question to the model.

Both constrained decoders walk the same path; they differ only in how they get the logits.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from fedmedlora.inference.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.inference.cursor import Choice, Cursor


class AnswerPath:
    """The state of one answer: a place in the source, and the decision that is being made there.

    Call `forced` for the tokens up to the next question, then `pick` with the logits of
    `candidates`, and so on until `done`. For `open_bonus` see `Decision`.
    """

    def __init__(self, cursor: Cursor, open_bonus: float = 0.0) -> None:
        self.cursor = cursor
        self._open_bonus = open_bonus
        self._decision: Decision | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask and to copy."""
        return self._decision is None and self.cursor.done

    @property
    def candidates(self) -> list[int]:
        """The tokens between which the model has to choose; empty where there is no question."""
        return self._decision.candidates if self._decision else []

    @property
    def bonuses(self) -> list[float]:
        """What each of `candidates` is given beside its logit."""
        return self._decision.bonuses if self._decision else []

    @property
    def choices(self) -> list[Choice]:
        """The ways on that are still open in the present decision."""
        return self._decision.remaining if self._decision else []

    def token_of(self, choice: Choice) -> int:
        """The candidate that leads to this one of `choices`."""
        if self._decision is None:
            raise ValueError("answer path: there is no question; call forced() first.")
        return self._decision.token_of(choice)

    def forced(self) -> list[int]:
        """The tokens that are certain before the next question; the path goes on behind them."""
        tokens: list[int] = []
        while True:
            if self._decision is None:
                if self.cursor.done:
                    return tokens
                choices = self.cursor.choices()
                if len(choices) == 1:
                    tokens += choices[0].token_ids
                    self.cursor.take(choices[0], 0.0)
                    continue
                self._decision = Decision(self.cursor, choices, self._open_bonus)
            chosen = self._decision.choice
            if chosen is not None:
                tokens += chosen.token_ids[self._decision.num_given_tokens :]
                self.cursor.take(chosen, self._decision.log_probability)
                self._decision = None
            elif len(self._decision.candidates) == 1:
                token = self._decision.follow(self._decision.candidates[0])
                tokens += [] if token is None else [token]
            else:
                return tokens

    def pick(self, logits: Sequence[float]) -> int | None:
        """Go on by the highest logit; the token to feed, or None where it only looked ahead.

        Args:
            logits: One for each of `candidates`.
        """
        if self._decision is None:
            raise ValueError("answer path: there is no question; call forced() first.")
        return self._decision.pick(logits)

    def follow(self, token: int) -> int | None:
        """Go on by one of `candidates`, as a guess; the token to feed, or None as in `pick`."""
        if self._decision is None:
            raise ValueError("answer path: there is no question; call forced() first.")
        return self._decision.follow(token)

    def fork(self) -> AnswerPath:
        """A second path from here; what it finds is its own."""
        other = AnswerPath(self.cursor.fork(), self._open_bonus)
        other._decision = copy.copy(self._decision)
        return other
