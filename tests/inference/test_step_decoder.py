"""Constrained decoding against a slow reading of its rules; they share the pieces only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from fedmedlora.core.document import Document, Span
from fedmedlora.core.example import Prompt
from fedmedlora.core.schema import TaskSchema
from fedmedlora.inference import step_decoder
from fedmedlora.inference.step_decoder import decode_batch
from fedmedlora.models.fetch import is_fetched
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import initial_adapter, merged
from fedmedlora.prompts.format import TagFormat
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.registry import TAG_FORMATS, get_format
from fedmedlora.testing.generators import LABELS, note_texts
from fedmedlora.testing.tiny import SHAPES

BaseOf = Callable[..., BaseModel]
Found = tuple[str, int, int, float]

# Short definitions, so that the html prompt is not long in the tiny tokenizer's many tokens.
TERSE = TaskSchema("terse", "v1", {label: f"a {label}" for label in LABELS}, {}, {})

NOTES = [
    "The patient had pain and fever, was given aspirin 81mg.",
    "pain",
    " \r\n\tpain\u00a0😀 e\u0301 ",
    "Write <problem>pain</> or <drug> aspirin</>.",
    'Bold <span class="problem">x</span> < 5 & > 2',
    "</><</span><problem><problem>",
    "<|end|> no fever <|begin|>",
    "fever" + " " * 70 + "pain",
    "K<3",
    "?",
]


def prompt_of(tags: TagFormat, text: str, labels: Sequence[str] = LABELS) -> Prompt:
    return tags.prompt(Document("note", text), Span(0, len(text)), labels)


@dataclass
class Option:
    """One way on. `beyond` is the token that would follow if all after it were copied."""

    kind: str
    label: str
    tokens: list[int]
    beyond: int


class SlowDecoder:
    """Copy, close or open, decided at the first token that differs; no cache, no batch."""

    def __init__(self, base: BaseModel, prompt: Prompt, tags: TagFormat) -> None:
        self.base, self.tags, self.prompt = base, tags, prompt
        self.source = prompt.source
        self.pieces = [(p.start, p.start + p.num_space, p.end) for p in cut(prompt.source)]
        self.written = [*base.tokenizer.begin_ids, *self.encode(prompt.instruction)]
        for start, _, end in self.pieces:
            self.written += self.encode(self.source[start:end])
        self.written += self.encode(prompt.cue)

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        found: list[int] = self.base.tokenizer.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return found

    def first_token(self, index: int) -> int:
        if index == len(self.pieces):
            return self.base.tokenizer.end_id
        start, _, end = self.pieces[index]
        return self.encode(self.source[start:end])[0]

    def chances(self, context: list[int], tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits = self.base.model(torch.tensor([context])).logits[0, -1].double()
        return torch.log_softmax(logits[tokens], dim=0)

    def decide(self, options: list[Option]) -> tuple[Option, float]:
        """The option that wins, and the log-probability of all that was decided on the way."""
        paths = []
        for option in options:
            begins = any(
                other is not option and other.tokens[: len(option.tokens)] == option.tokens
                for other in options
            )
            paths.append([*option.tokens, option.beyond] if begins else option.tokens)
        left = list(range(len(options)))
        score = 0.0
        depth = 0
        while len(left) > 1 and all(depth < len(paths[i]) for i in left):
            tokens: list[int] = []
            for i in left:
                if paths[i][depth] not in tokens:
                    tokens.append(paths[i][depth])
            best = 0
            if len(tokens) > 1:
                chances = self.chances(self.written + paths[left[0]][:depth], tokens)
                best = int(torch.argmax(chances))
                score += float(chances[best])
            left = [i for i in left if paths[i][depth] == tokens[best]]
            depth += 1
        return options[left[0]], score

    def run(self) -> list[Found]:
        found: list[Found] = []
        at, label, opened, opened_score, bare = 0, "", 0, 0.0, False
        while at < len(self.pieces) or label:
            options: list[Option] = []
            if at < len(self.pieces):
                start, core, end = self.pieces[at]
                own = self.encode(self.source[core if bare else start : end])
                options.append(Option("copy", "", own, self.first_token(at + 1)))
            if label and at > opened:
                tag = self.encode(self.tags.close_tag())
                options.append(Option("close", "", tag, self.first_token(at)))
            if not label and at < len(self.pieces) and core < end:
                inside = self.tags.space_inside
                space = [] if inside else self.encode(self.source[start:core])
                beyond = self.encode(self.source[start if inside else core : end])[0]
                for name in self.prompt.labels:
                    tag = self.encode(self.tags.open_tag(name))
                    options.append(Option("open", name, space + tag, beyond))
            chosen, score = self.decide(options)
            self.written += chosen.tokens
            if chosen.kind == "copy":
                at, bare = at + 1, False
            elif chosen.kind == "open":
                label, opened, opened_score = chosen.label, at, score
                bare = not self.tags.space_inside
            else:
                first, last = self.pieces[opened][1], self.pieces[at - 1][2]
                last = first + len(self.source[first:last].rstrip())
                found.append((label, first, last, opened_score + score))
                label = ""
        return found


def same(found: Any, expected: list[Found]) -> None:
    assert [(s.label, s.start, s.end) for s in found] == [e[:3] for e in expected]
    assert [s.log_probability for s in found] == pytest.approx([e[3] for e in expected], abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "seed"), [("compact", 0), ("compact", 1), ("html", 1)])
def test_spans_and_scores_are_those_of_the_rules_read_slowly_in_any_batch(
    tiny: BaseOf, shape: str, seed: int, name: str
) -> None:
    base, tags = tiny(shape, seed, torch.float64), get_format(name, TERSE)
    prompts = [prompt_of(tags, text) for text in NOTES]
    expected = [SlowDecoder(base, prompt, tags).run() for prompt in prompts]

    assert sum(len(found) for found in expected) > 5
    for size in (1, 3, 8):
        for start in range(0, len(prompts), size):
            found = decode_batch(base, prompts[start : start + size], tags)
            for spans, slow in zip(found, expected[start : start + size], strict=True):
                same(spans, slow)


@pytest.mark.base_model
@pytest.mark.skipif(
    not is_fetched("smollm2-135m"),
    reason="smollm2-135m is not in the cache; run: fedmedlora model fetch",
)
def test_the_embedded_model_decodes_by_the_rules_too() -> None:
    base, tags = load_base("smollm2-135m"), get_format("compact")
    adapter = initial_adapter(base, rank=2, alpha=64.0, target_modules=("v_proj",), seed=0)
    for pair in adapter.pairs.values():
        pair.B.normal_(generator=torch.Generator().manual_seed(1))
    shaken = merged(base, adapter)  # the model as it is hardly ever tags
    prompts = [prompt_of(tags, text) for text in ("Chest pain, no fever.", "Aspirin 81 mg < daily")]
    expected = [SlowDecoder(shaken, prompt, tags).run() for prompt in prompts]

    assert sum(map(len, expected)) > 0
    for spans, slow in zip(decode_batch(shaken, prompts, tags), expected, strict=True):
        assert [(s.label, s.start, s.end) for s in spans] == [e[:3] for e in slow]
        assert [s.log_probability for s in spans] == pytest.approx([e[3] for e in slow], abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "name"), [("llama", "compact"), ("qwen3", "html"), ("deepseek-distill", "compact")]
)
@settings(deadline=None, max_examples=15)
@given(text=note_texts(max_parts=14).filter(bool))
def test_whatever_the_note_spans_are_trimmed_stretches_of_it_in_order(
    tiny: BaseOf, shape: str, name: str, text: str
) -> None:
    tags = get_format(name, TERSE)
    asked = LABELS[1:3]
    (found,) = decode_batch(tiny(shape, 2), [prompt_of(tags, text, asked)], tags)

    position = 0
    for span in found:
        assert position <= span.start < span.end <= len(text)
        assert text[span.start : span.end] == text[span.start : span.end].strip()
        assert span.label in asked
        assert math.exp(span.log_probability) <= 1
        position = span.end


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that were fed to a batch of one row."""
    tokens: list[int] = []
    real = step_decoder._Engine.feed

    def feed(engine: Any, given: Sequence[int]) -> None:
        tokens.extend(given)
        real(engine, given)

    monkeypatch.setattr(step_decoder._Engine, "feed", feed)
    return tokens


