"""The peer is what it claims to be: greedy decoding, the same tokens at every setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.ways.generate import Generate
from benchmarks.ways.sentences import Sentence
from benchmarks.ways.way import Setting
from fedmedlora.core.errors import ConfigError
from fedmedlora.models.load import BaseModel
from fedmedlora.prompts.registry import get_format
from fedmedlora.training.batches import encode_example, encode_prompt

HTML = get_format("html")
LIMIT = 30


class Watched(Generate):
    """The peer with a short limit; keeps the new tokens of every prompt."""

    def __init__(self, base: BaseModel, limit: int = LIMIT) -> None:
        super().__init__(base, HTML)
        self.limit = limit
        self.rows: dict[tuple[int, ...], list[int]] = {}

    def _limit(self, prompts: Any) -> int:
        return self.limit

    def _complete(self, prompts: Any, limit: int, setting: Setting) -> list[list[int]]:
        rows = super()._complete(prompts, limit, setting)
        self.rows |= {tuple(prompt): row for prompt, row in zip(prompts, rows, strict=True)}
        return rows


def greedy(base: BaseModel, prompt: tuple[int, ...], limit: int) -> list[int]:
    """Token by token, without cache, padding or batch."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + limit and ids[-1:] != [base.tokenizer.end_id]:
            logits = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def labels_of(sentence: Sentence) -> tuple[str, ...]:
    return sentence.labels


@pytest.mark.parametrize(
    "setting",
    [Setting(1), Setting(1, lookup_tokens=4), Setting(3), Setting(5, share_prefix=True)],
    ids=str,
)
def test_every_setting_gives_the_tokens_of_plain_greedy_decoding(
    base: BaseModel, sentences: list[Sentence], setting: Setting
) -> None:
    peer = Watched(base)

    found = peer.answer(sentences, setting)

    prompts = [encode_prompt(sentence.prompt(HTML), base.tokenizer) for sentence in sentences]
    assert peer.rows == {prompt: greedy(base, prompt, LIMIT) for prompt in prompts}
    assert found.work.num_new_tokens == sum(map(len, peer.rows.values()))


def test_passes_and_fed_tokens_are_counted_padding_included(
    base: BaseModel, sentences: list[Sentence]
) -> None:
    lengths = [len(encode_prompt(s.prompt(HTML), base.tokenizer)) for s in sentences]

    work = Watched(base).answer(sentences, Setting(len(sentences))).work

    assert work.num_new_tokens == LIMIT * len(sentences)  # the random model never ends an answer
    assert work.num_cut == len(sentences)
    assert work.num_passes == LIMIT
    assert work.num_fed_tokens == len(sentences) * (max(lengths) + LIMIT - 1)


def test_a_shared_prefix_is_fed_once_and_not_by_row(
    base: BaseModel, sentences: list[Sentence]
) -> None:
    kinds = {
        labels: [s for s in sentences if s.labels == labels] for labels in map(labels_of, sentences)
    }
    assert len(kinds) == 2  # hospitals that ask for different labels: two instructions
    plain = sum(Watched(base).answer(s, Setting(5)).work.num_fed_tokens for s in kinds.values())

    shared = Watched(base).answer(sentences, Setting(5, share_prefix=True)).work

    saved = sum(
        (len(alike) - 1) * len(base.tokenizer.encode(alike[0].prompt(HTML).instruction))
        for alike in kinds.values()
    )
    assert saved > 0
    assert plain - shared.num_fed_tokens >= saved
    lonely = sum(len(alike) == 1 for alike in kinds.values())
    assert shared.num_passes == 2 * LIMIT + len(kinds) - lonely


def test_an_answer_ends_with_its_end_token_and_the_gold_answer_gives_the_gold_entities(
    base: BaseModel, sentences: list[Sentence]
) -> None:
    class Right(Watched):
        """Answers as the annotators would, then writes on until its batch is done."""

        def _complete(self, prompts: Any, limit: int, setting: Setting) -> list[list[int]]:
            rows = []
            for prompt in prompts:
                [gold] = [
                    e for e in examples if e.token_ids[: e.num_prompt_tokens] == tuple(prompt)
                ]
                rows.append([*gold.token_ids[gold.num_prompt_tokens :]])
            return rows

    rendered = [HTML.render(s.document, s.span, s.labels) for s in sentences]
    examples = [encode_example(example, base.tokenizer) for example in rendered]

    found = Right(base).answer(sentences, Setting(2))

    wanted = [[(e.label, e.cover) for e in s.document.entities] for s in sentences]
    assert [[(e.label, e.cover) for e in entities] for entities in found.entities] == wanted
    assert sum(map(len, wanted)) > 2
    assert found.work.num_cut == 0
    assert found.work.num_new_tokens == sum(e.num_completion_tokens for e in examples)


def test_the_limit_is_far_above_every_right_answer(
    base: BaseModel, sentences: list[Sentence]
) -> None:
    peer = Generate(base, HTML)
    for sentence in sentences:
        example = HTML.render(sentence.document, sentence.span, sentence.labels)
        wanted = encode_example(example, base.tokenizer).num_completion_tokens
        assert peer._limit([sentence.prompt(HTML)]) > 1.2 * wanted


def test_a_peer_without_fused_attention_is_refused(
    base: BaseModel, sentences: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.model.config, "_attn_implementation", "eager")

    with pytest.raises(ConfigError, match="sdpa"):
        Generate(base, HTML).answer(sentences, Setting(1))
