"""Decoding modifiers and links: exact, complete, allowed by the schema, equal in both decoders."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import RelationPrompt
from fedmedlora.core.schema import default_schema
from fedmedlora.inference import drafts
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.decoder import WindowAnswer
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.inference.relation_cursor import RelationCursor
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.models.load import BaseModel
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_format import RelationFormat
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.prompts.relation_tagging import MAX_DEPTH
from fedmedlora.testing.tiny import SHAPES

BaseOf = Callable[..., BaseModel]
SCHEMA = default_schema()
LABELS = ("severity", "negation", "strength", "temporal")
NOTES = [
    "The patient had pain and fever, was given aspirin 81mg.",
    "pain",
    " \r\n\tpain\u00a0😀 e\u0301 ",
    "Write <severity>pain</1> or <1 drug> aspirin</>.",
    'Bold <span class="severity" of="1">x</span> < 5 & > 2',
    "</><</1</span><severity>",
    "a b c d e f g h i j k l m n o p",
    "?",
]


def with_entities(text: str, number: int) -> Document:
    """Every third word an entity, labels in turn; so many that numbers have two digits."""
    words = [piece for piece in cut(text) if piece.core_start < piece.end]
    labels = ("problem", "drug", "test")
    entities = [
        Entity.at(f"T{index}", labels[index % 3], word.core_start, word.end)
        for index, word in enumerate(words[:: 3 if len(words) < 16 else 1])
    ]
    return Document(f"n{number}", text, tuple(entities))


def prompts_of(
    formatted: RelationFormat, texts: Sequence[str] = NOTES, *, linked: bool = True
) -> list[RelationPrompt]:
    documents = [with_entities(text, number) for number, text in enumerate(texts)]
    return [formatted.prompt(d, Span(0, len(d.text)), LABELS, linked=linked) for d in documents]


def nothing(_: int) -> None:
    pass


def plain(answers: Sequence[WindowAnswer]) -> list[list[tuple[Any, ...]]]:
    return [[(s.label, s.start, s.end, s.numbers) for s in answer.spans] for answer in answers]


@pytest.mark.parametrize("name", ["compact", "html"])
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_any_way_through_the_grammar_is_an_answer_that_reads_as_what_was_found(
    tiny: BaseOf, name: str, linked: bool, seed: int
) -> None:
    """The parser is the oracle: it reads the words, the cursor never sees them as one text."""
    tokenizer, formatted = tiny("llama").tokenizer, get_relation_format(name)
    rng = random.Random(seed)
    prompt = rng.choice([p for p in prompts_of(formatted, linked=linked) if "<" not in p.source])
    cursor = RelationCursor(prompt, formatted, tokenizer)
    written: list[int] = []
    while not cursor.done:
        choices = cursor.choices()
        choice = rng.choice([c for c in choices if c.kind != "open"] * 2 + list(choices))
        written += choice.token_ids
        cursor.take(choice, 0.0)
    result = formatted.parse(tokenizer.decode(written), prompt)

    assert not result.problems
    tails = {e.id: [r.tail for r in result.relations if r.head == e.id] for e in result.entities}
    read = {(e.label, e.start, e.end, tuple(tails[e.id])) for e in result.entities}
    assert read == {
        (s.label, s.start, s.end, tuple(prompt.given[n - 1].id for n in s.numbers or ()))
        for s in cursor.found
    }
    for span in cursor.found:
        assert (span.numbers is not None) == linked
        for number in span.numbers or ():
            assert SCHEMA.allows(span.label, prompt.given[number - 1].label)
        around = [s for s in cursor.found if s.start <= span.start and span.end <= s.end]
        assert len({(s.label, s.start) for s in around}) <= MAX_DEPTH


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "seed"), [("compact", 0), ("compact", 1), ("html", 1)])
def test_verified_copying_answers_as_the_step_decoder_does(
    tiny: BaseOf, shape: str, name: str, seed: int
) -> None:
    base, formatted = tiny(shape, seed, torch.float64), get_relation_format(name)
    for linked in (True, False):
        prompts = prompts_of(formatted, linked=linked)
        expected = StepDecoder(base, formatted).decode(prompts, nothing)
        assert sum(len(answer.spans) for answer in expected) > 3
        for batch_size in (1, 3, 16):
            decoder = CopyDecoder(base, formatted, batch_size=batch_size)
            assert plain(decoder.decode(prompts, nothing)) == plain(expected)


@pytest.mark.parametrize("seed", range(4))
def test_guesses_at_random_change_no_link(tiny: BaseOf, seed: int) -> None:
    base, formatted = tiny("llama", 1, torch.float64), get_relation_format("compact")
    prompts = prompts_of(formatted)
    expected = StepDecoder(base, formatted).decode(prompts, nothing)
    rng = random.Random(seed)

    def guess(path: Any, *_: Any) -> Any:
        return rng.choice(path.choices), rng.random() < 0.7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "_guess", guess)
        found = CopyDecoder(base, formatted, batch_size=3).decode(prompts, nothing)
    assert plain(found) == plain(expected)


def test_the_random_models_of_these_tests_do_write_several_numbers_and_none(tiny: BaseOf) -> None:
    """Else the tests above would hold without any link."""
    formatted = get_relation_format("compact")
    told = [
        span.numbers or ()
        for seed in range(3)
        for answer in StepDecoder(tiny("llama", seed, torch.float64), formatted).decode(
            prompts_of(formatted), nothing
        )
        for span in answer.spans
    ]
    assert any(len(numbers) == 0 for numbers in told)
    assert any(len(numbers) == 1 for numbers in told)
    assert any(len(numbers) > 1 for numbers in told)


def test_prompts_of_another_task_are_refused(tiny: BaseOf) -> None:
    base = tiny("llama")
    entity_prompt = get_format("compact").prompt(Document("d", "pain"), Span(0, 4), ("problem",))
    with pytest.raises(ConfigError, match="another task"):
        CopyDecoder(base, get_relation_format("compact")).decode([entity_prompt], nothing)
    with pytest.raises(ConfigError, match="another task"):
        CopyDecoder(base, get_format("compact")).decode(
            prompts_of(get_relation_format("compact")), nothing
        )
    with pytest.raises(ConfigError, match="entity prompts only"):
        make_decoder("generate", base, get_relation_format("compact"), 1)