@pytest.mark.parametrize("name", TAG_FORMATS)
@pytest.mark.parametrize("text", NOTES)
def test_the_answer_is_the_source_with_the_tags_of_its_spans(
    tiny: BaseOf, fed: list[int], name: str, text: str
) -> None:
    base, tags = tiny("llama", 1), get_format(name, TERSE)
    prompt = prompt_of(tags, text)
    (found,) = decode_batch(base, [prompt], tags)
    answer = base.tokenizer.decode(fed)
    size_of_tags = sum(len(tags.open_tag(s.label)) + len(tags.close_tag()) for s in found)

    assert len(answer) == len(text) + size_of_tags
    assert tags.parse(answer, prompt).problems == ()
    if "<" not in text:
        read = tags.parse(answer, prompt).entities
        assert [(e.label, e.start, e.end) for e in read] == [
            (s.label, s.start, s.end) for s in found
        ]


def test_without_labels_the_text_is_copied_and_nothing_found(tiny: BaseOf, fed: list[int]) -> None:
    base, tags = tiny("llama"), get_format("compact")
    text = NOTES[3]

    assert decode_batch(base, [prompt_of(tags, text, ())], tags) == [[]]
    assert base.tokenizer.decode(fed) == text


def test_an_empty_source_is_done_at_once(tiny: BaseOf) -> None:
    tags = get_format("html")
    prompts = [
        Prompt("a", Span(0, 1), LABELS, "Copy:", "", "\n"),
        prompt_of(tags, "no fever, no pain"),
    ]
    alone = decode_batch(tiny("llama", 1), prompts[1:], tags)
    empty, other = decode_batch(tiny("llama", 1), prompts, tags)

    assert empty == []
    assert [(s.label, s.start, s.end) for s in other] == [
        (s.label, s.start, s.end) for s in alone[0]
    ]


def test_finished_rows_are_dropped_once_that_pays(tiny: BaseOf) -> None:
    tags = get_format("compact")
    prompts = [prompt_of(tags, "pain")] * 7 + [prompt_of(tags, "no fever and no pain " * 4)]
    rows: list[int] = []
    decode_batch(tiny("llama"), prompts, tags, rows.append)

    assert rows[0] == 8
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 1


def test_a_merged_adapter_decides_as_the_rules_say(tiny: BaseOf) -> None:
    base, tags = tiny("qwen3", 3, torch.float64), get_format("compact")
    adapter = initial_adapter(
        base, rank=4, alpha=32.0, target_modules=("q_proj", "up_proj"), seed=0
    )
    for pair in adapter.pairs.values():
        pair.B.normal_(generator=torch.Generator().manual_seed(1))
    changed = merged(base, adapter)
    prompts = [prompt_of(tags, text) for text in NOTES[:3]]
    expected = [SlowDecoder(changed, prompt, tags).run() for prompt in prompts]

    assert expected != [SlowDecoder(base, prompt, tags).run() for prompt in prompts]
    for spans, slow in zip(decode_batch(changed, prompts, tags), expected, strict=True):
        same(spans, slow)
