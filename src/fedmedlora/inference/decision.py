"""One decision between choices that are token sequences: compare where they first differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.inference.cursor import Choice, Cursor


class Decision:
    """Choices narrowed down token by token until one is left.

    Where one choice's tokens begin another's (a note may hold our own tag strings), the shorter one
    is compared with the first token that would follow it if all were copied. Choices that are still
    equal then are a tie, and the first wins.

    Args:
        cursor: Where the decision is made.
        choices: At least one.
        open_bonus: What a token that can only open a tag is given beside its logit
            (`calibration`). The log-probability stays the model's own.
    """

    def __init__(self, cursor: Cursor, choices: Sequence[Choice], open_bonus: float = 0.0) -> None:
        self._open_bonus = open_bonus
        self._paths = [
            (choice, (*choice.token_ids, cursor.copied_on(choice)))
            if _begins_another(choice, choices)
            else (choice, choice.token_ids)
            for choice in choices
        ]
        self._depth = 0
        self.log_probability = 0.0

    @property
    def choice(self) -> Choice | None:
        """The choice that was made, once there is nothing left to compare."""
        for choice, _ in self._paths:
            if len(self._paths) == 1 or self._depth > len(choice.token_ids):
                return choice
        return None

    @property
    def num_given_tokens(self) -> int:
        """How many of the choice's tokens `pick` and `follow` have given out already."""
        return self._depth

    @property
    def candidates(self) -> list[int]:
        """The different next tokens, in the order of their first choice."""
        return list(dict.fromkeys(path[self._depth] for _, path in self._paths))

    @property
    def bonuses(self) -> list[float]:
        """What each of `candidates` is given beside its logit."""
        if not self._open_bonus:  # asked at every choice of every draft
            return [0.0] * len(self.candidates)
        opens: dict[int, bool] = {}
        for choice, path in self._paths:
            token = path[self._depth]
            opens[token] = opens.get(token, True) and choice.kind == "open"
        # Between labels of an opening tag the model decides alone.
        given = self._open_bonus if not all(opens.values()) else 0.0
        return [given if opens[token] else 0.0 for token in self.candidates]

    @property
    def remaining(self) -> list[Choice]:
        """The choices that are still compared, in their order."""
        return [choice for choice, _ in self._paths]

    def token_of(self, choice: Choice) -> int:
        """The candidate that leads to this one of the remaining choices."""
        return next(path[self._depth] for other, path in self._paths if other is choice)

    def pick(self, logits: Sequence[float]) -> int | None:
        """The candidate with the highest logit, bonus included, ties to the first; others go.

        None where the comparison only looked ahead, so that there is no token to feed.

        Args:
            logits: One for each of `candidates`, without the bonuses.
        """
        best = best_of(logits, self.bonuses)
        total = sum(math.exp(value - logits[best]) for value in logits)
        self.log_probability -= math.log(total)
        return self.follow(self.candidates[best])

    def follow(self, token: int) -> int | None:
        """Keep the choices that go on with this token; returns it, or None as in `pick`."""
        self._paths = [(c, path) for c, path in self._paths if path[self._depth] == token]
        self._depth += 1
        looked_ahead = any(self._depth > len(choice.token_ids) for choice, _ in self._paths)
        return None if looked_ahead else token


def best_of(logits: Sequence[float], bonuses: Sequence[float]) -> int:
    """The index of the highest sum, ties to the first."""
    values = [logit + bonus for logit, bonus in zip(logits, bonuses, strict=True)]
    return values.index(max(values))


def _begins_another(choice: Choice, choices: Sequence[Choice]) -> bool:
    own = choice.token_ids
    return any(other is not choice and other.token_ids[: len(own)] == own for other in choices)
