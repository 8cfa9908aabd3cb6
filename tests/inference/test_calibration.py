"""How readily tags open: decoders that agree, and a bonus that is best on gold answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.example import Example
from fedmedlora.inference.calibration import LEAST, MOST, Opening, best_bonus, find_openings
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.cursor import Choice
from fedmedlora.inference.decision import Decision
from fedmedlora.inference.decoder import WindowAnswer
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.testing.generators import LABELS

BaseOf = Callable[..., BaseModel]
TEXTS = [
    "The patient had pain and fever, was given aspirin 81mg.",
    "Severe pain since May; no fever, no cough, no chills.",
    "K<3 and </> or <drug> 5 mg",
]


def marks(answers: Sequence[WindowAnswer]) -> list[list[tuple[object, ...]]]:
    return [[(s.label, s.start, s.end, s.numbers) for s in answer.spans] for answer in answers]


def whole(document: Document) -> Span:
    return Span(0, len(document.text))


@pytest.mark.parametrize("bonus", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("name", ["compact", "html"])
def test_verified_copying_is_the_step_decoder_with_any_bonus(
    tiny: BaseOf, name: str, bonus: float
) -> None:
    base, tags, linked = (
        tiny("llama", 1, torch.float64),
        get_format(name),
        get_relation_format(name),
    )
    notes = [Document(f"n{i}", text) for i, text in enumerate(TEXTS)]
    given = [n.with_entities((Entity.at("T1", "problem", 4, 9),)) for n in notes]
    entities = [tags.prompt(note, whole(note), LABELS) for note in notes]
    relations = [linked.prompt(n, whole(n), ("severity", "temporal"), linked=True) for n in given]
    for formatted, prompts in ((tags, entities), (linked, relations)):
        slow = StepDecoder(base, formatted, open_bonus=bonus).decode(prompts, lambda _: None)
        fast = CopyDecoder(base, formatted, batch_size=2, open_bonus=bonus)
        assert marks(fast.decode(prompts, lambda _: None)) == marks(slow)
        plain = StepDecoder(base, formatted).decode(prompts, lambda _: None)
        if bonus == 4.0:
            assert sum(map(len, marks(slow))) > sum(map(len, marks(plain)))


class Nowhere:
    """A cursor that no look ahead is asked of."""

    def copied_on(self, _choice: Choice) -> int:
        raise AssertionError("no choice begins another")


COPY, CLOSE = Choice("copy", "", (1,)), Choice("close", "", (2,))
DRUG, TEST = Choice("open", "drug", (3, 4)), Choice("open", "test", (3, 5))


def test_a_bonus_decides_and_the_probability_stays_the_models_own() -> None:
    decision = Decision(Nowhere(), [COPY, DRUG, TEST], open_bonus=2.5)  # type: ignore[arg-type]
    assert decision.pick([2.0, 0.0]) == 3
    assert decision.log_probability == pytest.approx(-2.126928)  # log(1 / (1 + e^2))
    assert decision.pick([0.0, 1.0]) == 5  # between labels the model decides alone
    assert decision.log_probability == pytest.approx(-2.126928 - 0.313262)


@pytest.mark.parametrize(("bonus", "token"), [(1.9, 1), (2.0, 1), (2.1, 3)])
def test_a_bonus_that_only_makes_up_for_being_behind_is_a_tie_and_copying_wins(
    bonus: float, token: int
) -> None:
    decision = Decision(Nowhere(), [COPY, DRUG, TEST], open_bonus=bonus)  # type: ignore[arg-type]
    assert decision.pick([2.0, 0.0]) == token


def test_no_bonus_is_given_to_an_end() -> None:
    decision = Decision(Nowhere(), [COPY, CLOSE, DRUG], open_bonus=1.0)  # type: ignore[arg-type]
    assert decision.bonuses == [0.0, 0.0, 1.0]


def model_of(base: BaseModel) -> LoRAModel:
    adapter = initial_adapter(base, rank=2, alpha=4, target_modules=("q_proj",), seed=0)
    model = LoRAModel(base, adapter.spec)
    model.load(adapter)
    return model


@pytest.mark.parametrize("name", ["compact", "html"])
def test_a_decoder_begins_to_mark_just_where_the_bonus_makes_up_for_being_behind(
    tiny: BaseOf, name: str
) -> None:
    """Notes that mark nothing: up to its first tag, the step decoder walks the gold answer."""
    base, tags = tiny("llama", 0, torch.float64), get_format(name)
    for text in TEXTS[:2]:
        note = Document("n", text)
        example = tags.render(note, whole(note), LABELS)
        found = find_openings(model_of(base), [example], tags, batch_tokens=512)
        assert len(found) > 10
        assert not any(opening.opens for opening in found)
        least = min(opening.behind for opening in found)
        for bonus, marked in ((least + 1e-4, True), (least - 1e-4, False)):
            decoder = StepDecoder(base, tags, open_bonus=bonus)
            (answer,) = decoder.decode([example.prompt], lambda _: None)
            assert bool(answer.spans) == marked


def gold_of_answers(base: BaseModel, name: str) -> list[Example]:
    """Examples whose gold answers are what the model marks by itself."""
    tags = get_format(name)
    examples = []
    for number, text in enumerate(TEXTS[:2]):
        note = Document(f"n{number}", text)
        prompt = tags.prompt(note, whole(note), LABELS)
        (answer,) = StepDecoder(base, tags).decode([prompt], lambda _: None)
        spans = [Entity.at(f"T{i}", s.label, s.start, s.end) for i, s in enumerate(answer.spans)]
        examples.append(tags.render(note.with_entities(spans), whole(note), LABELS))
    return examples


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_that_marks_just_what_is_gold_needs_no_bonus(tiny: BaseOf, seed: int) -> None:
    base, tags = tiny("llama", seed, torch.float64), get_format("compact")
    examples = gold_of_answers(base, "compact")
    found = find_openings(model_of(base), examples, tags, batch_tokens=512)
    num_gold = sum(example.num_entities for example in examples)
    assert num_gold
    assert sum(opening.opens for opening in found) == num_gold
    assert all(opening.right for opening in found if opening.opens)
    assert all((opening.behind < 0) == opening.opens for opening in found)
    assert best_bonus(found) == 0.0


def f1_at(openings: Sequence[Opening], bonus: float) -> float:
    """Counted as a decoder opens: where the bonus more than makes up for being behind."""
    opened = [o for o in openings if o.behind < bonus]
    right = sum(o.opens and o.right for o in opened)
    total = len(opened) + sum(o.opens for o in openings)
    return 2 * right / total if total else 0.0


OPENINGS = st.lists(
    st.builds(
        Opening,
        st.floats(-6, 8).map(lambda x: round(x, 2)),
        opens=st.booleans(),
        right=st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(OPENINGS)
def test_no_other_bonus_within_the_bounds_does_better(openings: list[Opening]) -> None:
    bonus = best_bonus(openings)
    assert LEAST <= bonus <= MOST
    tried = [LEAST + step * (MOST - LEAST) / 800 + 0.0025 for step in range(800)]
    assert f1_at(openings, bonus) >= max(f1_at(openings, other) for other in [0.0, *tried]) - 1e-12


def test_without_a_gold_tag_there_is_no_bonus() -> None:
    assert best_bonus([]) == 0.0
    assert best_bonus([Opening(0.5, opens=False, right=False)]) == 0.0
