"""From notes to batches: nothing is lost, repeated or told apart from what decoding reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Span
from fedmedlora.core.example import Example
from fedmedlora.models.load import BaseModel
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.prompts.registry import FORMATS, get_format
from fedmedlora.testing.generators import LABELS, documents
from fedmedlora.testing.tiny import tiny_tokenizer
from fedmedlora.training.batches import (
    EncodedExample,
    collate,
    encode_example,
    encode_prompt,
    plan_batches,
    render_documents,
    thin_negatives,
)

TOKENIZER = PieceTokenizer(tiny_tokenizer(), "tiny")


def of_length(length: int, num_prompt_tokens: int = 1) -> EncodedExample:
    return EncodedExample("d", tuple(range(2, 2 + length)), num_prompt_tokens, 0)


LENGTHS = st.lists(st.integers(2, 90), max_size=80)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200), st.integers(0, 5))
def test_an_epoch_holds_every_example_once(lengths: list[int], budget: int, seed: int) -> None:
    made = [of_length(length) for length in lengths]
    batches = plan_batches(made, batch_tokens=budget, address=(seed, "epoch"))

    assert sorted(index for batch in batches for index in batch) == list(range(len(made)))
    assert all(batches)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_a_padded_batch_keeps_the_budget_or_is_one_example(lengths: list[int], budget: int) -> None:
    made = [of_length(length) for length in lengths]

    for batch in plan_batches(made, batch_tokens=budget, address=(0,)):
        size = collate([made[index] for index in batch], 1).token_ids.numel()
        assert size <= budget or len(batch) == 1


def test_the_plan_is_a_function_of_its_address() -> None:
    made = [of_length(2 + 7 * number % 40) for number in range(60)]
    plans = [
        plan_batches(made, batch_tokens=100, address=address)
        for address in [(1, "batches", 0), (1, "batches", 0), (1, "batches", 1), (2, "batches", 0)]
    ]

    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3] != plans[0]


def test_batches_of_mixed_lengths_waste_little_on_padding() -> None:
    made = [of_length(2 + (37 * number) % 97) for number in range(400)]
    batches = plan_batches(made, batch_tokens=800, address=(0,))
    padded = sum(collate([made[i] for i in batch], 1).token_ids.numel() for batch in batches)

    assert padded < 1.15 * sum(len(example.token_ids) for example in made)


def test_a_batch_is_padded_on_the_right_and_supervises_answers_only() -> None:
    batch = collate([of_length(4, 2), of_length(2, 1)], pad_id=0)

    assert batch.token_ids.tolist() == [[2, 3, 4, 5], [2, 3, 0, 0]]
    assert batch.targets.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.num_tokens == 6


def test_the_first_position_is_never_a_target() -> None:
    batch = collate([of_length(3, 0)], pad_id=0)

    assert batch.targets.tolist() == [[False, True, True]]


@settings(deadline=None, max_examples=60)
@given(document=documents(), name=st.sampled_from(FORMATS))
def test_the_tokens_of_an_example_spell_prompt_and_answer(document: Document, name: str) -> None:
    window = Span(0, len(document.text))
    example = get_format(name).render(document, window, LABELS)
    encoded = encode_example(example, TOKENIZER)
    prompt, answer = (
        encoded.token_ids[: encoded.num_prompt_tokens],
        encoded.token_ids[encoded.num_prompt_tokens :],
    )

    assert prompt == encode_prompt(example.prompt, TOKENIZER)
    assert TOKENIZER.decode(prompt) == example.prompt.text
    assert answer[-1] == TOKENIZER.end_id
    assert TOKENIZER.decode(answer[:-1]) == example.completion_text
    assert TOKENIZER.end_id not in (*prompt, *answer[:-1])
    assert encoded.num_completion_tokens == len(answer)


def test_a_begin_token_stands_once_before_the_prompt(tiny: Callable[..., BaseModel]) -> None:
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")
    tokenizer.begin_ids = (0,)
    prompt = get_format("compact").prompt(Document("d", "Pain."), Span(0, 5), LABELS)

    assert encode_prompt(prompt, tokenizer) == (0, *encode_prompt(prompt, TOKENIZER))


def test_every_window_of_every_note_is_an_example(notes: list[Document]) -> None:
    made = render_documents(notes, get_format("html"), TOKENIZER, LABELS, window_tokens=24)
    for note in notes:
        windows = [e.prompt.window for e in made if e.prompt.document_id == note.id]
        assert windows[0].start == 0
        assert windows[-1].end == len(note.text)
    assert [e.prompt.document_id for e in made] == sorted(e.prompt.document_id for e in made)
    assert sum(e.num_entities for e in made) >= sum(len(note.entities) for note in notes)
    assert all(e.prompt.labels == LABELS for e in made)


def negatives(count: int) -> list[Example]:
    text = "No finding at all."
    return [
        get_format("compact").render(Document(f"n{number}", text), Span(0, len(text)), LABELS)
        for number in range(count)
    ]


@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_of_windows_without_entities_about_the_asked_share_is_kept(
    notes: list[Document], keep: float
) -> None:
    positives = [
        e
        for e in render_documents(notes, get_format("compact"), TOKENIZER, LABELS, window_tokens=60)
        if e.num_entities
    ]
    kept = thin_negatives([*positives, *negatives(800)], keep=keep, seed=3)
    share = sum(not e.num_entities for e in kept) / 800

    assert [e for e in kept if e.num_entities] == positives
    assert share == pytest.approx(keep, abs=0.05)
    assert share == keep or 0 < keep < 1


def test_which_negatives_stay_does_not_depend_on_their_order_or_company() -> None:
    made = negatives(200)
    kept = thin_negatives(made, keep=0.3, seed=5)
    backwards = thin_negatives(made[::-1], keep=0.3, seed=5)

    assert backwards[::-1] == kept
    assert thin_negatives(made[:50], keep=0.3, seed=5) == [e for e in kept if e in made[:50]]
    assert thin_negatives(made, keep=0.3, seed=6) != kept
