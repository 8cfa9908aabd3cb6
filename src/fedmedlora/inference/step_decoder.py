"""Constrained greedy decoding, one token of every row at a time.

Plain and right: this is the oracle of any faster decoder. At each piece boundary the model chooses
between the cursor's choices by their logits, taken in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.inference.cursors import require_copying, start_of
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer, longest_first
from fedmedlora.inference.path import AnswerPath
from fedmedlora.training.batches import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.inference.cursors import Tags
    from fedmedlora.models.load import BaseModel


@dataclass(slots=True)
class _Row:
    """One window being answered, and the tokens to feed before its next question."""

    path: AnswerPath
    pending: list[int] = field(default_factory=list)

    def asks(self) -> bool:
        """Whether logits are needed. Otherwise a token is pending or the row is done."""
        if not self.pending:
            self.pending += self.path.forced()
        return not self.pending and not self.path.done


class StepDecoder:
    """Constrained decoding in batches of similar length, one token of every row at a time.

    Args:
        base: The model, adapters merged.
        tags: The prompts' format.
        batch_size: Windows decoded side by side.
        open_bonus: Of tags that open; see `Decision`.

    Raises:
        ConfigError: The format has no tags.
    """

    def __init__(
        self, base: BaseModel, tags: Tags, *, batch_size: int = 64, open_bonus: float = 0.0
    ) -> None:
        self._base, self._tags, self._batch_size = base, require_copying(tags), batch_size
        self._open_bonus = open_bonus

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        """The answers, in the order of the prompts; see `Decoder`."""
        answers = [WindowAnswer(())] * len(prompts)
        order = longest_first(prompts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            some = [prompts[index] for index in batch]
            found = decode_batch(self._base, some, self._tags, open_bonus=self._open_bonus)
            for index, spans in zip(batch, found, strict=True):
                answers[index] = WindowAnswer(tuple(spans))
                on_done(index)
        return answers


def decode_batch(
    base: BaseModel,
    prompts: Sequence[Prompt],
    tags: Tags,
    on_token: Callable[[int], None] = lambda _: None,
    *,
    open_bonus: float = 0.0,
) -> list[list[FoundSpan]]:
    """The spans that the model tags in each prompt's source, in text order.

    Args:
        base: The model, adapters merged.
        prompts: One batch; memory grows with its longest prompt.
        tags: The prompts' format.
        on_token: Told how many rows were fed at each step.
        open_bonus: Of tags that open; see `Decision`.
    """
    cursors = [start_of(prompt, tags, base.tokenizer) for prompt in prompts]
    rows = [_Row(AnswerPath(cursor, open_bonus)) for cursor in cursors]
    with torch.inference_mode():
        engine = _Engine(base, [encode_prompt(prompt, base.tokenizer) for prompt in prompts])
        active = list(rows)
        while True:
            _decide(active, engine, base.output_weight)
            running = [index for index, row in enumerate(active) if row.pending]
            if not running:
                return [row.path.cursor.found for row in rows]
            # Finished rows still cost their share of each step; drop them once it pays.
            if 2 * len(running) <= len(active):
                engine.keep(running)
                active = [active[index] for index in running]
            on_token(len(active))
            engine.feed([row.pending.pop(0) if row.pending else 0 for row in active])


def _decide(rows: Sequence[_Row], engine: _Engine, output_weight: torch.Tensor) -> None:
    """Make every decision that the present hidden states allow."""
    while True:
        asking = [(index, row) for index, row in enumerate(rows) if row.asks()]
        if not asking:
            return
        tables = [row.path.candidates for _, row in asking]
        width = max(len(table) for table in tables)
        padded = torch.tensor([table + [table[0]] * (width - len(table)) for table in tables])
        hidden = engine.hidden[[index for index, _ in asking]].float()
        # (rows, width): only the logits that are compared, not the whole vocabulary
        wanted = output_weight[padded.to(output_weight.device)].float()
        logits = torch.einsum("rwh,rh->rw", wanted, hidden).tolist()
        for (_, row), table, values in zip(asking, tables, logits, strict=True):
            token = row.path.pick(values[: len(table)])
            row.pending += [] if token is None else [token]


class _Engine:
    """The network with its cache: feed one token a row, read the last hidden state a row."""

    def __init__(self, base: BaseModel, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        self._backbone: Any = base.backbone
        self._device = base.output_weight.device
        self._cache = DynamicCache(config=base.model.config)
        length = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), length), base.tokenizer.end_id)
        self._mask = torch.zeros((len(prompts), length), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            self._mask[row, length - len(prompt) :] = 1
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        self.hidden = self._run(ids, positions)

    def feed(self, tokens: Sequence[int]) -> None:
        """Append one token to every row."""
        ones = torch.ones((len(tokens), 1), dtype=torch.long)
        self._mask = torch.cat([self._mask, ones], dim=1)
        positions = self._mask.sum(dim=1, keepdim=True) - 1
        self.hidden = self._run(torch.tensor(tokens)[:, None], positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        index = torch.tensor(rows)
        self._cache.batch_select_indices(index.to(self._device))
        self._mask = self._mask[index]
        self.hidden = self.hidden[index.to(self._device)]

    def _run(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The hidden state of each row's last token, `(rows, hidden)`."""
        output = self._backbone(
            input_ids=ids.to(self._device),
            attention_mask=self._mask.to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
        )
        state: torch.Tensor = output.last_hidden_state[:, -1]
        return state
