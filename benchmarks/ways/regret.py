"""How far a fast decoder's choices lie below those of decoding step by step, in logits."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from fedmedlora.inference import copy_decoder, cursors
from fedmedlora.inference.cursor import CopyCursor
from fedmedlora.inference.path import AnswerPath
from fedmedlora.inference.step_decoder import _Engine
from fedmedlora.training.batches import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.models.load import BaseModel
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat


Key = tuple[str, int]
"""Of a prompt: its document and where its window starts."""


class _RecordingCursor(CopyCursor):
    """Knows which prompt it reads."""

    def __init__(self, prompt: Prompt, tags: TagFormat, tokenizer: PieceTokenizer) -> None:
        super().__init__(prompt, tags, tokenizer)
        self.key = prompt.document_id, prompt.window.start


@contextmanager
def recorded_choices() -> Iterator[dict[Key, list[int]]]:
    """While it is open, the tokens that copy decoders choose, by prompt."""
    chosen: dict[Key, list[int]] = {}

    class RecordingPath(AnswerPath):
        def pick(self, logits: Sequence[float]) -> int | None:
            cursor = self.cursor
            if isinstance(cursor, _RecordingCursor):
                best = self.candidates[list(logits).index(max(logits))]
                chosen.setdefault(cursor.key, []).append(best)
            return super().pick(logits)

    with (
        patch.object(copy_decoder, "AnswerPath", RecordingPath),
        patch.object(cursors, "CopyCursor", _RecordingCursor),
    ):
        yield chosen


@dataclass(slots=True)
class _Row:
    """One answer on its given way."""

    path: AnswerPath
    choices: list[int]
    pending: list[int] = field(default_factory=list)

    def follow(self) -> int:
        """Go on by the next given choice, and return it."""
        token = self.choices.pop(0)
        fed = self.path.follow(token)
        self.pending += [] if fed is None else [fed]
        self.pending += self.path.forced()
        return token


def regrets(
    base: BaseModel,
    tags: TagFormat,
    prompts: Sequence[Prompt],
    chosen: Mapping[Key, Sequence[int]],
    *,
    batch_size: int,
) -> list[float]:
    """For every choice that was made: the best candidate's logit minus the chosen's.

    The logits are those of the step decoder: one token of every row at a time.
    """
    found: list[float] = []
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].source))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found += _batch(base, tags, [prompts[i] for i in batch], chosen)
    return found


def _batch(
    base: BaseModel, tags: TagFormat, prompts: Sequence[Prompt], chosen: Mapping[Key, Sequence[int]]
) -> list[float]:
    found: list[float] = []
    rows = []
    for prompt in prompts:
        path = AnswerPath(CopyCursor(prompt, tags, base.tokenizer))
        choices = list(chosen.get((prompt.document_id, prompt.window.start), ()))
        rows.append(_Row(path, choices, path.forced()))
    with torch.inference_mode():
        engine = _Engine(base, [encode_prompt(prompt, base.tokenizer) for prompt in prompts])
        while True:
            for index, row in enumerate(rows):
                while not row.pending and not row.path.done:
                    candidates = row.path.candidates
                    weights = base.output_weight[candidates].float()
                    logits = (weights @ engine.hidden[index].float()).tolist()
                    found.append(max(logits) - logits[candidates.index(row.follow())])
            if not any(row.pending for row in rows):
                return found
            engine.feed([row.pending.pop(0) if row.pending else 0 for row in rows])
