"""The paper's way at its best settings: `transformers.generate`, then reading the answer.

Greedy, cached, padded on the left, in batches of similar length, with the fused attention of
PyTorch, real answer lengths (a row ends with its end token, a batch with its last row), and a limit
far above any right answer. A batch may be given the key-value cache of the start that its prompts
share; alone in its batch, a sentence may use prompt lookup. Both give the same tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.ways.way import Answers, Setting, counted
from fedmedlora.core.errors import ConfigError
from fedmedlora.training.batches import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.ways.sentences import Sentence
    from benchmarks.ways.way import Work
    from fedmedlora.core.document import Entity
    from fedmedlora.core.example import Prompt
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat


class Generate:
    """`transformers.generate` over a model with its adapter merged."""

    def __init__(self, base: BaseModel, tags: TagFormat) -> None:
        self._base, self._tags = base, tags
        self._device = base.output_weight.device

    def answer(self, sentences: Sequence[Sentence], setting: Setting) -> Answers:
        """The entities of every sentence, as far as its answer can be read.

        Raises:
            ConfigError: The model would not run with fused attention.
        """
        attention = self._base.model.config._attn_implementation
        if attention != "sdpa":
            raise ConfigError(f"generate: expected attention by sdpa, got {attention}.")
        prompts = [sentence.prompt(self._tags) for sentence in sentences]
        encoded = [encode_prompt(prompt, self._base.tokenizer) for prompt in prompts]
        entities: list[tuple[Entity, ...]] = [()] * len(prompts)
        with torch.inference_mode(), counted(self._base.backbone) as work:
            for batch in _batches(prompts, encoded, setting):
                limit = self._limit([prompts[index] for index in batch])
                rows = self._complete([encoded[index] for index in batch], limit, setting)
                for index, row in zip(batch, rows, strict=True):
                    entities[index] = self._read(row, prompts[index], work)
        return Answers(entities, work)

    def _limit(self, prompts: Sequence[Prompt]) -> int:
        """Three times the copied text and room for a few tags: no right answer comes near it."""
        encode = self._base.tokenizer.encode
        return 3 * max(len(encode(prompt.source)) for prompt in prompts) + 64

    def _complete(
        self, prompts: Sequence[Sequence[int]], limit: int, setting: Setting
    ) -> list[list[int]]:
        """The new tokens of each row, up to its end token, which is kept."""
        from transformers import GenerationConfig

        end = self._base.tokenizer.end_id
        length = max(len(prompt) for prompt in prompts)
        shared = _num_shared(prompts) if setting.share_prefix and len(prompts) > 1 else 0
        ids = torch.full((len(prompts), length), end)
        mask = torch.zeros((len(prompts), length), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            # Padding stands in front, but behind what the cache holds already.
            for start, part in (
                (0, prompt[:shared]),
                (length - len(prompt) + shared, prompt[shared:]),
            ):
                ids[row, start : start + len(part)] = torch.tensor(part)
                mask[row, start : start + len(part)] = 1
        config: Any = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=limit,
            eos_token_id=end,
            pad_token_id=end,
            prompt_lookup_num_tokens=setting.lookup_tokens or None,
        )
        output = self._base.model.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            past_key_values=self._cache_of(prompts[0][:shared], len(prompts)) if shared else None,
            generation_config=config,
        )
        rows: list[list[int]] = output[:, length:].tolist()
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

    def _cache_of(self, tokens: Sequence[int], num_rows: int) -> Any:
        """The key-value cache of these tokens, the same for every row."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._base.model.config)
        ids = torch.tensor([tokens], device=self._device)
        self._base.backbone(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(num_rows)
        return cache

    def _read(self, row: list[int], prompt: Prompt, work: Work) -> tuple[Entity, ...]:
        tokenizer = self._base.tokenizer
        work.num_new_tokens += len(row)
        if row[-1:] == [tokenizer.end_id]:
            row = row[:-1]
        else:
            work.num_cut += 1
        return self._tags.parse(tokenizer.decode(row), prompt).entities


def _batches(
    prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], setting: Setting
) -> Iterator[list[int]]:
    """The prompts' indices, longest first; where a prefix is shared, one instruction a batch."""
    groups: dict[str, list[int]] = {}
    for index in sorted(range(len(prompts)), key=lambda index: -len(encoded[index])):
        key = prompts[index].instruction if setting.share_prefix else ""
        groups.setdefault(key, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), setting.batch_size):
            yield group[start : start + setting.batch_size]


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; of the shortest at least one is left over."""
    shared = 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared
