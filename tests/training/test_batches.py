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
    cut_rows,
    encode_example,
    encode_prompt,
    plan_batches,
    render_documents,
    thin_negatives,
)
from fedmedlora.training.packed import pack

TOKENIZER = PieceTokenizer(tiny_tokenizer(), "tiny")


def of_length(length: int, num_prompt_tokens: int = 1, shared: int = 0) -> EncodedExample:
    """Its token ids count up; the `shared` instruction stands before them and counts on its own."""
    own = tuple(range(2, 2 + length))
    return EncodedExample(
        "d", (*range(900, 900 + shared), *own), shared + num_prompt_tokens, 0, shared
    )


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
def test_a_step_keeps_the_budget_or_is_one_example(lengths: list[int], budget: int) -> None:
    made = [of_length(length) for length in lengths]

    for batch in plan_batches(made, batch_tokens=budget, address=(0,)):
        assert sum(lengths[index] for index in batch) <= budget or len(batch) == 1


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200), st.integers(1, 300))
def test_a_longer_instruction_leaves_the_steps_as_they_are(
    lengths: list[int], budget: int, longer: int
) -> None:
    short, long = (
        plan_batches([of_length(n, 1, k) for n in lengths], batch_tokens=budget, address=(0,))
        for k in (0, longer)
    )

    assert short == long


def pass_tokens(examples: list[EncodedExample], packed: bool) -> int:
    """Tokens that the network reads, told from the batch itself."""
    batch = pack(examples) if packed else collate(examples, 1)
    return batch.token_ids.numel()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(2, 60), st.sampled_from([0, 7, 30])), max_size=30),
    st.integers(1, 200),
    st.booleans(),
)
def test_passes_keep_order_and_bound_and_take_what_fits(
    sizes: list[tuple[int, int]], bound: int, packed: bool
) -> None:
    made = [of_length(length, 1, shared) for length, shared in sizes]
    rows = cut_rows(made, max_tokens=bound, packed=packed)

    assert [index for row in rows for index in row] == list(range(len(made)))
    for row, following in zip(rows, [*rows[1:], []], strict=False):
        assert pass_tokens([made[i] for i in row], packed) <= bound or len(row) == 1
        grown = [made[i] for i in [*row, *following[:1]]]
        assert not following or pass_tokens(grown, packed) > bound


def test_without_a_bound_there_is_one_pass() -> None:
    made = [of_length(length) for length in (3, 900, 2)]

    assert cut_rows(made, max_tokens=None, packed=True) == [[0, 1, 2]]
    assert cut_rows([], max_tokens=None, packed=True) == []


def test_the_plan_is_a_function_of_its_address() -> None:
    made = [of_length(2 + 7 * number % 40) for number in range(60)]
    plans = [
        plan_batches(made, batch_tokens=100, address=address)
        for address in [(1, "batches", 0), (1, "batches", 0), (1, "batches", 1), (2, "batches", 0)]
    ]

    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3] != plans[0]


def test_a_batch_is_padded_on_the_right_and_supervises_answers_only() -> None:
    batch = collate([of_length(4, 2), of_length(2, 1)], pad_id=0)

    assert batch.token_ids.tolist() == [[2, 3, 4, 5], [2, 3, 0, 0]]
    assert batch.targets.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.num_tokens == 6


def test_the_first_position_is_never_a_target() -> None:
    for whole in (False, True):
        batch = collate([of_length(3, 0)], pad_id=0, whole=whole)

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
    shared = encoded.token_ids[: encoded.num_shared_tokens]
    assert TOKENIZER.decode(shared) == example.prompt.instruction
    assert encoded.num_own_tokens == len(encoded.token_ids) - len(shared)


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
