"""What is trained on: examples of artificial notes, and which of them share an optimiser step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.ways.sentences import artificial_notes, sentences_of
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.prompts.registry import get_format
from fedmedlora.training.batches import (
    EncodedExample,
    encode_example,
    plan_batches,
    render_documents,
    thin_negatives,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Example
    from fedmedlora.models.tokens import PieceTokenizer

PromptName = Literal["compact", "html", "html, all labels"]
PROMPTS: tuple[PromptName, ...] = ("compact", "html", "html, all labels")
_NEGATIVES = 0.3  # as a study keeps them


@dataclass(frozen=True, slots=True)
class Lessons:
    """Examples, and the steps of one pass over them, as our own planner makes them.

    Attributes:
        examples: All of them.
        steps: Indices of the examples of every optimiser step, in order.
        batch_tokens: The setting with which our planner makes these steps.
        seed: The seed with which it does.
    """

    examples: tuple[EncodedExample, ...]
    steps: tuple[tuple[int, ...], ...]
    batch_tokens: int
    seed: int

    @property
    def batches(self) -> list[list[EncodedExample]]:
        """The examples of every step."""
        return [[self.examples[index] for index in step] for step in self.steps]

    @property
    def num_tokens(self) -> int:
        """Useful tokens: prompts and answers, each example once, no padding."""
        return sum(len(example.token_ids) for example in self.examples)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens with a loss."""
        return sum(example.num_completion_tokens for example in self.examples)

    @property
    def examples_a_step(self) -> float:
        """The effective batch, on average."""
        return len(self.examples) / len(self.steps)


def sentence_examples(
    tokenizer: PieceTokenizer, prompt: PromptName, count: int, seed: int, max_source_tokens: int
) -> list[EncodedExample]:
    """Examples of one sentence each, as the paper trains."""
    notes = artificial_notes("train", count // 2 + 4, seed)
    sentences = sentences_of(notes, tokenizer, count=2 * count, max_source_tokens=max_source_tokens)
    tags = get_format("compact" if prompt == "compact" else "html")
    every = default_schema().labels
    rendered = [
        tags.render(s.document, s.span, every if prompt == "html, all labels" else s.labels)
        for s in sentences
    ]
    return _encoded(rendered, tokenizer, count, seed)


def window_examples(
    tokenizer: PieceTokenizer, window_tokens: int, count: int, seed: int
) -> list[EncodedExample]:
    """Examples of one window each, as our studies train: many sentences where there is room."""
    notes = artificial_notes("train", count + 4, seed)
    labels = tuple(default_schema().entity_labels)
    compact = get_format("compact")
    rendered = render_documents(notes, compact, tokenizer, labels, window_tokens=window_tokens)
    return _encoded(rendered, tokenizer, count, seed)


def make_lessons(examples: Sequence[EncodedExample], num_steps: int, seed: int) -> Lessons:
    """The examples in that many steps, or as few more as our planner needs.

    Raises:
        ConfigError: There are fewer examples than steps.
    """
    if not 1 <= num_steps <= len(examples):
        raise ConfigError(f"lessons: expected 1 to {len(examples)} steps, got {num_steps}.")
    finest = max(1, max(len(example.token_ids) for example in examples) // 16)
    batch_tokens = 0
    steps: list[list[int]] = []
    while not 1 <= len(steps) <= num_steps:
        batch_tokens += finest
        steps = plan_batches(examples, batch_tokens=batch_tokens, address=(seed, "batches", 0))
    return Lessons(tuple(examples), tuple(map(tuple, steps)), batch_tokens, seed)


def few(lessons: Lessons, count: int) -> Lessons:
    """One step with the middle ones by length: what a setting is tried on."""
    by_length = sorted(lessons.examples, key=lambda example: len(example.token_ids))
    start = max(0, (len(by_length) - count) // 2)
    return make_lessons(by_length[start : start + count], 1, lessons.seed)


def _encoded(
    rendered: Sequence[Example], tokenizer: PieceTokenizer, count: int, seed: int
) -> list[EncodedExample]:
    kept = thin_negatives(rendered, keep=_NEGATIVES, seed=seed)[:count]
    if len(kept) < count:
        raise ConfigError(f"lessons: expected {count} examples, got {len(kept)}.")
    return [encode_example(example, tokenizer) for example in kept]
