"""How readily a tag should open: one number, taken from notes that nobody trains or tests on.

A model that was trained by likelihood opens a tag where that is more likely than copying on. But F1
is highest at a lower threshold, of half the F1 that can be reached (Lipton, Elkan, Narayanaswamy,
"Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014), so a model that is unsure, as
one of few notes is, marks far too little. The bonus that opening is given is found in one pass over
gold answers: at each place where a tag may open, by how much copying is ahead, whether a tag opens
there in the gold answer, and whether the model would then have marked it right to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.inference.cursors import require_copying, start_of
from fedmedlora.inference.path import AnswerPath
from fedmedlora.training.batches import encode_example
from fedmedlora.training.local import answer_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Example
    from fedmedlora.inference.cursors import Tags
    from fedmedlora.models.lora import LoRAModel
    from fedmedlora.models.tokens import PieceTokenizer

LEAST, MOST = 0.0, 4.0
"""Bonuses that are considered. Few notes must not make a model silent, nor mark everything."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A place where a tag may open.

    Attributes:
        behind: The logit of going on without it minus that of opening.
        opens: Whether the gold answer opens one.
        right: Whether, having opened it, the model goes on as the gold answer does to its end.
    """

    behind: float
    opens: bool
    right: bool


@dataclass(frozen=True, slots=True)
class _Question:
    """A choice on the gold answer's way: which of its tokens, and between what."""

    at: int
    candidates: tuple[int, ...]
    gold: int
    opening: int | None
    opens: bool


def best_bonus(openings: Sequence[Opening]) -> float:
    """The bonus between `LEAST` and `MOST` with the highest F1, the smallest if there are several.

    It lies halfway to where one more tag would open; 0 where none opens in the gold answers.
    """
    total = sum(opening.opens for opening in openings)
    order = sorted(openings, key=lambda opening: opening.behind)
    right = 0
    best, bonus = 0.0, 0.0
    for count, opening in enumerate(order, start=1):
        right += opening.opens and opening.right
        following = order[count].behind if count < len(order) else MOST
        if following < LEAST or following == opening.behind:
            continue  # all of these open without a bonus, or the next one with them
        if opening.behind >= MOST:
            break
        f1 = 2 * right / (count + total)
        if f1 > best:
            # Halfway to where one more would open; nothing at all where no more is gained.
            least, most = max(opening.behind, LEAST), min(following, MOST)
            best, bonus = f1, LEAST if opening.behind < LEAST else (least + most) / 2
    return bonus


def find_openings(
    model: LoRAModel, examples: Sequence[Example], tags: Tags, *, batch_tokens: int
) -> list[Opening]:
    """Every place in the examples' gold answers where a tag may open.

    Args:
        model: Holds the adapter.
        examples: Of held-out notes.
        tags: Their format.
        batch_tokens: Tokens of a pass.
    """
    tokenizer = model.base.tokenizer
    tags = require_copying(tags)
    encoded = [encode_example(example, tokenizer) for example in examples]
    weight = model.base.output_weight
    found: list[Opening] = []
    with torch.inference_mode():
        for index, states in answer_states(model, encoded, batch_tokens=batch_tokens):
            questions = _questions(examples[index], encoded[index].answer_ids, tags, tokenizer)
            found += _judged(questions, states, weight)
    return found


def _questions(
    example: Example, answer: Sequence[int], tags: Tags, tokenizer: PieceTokenizer
) -> list[_Question]:
    """The choices that the gold answer makes, in order; up to where it cannot be followed."""
    path = AnswerPath(start_of(example.prompt, tags, tokenizer), open_bonus=1.0)
    found: list[_Question] = []
    at = len(path.forced())
    while not path.done and at < len(answer):
        gold = answer[at]
        candidates, bonuses = path.candidates, path.bonuses
        if gold not in candidates:
            return found
        opening = bonuses.index(1.0) if 1.0 in bonuses else None
        opens = opening is not None and candidates[opening] == gold
        found.append(_Question(at, tuple(candidates), candidates.index(gold), opening, opens))
        token = path.follow(gold)
        at += (token is not None) + len(path.forced())
    return found


def _judged(
    questions: Sequence[_Question], states: torch.Tensor, weight: torch.Tensor
) -> list[Opening]:
    """The places among these choices where a tag may open."""
    places: list[tuple[float, bool]] = []
    wrong: set[int] = set()
    latest: list[int] = []
    for question in questions:
        wanted = weight[list(question.candidates)].float()
        logits = (wanted @ states[question.at].float()).tolist()
        others = [index for index in range(len(logits)) if index != question.opening]
        other = max(others, key=lambda index: logits[index])
        if not question.opens and other != question.gold:
            # A label, an end, a number: of the tag that was opened last.
            wrong.update(latest[-1:])
        if question.opening is not None:
            places.append((logits[other] - logits[question.opening], question.opens))
            if question.opens:
                latest.append(len(places) - 1)
    return [
        Opening(behind, opens, opens and index not in wrong)
        for index, (behind, opens) in enumerate(places)
    ]
