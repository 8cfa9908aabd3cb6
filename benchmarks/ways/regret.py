"""How far a fast decoder's choices lie below those of decoding step by step, in logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fedmedlora.inference.cursor import CopyCursor
from fedmedlora.inference.path import AnswerPath
from fedmedlora.inference.step_decoder import _Engine
from fedmedlora.prompts.pieces import cut
from fedmedlora.training.batches import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.inference.cursor import Choice
    from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat


@dataclass(slots=True)
class _Row:
    """One answer on its given way."""

    path: AnswerPath
    pieces: list[tuple[int, int]]
    spans: list[FoundSpan]
    pending: list[int] = field(default_factory=list)

    def wanted(self) -> int:
        """The candidate that leads to the given spans."""
        cursor, choices = self.path.cursor, self.path.choices
        if cursor.opened_at >= 0:
            closes = self.pieces[cursor.at - 1][1] >= self.spans[0].end
            return self._token(choices, "close" if closes else "copy")
        starts = self.spans and self.pieces[cursor.at][0] == self.spans[0].start
        return self._token(choices, "open" if starts else "copy")

    def _token(self, choices: Sequence[Choice], kind: str) -> int:
        label = self.spans[0].label if kind == "open" else ""
        fits = [c for c in choices if c.kind == kind and c.label == label]
        return self.path.token_of((fits or list(choices))[0])

    def follow(self, token: int) -> None:
        """Go on by a candidate."""
        fed = self.path.follow(token)
        self.pending += [] if fed is None else [fed]
        self.pending += self.path.forced()
        num_closed = len(self.path.cursor.found)
        self.path.cursor.found.clear()
        del self.spans[:num_closed]


def regrets(
    base: BaseModel,
    tags: TagFormat,
    prompts: Sequence[Prompt],
    answers: Sequence[WindowAnswer],
    *,
    batch_size: int,
) -> list[float]:
    """For every choice on the way to these answers: the best candidate's logit minus the chosen's.

    The logits are those of the step decoder: one token of every row at a time.
    """
    found: list[float] = []
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].source))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found += _batch(base, tags, [prompts[i] for i in batch], [answers[i] for i in batch])
    return found


def _batch(
    base: BaseModel, tags: TagFormat, prompts: Sequence[Prompt], answers: Sequence[WindowAnswer]
) -> list[float]:
    found: list[float] = []
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        pieces = [(p.core_start, p.end) for p in cut(prompt.source)]
        path = AnswerPath(CopyCursor(prompt, tags, base.tokenizer))
        rows.append(_Row(path, pieces, list(answer.spans), path.forced()))
    with torch.inference_mode():
        engine = _Engine(base, [encode_prompt(prompt, base.tokenizer) for prompt in prompts])
        while True:
            for index, row in enumerate(rows):
                while not row.pending and not row.path.done:
                    candidates = row.path.candidates
                    weights = base.output_weight[candidates].float()
                    logits = (weights @ engine.hidden[index].float()).tolist()
                    token = row.wanted()
                    found.append(max(logits) - logits[candidates.index(token)])
                    row.follow(token)
            if not any(row.pending for row in rows):
                return found
            engine.feed([row.pending.pop(0) if row.pending else 0 for row in rows])
