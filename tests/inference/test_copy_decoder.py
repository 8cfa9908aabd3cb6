"""Verified copying gives the very answers of decoding step by step, whatever is guessed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Span
from fedmedlora.core.errors import ConfigError, InferenceError
from fedmedlora.core.example import Prompt
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import TaskSchema
from fedmedlora.inference import drafts
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.decoder import WindowAnswer
from fedmedlora.inference.drafts import DraftLimits
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.models.fetch import is_fetched
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import initial_adapter, merged
from fedmedlora.prompts.format import TagFormat
from fedmedlora.prompts.registry import get_format
from fedmedlora.testing.generators import LABELS, note_texts
from fedmedlora.testing.tiny import SHAPES

BaseOf = Callable[..., BaseModel]
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
LIMITS = [None, DraftLimits(0, 1, 3), DraftLimits(99, 99, 999)]


def prompts_of(
    tags: TagFormat, texts: Sequence[str], labels: Sequence[str] = LABELS
) -> list[Prompt]:
    return [
        tags.prompt(Document(f"n{number}", text), Span(0, len(text)), labels)
        for number, text in enumerate(texts)
    ]


def nothing(_: int) -> None:
    pass


def same(found: Sequence[WindowAnswer], expected: Sequence[WindowAnswer]) -> None:
    assert len(found) == len(expected)
    for answer, slow in zip(found, expected, strict=True):
        assert [(s.label, s.start, s.end) for s in answer.spans] == [
            (s.label, s.start, s.end) for s in slow.spans
        ]
        assert [s.log_probability for s in answer.spans] == pytest.approx(
            [s.log_probability for s in slow.spans], abs=1e-5
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "seed"), [("compact", 0), ("compact", 1), ("html", 1)])
def test_answers_and_scores_are_those_of_the_step_decoder_in_any_batch_at_any_draft_length(
    tiny: BaseOf, shape: str, seed: int, name: str
) -> None:
    base, tags = tiny(shape, seed, torch.float64), get_format(name, TERSE)
    prompts = prompts_of(tags, NOTES)
    expected = StepDecoder(base, tags).decode(prompts, nothing)

    assert sum(len(answer.spans) for answer in expected) > 5
    for batch_size in (1, 3, 16):
        for limits in LIMITS:
            decoder = CopyDecoder(base, tags, batch_size=batch_size, limits=limits)
            same(decoder.decode(prompts, nothing), expected)


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(note_texts(max_parts=14).filter(bool), min_size=1, max_size=4),
    seed=st.integers(0, 2),
    name=st.sampled_from(["compact", "html"]),
)
def test_hostile_notes_are_answered_alike_too(
    tiny: BaseOf, texts: list[str], seed: int, name: str
) -> None:
    base, tags = tiny("qwen3", seed, torch.float64), get_format(name, TERSE)
    prompts = prompts_of(tags, texts)
    same(
        CopyDecoder(base, tags, batch_size=2).decode(prompts, nothing),
        StepDecoder(base, tags).decode(prompts, nothing),
    )


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_guesses_change_the_time_and_never_the_answer(tiny: BaseOf, seed: int) -> None:
    """Guesses at random are as wrong as guesses can be."""
    base, tags = tiny("llama", 1, torch.float64), get_format("compact")
    prompts = prompts_of(tags, NOTES)
    expected = StepDecoder(base, tags).decode(prompts, nothing)
    rng = random.Random(seed)

    def guess(path: Any, *_: Any) -> Any:
        return rng.choice(path.choices), rng.random() < 0.7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "_guess", guess)
        same(CopyDecoder(base, tags, batch_size=3).decode(prompts, nothing), expected)


def test_prompts_of_several_instructions_keep_their_order(tiny: BaseOf) -> None:
    base, tags = tiny("llama", 2, torch.float64), get_format("compact")
    prompts = [
        *prompts_of(tags, NOTES[:3], ("drug",)),
        *prompts_of(tags, NOTES[:5], ("problem", "drug")),
        *prompts_of(tags, NOTES[2:4], ("drug",)),
    ]
    done: list[int] = []
    found = CopyDecoder(base, tags, batch_size=2).decode(prompts, done.append)

    same(found, StepDecoder(base, tags).decode(prompts, nothing))
    assert sorted(done) == list(range(len(prompts)))


def test_a_copied_note_costs_one_pass_and_a_span_few(tiny: BaseOf) -> None:
    base, tags = tiny("llama", 0), get_format("compact")
    (prompt,) = prompts_of(tags, [NOTES[0]], ())
    decoder = CopyDecoder(base, tags)
    assert decoder.decode([prompt], nothing) == [WindowAnswer(())]
    assert decoder.num_passes == 0  # nothing to ask

    (prompt,) = prompts_of(tags, ["fever and pain " * 6])
    (answer,) = decoder.decode([prompt], nothing)
    assert len(answer.spans) > 2
    assert decoder.num_passes <= 1 + 3 * len(answer.spans)


def test_the_same_call_gives_the_same_bits(tiny: BaseOf) -> None:
    base, tags = tiny("llama", 1, torch.bfloat16), get_format("compact")
    decoder = CopyDecoder(base, tags, batch_size=3)
    prompts = prompts_of(tags, NOTES)

    assert decoder.decode(prompts, nothing) == decoder.decode(prompts, nothing)


def test_the_base_model_itself_is_left_as_it_was(tiny: BaseOf) -> None:
    base, tags = tiny("llama", 1, torch.float64), get_format("compact")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = base.model(ids).logits
        CopyDecoder(base, tags).decode(prompts_of(tags, NOTES), nothing)
        after = base.model(ids).logits

    assert torch.equal(before, after)


@pytest.mark.parametrize("option", ["sliding_window", "softcap", "s_aux"])
def test_an_attention_that_we_do_not_know_is_refused(
    tiny: BaseOf, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tags = tiny("llama"), get_format("compact")
    decoder = CopyDecoder(base, tags)
    layer = decoder._model._backbone.layers[0].self_attn
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda **given: forward(**given, **{option: 4}))

    with pytest.raises(InferenceError, match=f"{option} is not supported.*step decoder"):
        decoder.decode(prompts_of(tags, NOTES[:1]), nothing)


@pytest.mark.parametrize(
    "setting", [{"layer_types": ["sliding_attention"]}, {"attention_chunk_size": 8}]
)
def test_a_model_whose_layers_do_not_see_the_whole_text_is_refused(
    tiny: BaseOf, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny("llama")
    for name, value in setting.items():
        monkeypatch.setattr(base.model.config, name, value, raising=False)

    with pytest.raises(InferenceError, match=r"do not see the whole text.*step decoder"):
        CopyDecoder(base, get_format("compact"))


def test_there_must_be_rows(tiny: BaseOf) -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        CopyDecoder(tiny("llama"), get_format("compact"), batch_size=0)


def hostile_texts(num_notes: int) -> list[str]:
    """Notes of all that notes should not hold; some are lines of 20,000 characters."""
    rng = random.Random(7)
    units = [
        "pain", " pain", " the", " aspirin 81mg", ".", ", ", "\n", "\r\n", "\t", "5", "\u00a0",
        "e\u0301", "😀", "👩\u200d⚕️", "_", "&", "<", "</", "<problem>", " <drug>", "</>",
        "</problem>", "</span>", '<span class="problem">', "<|end|>", "x" * 70, " " * 70,
    ]  # fmt: skip
    texts = ["".join(rng.choices(units, k=rng.randint(0, 30))) for _ in range(num_notes)]
    for number, unit in enumerate(("x", "no pain ", "<problem>")):
        texts[number * 7] = unit * (20_000 // len(unit))
    return texts


@pytest.mark.parametrize(
    "num_notes", [60, pytest.param(1_000, marks=pytest.mark.slow)], ids=["few", "1000"]
)
def test_hostile_notes_are_copied_exactly_to_their_end_and_nothing_loops(
    tiny: BaseOf, num_notes: int
) -> None:
    base, tags = tiny("llama", 2), get_format("compact")
    notes = [Document(f"n{i}", text) for i, text in enumerate(hostile_texts(num_notes))]
    decoder = CopyDecoder(base, tags, batch_size=64)
    extractor = Extractor(decoder, base.tokenizer, tags, window_tokens=96)
    found = list(extractor.extract(notes, LABELS, SilentObserver()))

    assert [(d.id, d.text) for d in found] == [(d.id, d.text) for d in notes]
    assert sum(len(d.entities) for d in found) > num_notes
    ends = [max((e.end for e in d.entities), default=0) for d in found if len(d.text) > 19_000]
    assert min(ends) > 15_000  # a window that is not read to its end would hold no span
    for document in found:
        assert document.metadata["num_truncated"] == document.metadata["num_unparsable"] == 0
        position = 0
        for entity in document.entities:
            words = document.text[entity.start : entity.end]
            assert position <= entity.start < entity.end
            assert words == words.strip() != ""
            position = entity.end


@pytest.mark.base_model
@pytest.mark.skipif(
    not is_fetched("smollm2-135m"),
    reason="smollm2-135m is not in the cache; run: fedmedlora model fetch",
)
@pytest.mark.parametrize("name", ["compact", "html"])
def test_the_embedded_model_answers_alike_in_float32(name: str) -> None:
    base, tags = load_base("smollm2-135m"), get_format(name)
    adapter = initial_adapter(base, rank=2, alpha=64.0, target_modules=("v_proj",), seed=0)
    for pair in adapter.pairs.values():
        pair.B.normal_(generator=torch.Generator().manual_seed(1))
    shaken = merged(base, adapter)  # the model as it is hardly ever tags
    prompts = prompts_of(tags, ["Chest pain, no fever.", "Aspirin 81 mg < daily", "CT: 5 cm."])
    expected = StepDecoder(shaken, tags).decode(prompts, nothing)

    assert sum(len(answer.spans) for answer in expected) > 0
    found = CopyDecoder(shaken, tags, batch_size=2).decode(prompts, nothing)
    for answer, slow in zip(found, expected, strict=True):
        assert [(s.label, s.start, s.end) for s in answer.spans] == [
            (s.label, s.start, s.end) for s in slow.spans
        ]
        assert [s.log_probability for s in answer.spans] == pytest.approx(
            [s.log_probability for s in slow.spans], abs=1e-3
        )
