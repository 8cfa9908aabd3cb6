"""All ways to train take the same steps: their losses are the same, at every setting of TRL."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.ways.lessons import (
    PROMPTS,
    Lessons,
    few,
    make_lessons,
    sentence_examples,
    window_examples,
)
from benchmarks.ways.trainers import Ours, PlainPeft, Setting, Setup, base_model, peft_model
from benchmarks.ways.trl_trainer import Trl
from fedmedlora.core.errors import ConfigError
from fedmedlora.models.load import BaseModel

SETUP = Setup("tiny", "cpu", threads=1, rank=2, alpha=4.0, learning_rate=5e-2, seed=0)
EXACT = Setting("float32")


@pytest.fixture(scope="module")
def lessons(base: BaseModel) -> Lessons:
    """Nine examples of different length in three or so steps; some ask for other labels."""
    return make_lessons(sentence_examples(base.tokenizer, "html", 9, 0, 30), 4, seed=1)


@pytest.fixture(scope="module")
def expected(lessons: Lessons) -> list[float]:
    """The losses of the plain loop, which is as simple as can be."""
    way = PlainPeft(SETUP, "float32")
    way.prepare(lessons, EXACT)
    return way.train(lessons, EXACT)


@pytest.fixture(scope="module")
def peer() -> Trl:
    return Trl(SETUP)


def test_steps_hold_every_example_once_and_differ_in_size(lessons: Lessons) -> None:
    assert sorted(index for step in lessons.steps for index in step) == list(range(9))
    assert len({len(step) for step in lessons.steps}) > 1
    assert len({len(example.token_ids) for example in lessons.examples}) > 3
    assert lessons.num_tokens == sum(len(e.token_ids) for e in lessons.examples)
    assert 0 < lessons.num_completion_tokens < lessons.num_tokens / 2


def test_training_changes_the_loss_so_that_equal_losses_mean_equal_steps(
    lessons: Lessons, expected: list[float]
) -> None:
    still = PlainPeft(replace(SETUP, learning_rate=0.0), "float32")
    still.prepare(lessons, EXACT)

    untrained = still.train(lessons, EXACT)

    assert untrained[0] == expected[0]
    assert all(abs(a - b) > 1e-3 for a, b in zip(untrained[1:], expected[1:], strict=True))


def test_ours_has_the_losses_of_the_plain_loop(lessons: Lessons, expected: list[float]) -> None:
    way = Ours(SETUP, "float32")

    first, again = way.train(lessons, EXACT), way.train(lessons, EXACT)

    assert first == pytest.approx(expected, rel=1e-4)
    assert again == first  # every call begins with the first adapter


@pytest.mark.parametrize(
    "setting",
    [EXACT, Setting("float32", padding_free=True), Setting("float32", parts=2)],
    ids=str,
)
def test_trl_has_the_losses_of_the_plain_loop_at_every_setting(
    peer: Trl, base: BaseModel, setting: Setting
) -> None:
    even = make_lessons(sentence_examples(base.tokenizer, "html", 8, 0, 30), 2, seed=1)
    assert min(map(len, even.steps)) > 1
    plain = PlainPeft(SETUP, "float32")
    plain.prepare(even, EXACT)

    losses = [peer_losses(peer, even, setting) for _ in range(2)]

    assert losses[0] == pytest.approx(plain.train(even, EXACT), rel=1e-4)
    assert losses[1] == losses[0]


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_in_bfloat16_trl_does_nearly_the_same_with_an_adapter_in_float32(
    peer: Trl, lessons: Lessons, expected: list[float], precision: str
) -> None:
    losses = peer_losses(peer, lessons, Setting(precision))

    assert losses == pytest.approx(expected, rel=0.05)
    assert losses != pytest.approx(expected, rel=1e-6)
    model, _ = peft_model(SETUP, "bfloat16")
    kinds = {weight.requires_grad: weight.dtype for weight in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def peer_losses(peer: Trl, lessons: Lessons, setting: Setting) -> list[float]:
    peer.prepare(lessons, setting)
    return peer.train(lessons, setting)


def test_a_step_that_cannot_be_cut_into_so_many_passes_is_refused(
    peer: Trl, lessons: Lessons
) -> None:
    too_many = min(map(len, lessons.steps)) + 1
    with pytest.raises(ConfigError, match=f"cannot be cut into {too_many}"):
        peer.prepare(lessons, Setting("float32", parts=too_many))


def test_ours_notices_if_its_planner_makes_other_steps_than_the_peers_are_given(
    lessons: Lessons,
) -> None:
    with pytest.raises(ConfigError, match="not the ones that were planned"):
        Ours(SETUP, "float32").train(replace(lessons, steps=lessons.steps[::-1]), EXACT)


def test_prompts_differ_in_what_they_share_and_not_in_their_sentences(base: BaseModel) -> None:
    compact, html, every = (
        sentence_examples(base.tokenizer, prompt, 4, 0, 30) for prompt in PROMPTS
    )

    assert [e.document_id for e in compact] == [e.document_id for e in html]
    assert [e.document_id for e in html] == [e.document_id for e in every]
    lengths = [sum(len(e.token_ids) for e in found) for found in (compact, html, every)]
    assert lengths[0] < lengths[1] < lengths[2] / 2


def test_wider_windows_make_longer_examples_and_a_trial_takes_those_in_the_middle(
    base: BaseModel, lessons: Lessons
) -> None:
    narrow, wide = (window_examples(base.tokenizer, size, 3, 0) for size in (32, 128))
    assert sum(len(e.token_ids) for e in wide) > 1.5 * sum(len(e.token_ids) for e in narrow)

    trial = few(lessons, 3)

    lengths = sorted(len(e.token_ids) for e in lessons.examples)
    assert sorted(len(e.token_ids) for e in trial.examples) == lengths[3:6]
    assert len(trial.steps) == 1


def test_a_random_model_has_the_shape_that_was_asked_for() -> None:
    found = base_model(replace(SETUP, shape=(192, 3)), "bfloat16")

    config = found.model.config
    assert (config.hidden_size, config.num_hidden_layers) == (192, 3)
    assert found.output_weight.shape == (len(found.tokenizer.tokenizer), 192)
    assert not any(weight.requires_grad for weight in found.model.parameters())
