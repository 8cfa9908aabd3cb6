"""Draft-and-verify decoding: the source itself is the draft of the answer.

One pass of the network reads a whole draft and answers every question on it: does a tag beat
copying here, which label, does the span end? All up to the first wrong guess is accepted. The
answer is that of the step decoder, which decides by the same path, one token at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.inference.cursors import require_copying, start_of
from fedmedlora.inference.decision import best_of
from fedmedlora.inference.decoder import WindowAnswer, longest_first
from fedmedlora.inference.drafts import (
    FEW_PASSES,
    FEW_TOKENS,
    Draft,
    DraftLimits,
    Hints,
    Memory,
    draft,
)
from fedmedlora.inference.packed_model import Feed, PackedModel
from fedmedlora.inference.path import AnswerPath
from fedmedlora.training.batches import encode_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.inference.cursors import Tags
    from fedmedlora.models.load import BaseModel

# Windows are let in until a pass has so many new tokens: larger ones leave the processor's caches.
_MANY_TOKENS = 384


@dataclass(slots=True)
class _Row:
    """One window being answered in one row of the cache."""

    prompt: int
    slot: int
    path: AnswerPath
    pending: list[int]
    fed: int = 0
    num_found: int = 0
    hints: Hints = field(default_factory=Hints)


class CopyDecoder:
    """Constrained decoding by verified copying.

    Windows are taken longest first; as soon as one is answered, the next takes its row. Guesses
    learn from the windows before, within one call of `decode` only.

    Args:
        base: The model, adapters merged.
        tags: The prompts' format.
        batch_size: Rows, that is windows side by side.
        limits: How far drafts go; by default further where a window is alone.
        open_bonus: Of tags that open; see `Decision`.

    Raises:
        ConfigError: The format has no tags, or there are no rows.
        InferenceError: The model is of a kind that cannot read packed rows.

    Attributes:
        num_passes: Passes of the network so far.
        num_fed_tokens: Tokens that they read, the instructions not counted.
    """

    def __init__(
        self,
        base: BaseModel,
        tags: Tags,
        *,
        batch_size: int = 64,
        limits: DraftLimits | None = None,
        open_bonus: float = 0.0,
    ) -> None:
        self._tags, self._tokenizer = require_copying(tags), base.tokenizer
        if batch_size < 1:
            raise ConfigError(
                f"copy decoder: expected a batch_size of at least 1, got {batch_size}."
            )
        self._batch_size = batch_size
        self._limits = limits
        self._open_bonus = open_bonus
        self._model = PackedModel(base)
        self._weight = base.output_weight
        self.num_passes = 0
        self.num_fed_tokens = 0

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        """The answers, in the order of the prompts; see `Decoder`."""
        answers = [WindowAnswer(())] * len(prompts)
        limits = self._limits or (FEW_TOKENS if len(prompts) > 1 else FEW_PASSES)
        by_instruction: dict[tuple[int, ...], list[int]] = {}
        windows: dict[int, tuple[int, ...]] = {}
        for index in longest_first(prompts):
            instruction, windows[index] = encode_parts(prompts[index], self._tokenizer)
            by_instruction.setdefault(instruction, []).append(index)
        memory = Memory()
        for instruction, queue in by_instruction.items():
            # For the longest source twice and some tags; the cache grows where that is too little.
            length = 3 * max(len(windows[index]) for index in queue)
            num_rows = min(self._batch_size, len(queue))
            self._model.start(instruction, num_rows, length)
            free, rows = list(range(num_rows)), list[_Row]()
            queue.reverse()
            while queue or rows:
                num_new_tokens = 0
                while free and queue and num_new_tokens < _MANY_TOKENS:
                    index = queue.pop()
                    cursor = start_of(prompts[index], self._tags, self._tokenizer)
                    path = AnswerPath(cursor, self._open_bonus)
                    pending = [*windows[index], *path.forced()]
                    num_new_tokens += len(pending)
                    rows.append(_Row(index, free.pop(0), path, pending))
                self._pass([row for row in rows if not row.path.done], memory, limits)
                for row in rows:
                    if row.path.done:
                        answers[row.prompt] = WindowAnswer(tuple(row.path.cursor.found))
                        free.append(row.slot)
                        on_done(row.prompt)
                rows = [row for row in rows if not row.path.done]
        return answers

    def _pass(self, rows: Sequence[_Row], memory: Memory, limits: DraftLimits) -> None:
        """Feed every row a draft and take over what was guessed right."""
        if not rows:
            return
        drafts = [draft(r.path, r.pending, r.hints, memory, limits) for r in rows]
        with torch.inference_mode():
            hidden = self._model.feed(
                [Feed(r.slot, r.fed, d.tokens) for r, d in zip(rows, drafts, strict=True)]
            )
            logits = self._logits(hidden, drafts)
        self.num_passes += 1
        self.num_fed_tokens += len(hidden)
        at = 0
        for row, guessed in zip(rows, drafts, strict=True):
            _take_over(row, guessed, logits[at : at + len(guessed.questions)])
            at += len(guessed.questions)
            for span in row.path.cursor.found[row.num_found :]:
                memory.learn(*row.path.cursor.extent(span))
            row.num_found = len(row.path.cursor.found)

    def _logits(self, hidden: torch.Tensor, drafts: Sequence[Draft]) -> list[list[float]]:
        """For each question of all drafts, the logits of its candidates (and some padding)."""
        places, tables = [], []
        start = 0
        for guessed in drafts:
            for question in guessed.questions:
                places.append(start + question.offset)
                tables.append(question.candidates)
            start += len(guessed.tokens)
        width = max(len(table) for table in tables)
        padded = torch.tensor([table + [table[0]] * (width - len(table)) for table in tables])
        # Only the logits that are compared, not the whole vocabulary.
        wanted = self._weight[padded.to(self._weight.device)].float()
        states = hidden[torch.tensor(places, device=hidden.device)].float()
        found: list[list[float]] = torch.einsum("qwh,qh->qw", wanted, states).tolist()
        return found


def _take_over(row: _Row, guessed: Draft, logits: Sequence[Sequence[float]]) -> None:
    """Walk the row's path as far as the guesses hold; keep the other answers as hints."""
    walking = True
    for question, padded in zip(guessed.questions, logits, strict=True):
        values = padded[: len(question.candidates)]
        winner = best_of(values, question.bonuses)
        row.hints.learn(question, winner)
        if not walking:
            continue
        token = row.path.pick(values)
        follows = row.path.forced()
        if question.candidates[winner] != question.guess:
            walking = False
            row.fed += question.offset + 1
            row.pending = follows if token is None else [token, *follows]
            if not row.pending and not row.path.done:
                # It only looked ahead: the next question is asked of the same hidden state.
                row.fed -= 1
                row.pending = [guessed.tokens[question.offset]]
    if walking:  # the last question was guessed right, and the answer ends behind it
        row.fed += len(guessed.tokens)
        row.pending = []
