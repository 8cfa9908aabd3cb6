"""Free greedy generation, read afterwards: the baseline of constrained decoding.

The model writes what it likes, as `transformers` generates it. What the answer marks is then placed
in the source (`PromptFormat.align`). This works with every prompt format, and needs neither tags
nor a grammar; it promises nothing about what the answer holds.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import InferenceError
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer, longest_first
from fedmedlora.prompts.pieces import cut
from fedmedlora.training.batches import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.models.load import BaseModel
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import PromptFormat

# Room for this many entities in an answer, besides twice the source.
_ROOM_ENTITIES = 32


class GenerateDecoder:
    """Greedy generation in batches of similar length; each row ends at an end-of-sequence token.

    The model's own end-of-sequence tokens count besides the tokenizer's; nothing else of its
    generation settings does (sampling, penalties, forced tokens). Spans have no log-probability.

    Args:
        base: The model, adapters merged.
        prompt_format: The prompts' format.
        batch_size: Windows answered side by side.
        max_new_tokens: Where an answer is cut off, end token included; `answer_limit` by default.
    """

    def __init__(
        self,
        base: BaseModel,
        prompt_format: PromptFormat,
        *,
        batch_size: int = 32,
        max_new_tokens: int | None = None,
    ) -> None:
        from transformers import GenerationConfig

        self._tokenizer = base.tokenizer
        self._format = prompt_format
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        self._context: int | None = getattr(base.model.config, "max_position_embeddings", None)
        self._end_ids = _end_ids(base)
        # `generate` fills what a call leaves open from the model's own settings: a shallow copy
        # that has none shares the weights and leaves the model as it is.
        self._model: Any = copy.copy(base.model)
        self._model.generation_config = GenerationConfig()

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        """The answers, in the order of the prompts; see `Decoder`.

        Raises:
            InferenceError: A prompt fills the model's context, so that there is no room to answer.
        """
        answers = [WindowAnswer(())] * len(prompts)
        order = longest_first(prompts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            written = self._generate([prompts[index] for index in batch])
            for index, (text, cut_off) in zip(batch, written, strict=True):
                answers[index] = _read(self._format, text, prompts[index], cut_off=cut_off)
                on_done(index)
        return answers

    def _generate(self, prompts: Sequence[Prompt]) -> list[tuple[str, bool]]:
        """What the model writes to each prompt, and whether it was cut off."""
        from transformers import GenerationConfig, StoppingCriteriaList

        encoded = [encode_prompt(prompt, self._tokenizer) for prompt in prompts]
        limits = [self._limit(*pair) for pair in zip(prompts, encoded, strict=True)]
        length = max(len(ids) for ids in encoded)
        pad_id = self._tokenizer.end_id
        ids = torch.full((len(encoded), length), pad_id)
        mask = torch.zeros((len(encoded), length), dtype=torch.long)
        for row, prompt_ids in enumerate(encoded):
            ids[row, length - len(prompt_ids) :] = torch.tensor(prompt_ids)
            mask[row, length - len(prompt_ids) :] = 1
        device = self._model.device
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=GenerationConfig(
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=max(limits),
                    eos_token_id=sorted(self._end_ids),
                    pad_token_id=pad_id,
                ),
                stopping_criteria=StoppingCriteriaList(
                    [_at_limits(length, torch.tensor(limits, device=device))]
                ),
            )
        rows = written[:, length:].tolist()
        return [self._text(row[:limit]) for row, limit in zip(rows, limits, strict=True)]

    def _limit(self, prompt: Prompt, prompt_ids: Sequence[int]) -> int:
        limit = self._max_new_tokens
        if limit is None:
            limit = answer_limit(prompt, self._format, self._tokenizer)
        if self._context is None:
            return limit
        room = self._context - len(prompt_ids)
        if room < 1:
            raise InferenceError(
                f"document {prompt.document_id}: window at {prompt.window.start}: its prompt of "
                f"{len(prompt_ids)} tokens leaves no room for an answer; expected fewer than "
                f"{self._context}. Use smaller windows."
            )
        return min(limit, room)

    def _text(self, row: Sequence[int]) -> tuple[str, bool]:
        for index, token in enumerate(row):
            if token in self._end_ids:
                return self._tokenizer.decode(list(row[:index])), False
        return self._tokenizer.decode(list(row)), True


def answer_limit(prompt: Prompt, prompt_format: PromptFormat, tokenizer: PieceTokenizer) -> int:
    """How many tokens an answer may have before it counts as cut off.

    Twice the source's tokens, plus the format's own tokens for 32 entities of the costliest label,
    plus the end token.
    """
    source = prompt.source
    num_source = sum(
        len(tokenizer.encode(source[piece.start : piece.end])) for piece in cut(source)
    )
    markup = [0]
    for label in prompt.labels:
        document = Document("", "x", (Entity.at("T1", label, 0, 1),))
        example = prompt_format.render(document, Span(0, 1), (label,))
        markup.append(sum(len(tokenizer.encode(part.text)) for part in example.completion))
    return 2 * num_source + _ROOM_ENTITIES * max(markup) + 1


def _read(prompt_format: PromptFormat, text: str, prompt: Prompt, *, cut_off: bool) -> WindowAnswer:
    aligned = prompt_format.align(text, prompt)
    spans = tuple(
        FoundSpan(span.label, span.start, span.end, math.nan, span.alignment)
        for span in aligned.spans
    )
    return WindowAnswer(spans, aligned.unaligned, aligned.unparsable, cut_off)


def _end_ids(base: BaseModel) -> frozenset[int]:
    settings = getattr(base.model, "generation_config", None)
    own = getattr(settings, "eos_token_id", None)
    more = own if isinstance(own, list) else [] if own is None else [own]
    return frozenset([base.tokenizer.end_id, *more])


def _at_limits(length: int, limits: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A stopping rule: which rows have as many new tokens as they may."""

    def reached(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return ids.shape[1] - length >= limits

    return reached
