"""Free generation behind the decoder interface: greedy, bounded, the same in any batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import ConfigError, InferenceError
from fedmedlora.core.example import Prompt
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import TaskSchema
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.inference.decoders import DecoderName, make_decoder
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.generate_decoder import GenerateDecoder, answer_limit
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.prompts.format import PromptFormat
from fedmedlora.prompts.registry import FORMATS, get_format
from fedmedlora.testing.generators import LABELS
from fedmedlora.training.batches import encode_example, encode_prompt
from fedmedlora.training.local import LocalSettings, train_locally

BaseOf = Callable[..., BaseModel]

# Short definitions, so that the html prompt is not long in the tiny tokenizer's many tokens.
TERSE = TaskSchema("terse", "v1", {label: f"a {label}" for label in LABELS}, {}, {})

NOTES = [
    "no fever, no pain",
    "pain",
    "The patient had pain and fever, given aspirin 81mg.",
    "😀 K<3",
]


def prompt_of(prompt_format: PromptFormat, text: str) -> Prompt:
    return prompt_format.prompt(Document("note", text), Span(0, len(text)), LABELS)


def slowly(base: BaseModel, prompt: Prompt, limit: int) -> tuple[list[int], bool]:
    """Greedy tokens by the book: one prompt, no cache, no padding; and whether it ended."""
    written = list(encode_prompt(prompt, base.tokenizer))
    answer: list[int] = []
    while len(answer) < limit:
        with torch.inference_mode():
            token = int(base.model(torch.tensor([written])).logits[0, -1].argmax())
        if token == base.tokenizer.end_id:
            return answer, True
        written.append(token)
        answer.append(token)
    return answer, False


class Recorder:
    """A format that keeps the answers it is given to read."""

    def __init__(self, inner: PromptFormat) -> None:
        self.inner = inner
        self.answers: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def align(self, completion: str, prompt: Prompt) -> Any:
        self.answers[prompt.source] = completion
        return self.inner.align(completion, prompt)


@pytest.mark.parametrize(("shape", "seed"), [("llama", 3), ("qwen3", 4), ("deepseek-distill", 1)])
def test_answers_are_greedy_by_the_book_in_any_batch(tiny: BaseOf, shape: str, seed: int) -> None:
    base = tiny(shape, seed, torch.float64)
    prompts = [prompt_of(get_format("compact"), text) for text in NOTES]
    expected = [slowly(base, prompt, 40) for prompt in prompts]

    assert {ended for _, ended in expected} == {True, False}
    for size in (1, 3, 8):
        recorder = Recorder(get_format("compact"))
        decoder = GenerateDecoder(base, recorder, batch_size=size, max_new_tokens=40)
        found = decoder.decode(prompts, lambda _: None)

        for text, answer, (tokens, ended) in zip(NOTES, found, expected, strict=True):
            assert recorder.answers[text] == base.tokenizer.decode(tokens)
            assert answer.truncated is not ended


def test_a_row_stops_at_its_own_end_and_leaves_the_others_alone(tiny: BaseOf) -> None:
    """Some token that the model writes is made its end: rows then end at different places."""
    base = tiny("llama", 1, torch.float64)
    prompts = [prompt_of(get_format("compact"), text) for text in NOTES]
    answers = [slowly(base, prompt, 24)[0] for prompt in prompts]
    end = next(token for token in answers[0][3:] if any(token not in other for other in answers))
    settings = base.model.generation_config
    kept = settings.eos_token_id
    settings.eos_token_id = [kept, end]
    try:
        recorder = Recorder(get_format("compact"))
        decoder = GenerateDecoder(base, recorder, max_new_tokens=24)
        found = decoder.decode(prompts, lambda _: None)
    finally:
        settings.eos_token_id = kept

    assert [answer.truncated for answer in found] == [end not in tokens for tokens in answers]
    for text, tokens in zip(NOTES, answers, strict=True):
        cut = tokens[: tokens.index(end)] if end in tokens else tokens
        assert recorder.answers[text] == base.tokenizer.decode(cut)


def test_the_models_own_settings_bring_no_sampling_and_stay_as_they_are(tiny: BaseOf) -> None:
    base = tiny("qwen3", 1, torch.float64)
    prompt = prompt_of(get_format("compact"), NOTES[2])
    tokens, _ = slowly(base, prompt, 24)
    settings = base.model.generation_config
    kept = settings.to_dict()
    changed = {
        "do_sample": True,
        "temperature": 5.0,
        "top_p": 0.9,
        "repetition_penalty": 3.0,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": [tokens[0]],
        "num_beams": 4,
        "max_new_tokens": 2,
    }
    try:
        settings.update(**changed)
        recorder = Recorder(get_format("compact"))
        GenerateDecoder(base, recorder, max_new_tokens=24).decode([prompt], lambda _: None)
        after = settings.to_dict()
    finally:
        settings.update(**{key: kept.get(key) for key in changed})

    assert recorder.answers[NOTES[2]] == base.tokenizer.decode(tokens)
    assert {key: after[key] for key in changed} == changed


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_random_model_cannot_make_it_loop(tiny: BaseOf, name: str, dtype: torch.dtype) -> None:
    prompt_format = get_format(name, TERSE)
    prompts = [prompt_of(prompt_format, text) for text in NOTES]
    done: list[int] = []
    found = GenerateDecoder(tiny("llama", 0, dtype), prompt_format, max_new_tokens=40).decode(
        prompts, done.append
    )

    assert sorted(done) == [0, 1, 2, 3]
    assert all(answer.truncated for answer in found)
    for text, answer in zip(NOTES, found, strict=True):
        assert all(0 <= span.start < span.end <= len(text) for span in answer.spans)
        assert all(math.isnan(span.log_probability) for span in answer.spans)


def test_each_row_is_cut_off_at_its_own_default_limit(tiny: BaseOf) -> None:
    base, compact = tiny("llama", 0, torch.float64), get_format("compact")
    prompts = [prompt_of(compact, text) for text in ("pain", "no fever, no pain and no cough")]
    limits = [answer_limit(prompt, compact, base.tokenizer) for prompt in prompts]
    recorder = Recorder(compact)
    found = GenerateDecoder(base, recorder).decode(prompts, lambda _: None)

    assert limits[0] < limits[1]
    assert [answer.truncated for answer in found] == [True, True]
    for prompt, limit in zip(prompts, limits, strict=True):
        tokens, _ = slowly(base, prompt, limit)
        assert recorder.answers[prompt.source] == base.tokenizer.decode(tokens)


@pytest.mark.parametrize("name", FORMATS)
def test_the_default_limit_has_room_for_an_answer_with_many_entities(
    tiny: BaseOf, name: str
) -> None:
    tokenizer, prompt_format = tiny("llama").tokenizer, get_format(name, TERSE)
    text = "pain, " * 32
    entities = tuple(Entity.at(f"T{n}", LABELS[n % 4], 6 * n, 6 * n + 4) for n in range(32))
    example = prompt_format.render(Document("d", text, entities), Span(0, len(text)), LABELS)
    encoded = encode_example(example, tokenizer)

    assert example.num_entities == 32
    assert encoded.num_completion_tokens <= answer_limit(example.prompt, prompt_format, tokenizer)


def test_a_prompt_that_fills_the_context_is_refused_without_its_text(tiny: BaseOf) -> None:
    compact = get_format("compact")
    prompt = prompt_of(compact, "secret pain " * 900)
    decoder = GenerateDecoder(tiny("llama"), compact)

    with pytest.raises(InferenceError, match=r"document note: window at 0: .* tokens") as caught:
        decoder.decode([prompt], lambda _: None)
    assert "secret" not in str(caught.value)


def test_no_prompts_give_no_answers(tiny: BaseOf) -> None:
    assert GenerateDecoder(tiny("llama"), get_format("json")).decode([], lambda _: None) == []


def test_generation_by_name_takes_every_format_and_constrained_decoding_those_with_tags(
    tiny: BaseOf,
) -> None:
    made = make_decoder("generate", tiny("llama"), get_format("json"), 4)

    assert isinstance(made, GenerateDecoder)
    for name in get_args(DecoderName):
        assert make_decoder(name, tiny("llama"), get_format("compact"), 4)
        if name != "generate":
            with pytest.raises(ConfigError, match="json-v1: constrained decoding"):
                make_decoder(name, tiny("llama"), get_format("json"), 4)


class Canned:
    """A decoder that gives the same answer to every prompt."""

    def __init__(self, answer: WindowAnswer) -> None:
        self.answer = answer

    def decode(self, prompts: list[Prompt], on_done: Callable[[int], None]) -> list[WindowAnswer]:
        for index in range(len(prompts)):
            on_done(index)
        return [self.answer] * len(prompts)


def test_the_note_says_how_its_entities_were_found(tiny: BaseOf) -> None:
    spans = (
        FoundSpan("problem", 0, 4, math.nan),
        FoundSpan("drug", 5, 11, math.nan, "fuzzy"),
        FoundSpan("problem", 12, 17, math.nan),
    )
    tokenizer = tiny("llama").tokenizer
    compact = get_format("compact")
    note = Document("a", "pain asprin fever")
    for answer, counts in (
        (WindowAnswer(spans), {"alignment": {"exact": 2, "fuzzy": 1}}),
        (WindowAnswer(spans[:1]), {}),
        (
            WindowAnswer((), {"drug": 2}, unparsable=True, truncated=True),
            {"unaligned_predictions": {"drug": 2}, "num_unparsable": 1, "num_truncated": 1},
        ),
    ):
        extractor = Extractor(Canned(answer), tokenizer, compact, window_tokens=60)  # type: ignore[arg-type]
        (found,) = extractor.extract([note], LABELS, SilentObserver())

        none = {"num_windows": 1, "num_unparsable": 0, "num_truncated": 0}
        assert found.metadata == {**none, **counts}
        assert len(found.entities) == len(answer.spans)
        assert all(entity.score is None for entity in found.entities)


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_learnt_by_heart_is_generated_without_a_fault(tiny: BaseOf, name: str) -> None:
    base, prompt_format = tiny("llama"), get_format(name, TERSE)
    taught = [
        Document("a", "Pain, was given aspirin.", (
            Entity.at("T1", "problem", 0, 4), Entity.at("T2", "drug", 16, 23))),
        Document("b", "aspirin for <b>chest pain > 5", (
            Entity.at("T1", "drug", 0, 7), Entity.at("T2", "problem", 15, 25))),
        Document("c", "No pain, no scan\r\n(pain)", (
            Entity.at("T1", "test", 12, 16), Entity.at("T2", "problem", 19, 23))),
        Document("d", "Nothing < 5 here </> &"),
    ]  # fmt: skip
    examples = [
        encode_example(prompt_format.render(note, Span(0, len(note.text)), LABELS), base.tokenizer)
        for note in taught
    ]
    adapter = initial_adapter(base, rank=16, alpha=32.0, target_modules=ALL_LINEAR, seed=0)
    learnt = train_locally(
        LoRAModel(base, adapter.spec),
        adapter,
        examples,
        LocalPlan(round_index=1, epochs=150.0),
        LocalSettings(learning_rate=1e-2, epochs=1.0, batch_tokens=4096),
        SilentObserver(),
    )
    decoder = GenerateDecoder(merged(base, learnt.adapter), prompt_format)
    extractor = Extractor(decoder, base.tokenizer, prompt_format, window_tokens=60)
    found = list(extractor.extract(taught, LABELS, SilentObserver()))

    assert [[(e.label, e.start, e.end) for e in d.entities] for d in found] == [
        [(e.label, e.start, e.end) for e in d.entities] for d in taught
    ]
    none = {"num_windows": 1, "num_unparsable": 0, "num_truncated": 0}
    assert all(document.metadata == none for document in found)
