"""What a way to extract offers to a benchmark, and how its work is counted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.ways.sentences import Sentence
    from fedmedlora.core.document import Entity


@dataclass(frozen=True, slots=True)
class Setting:
    """How a way is run. What is not the batch size concerns generate alone.

    Attributes:
        batch_size: Sentences side by side.
        lookup_tokens: Tokens that prompt lookup drafts at a time; 0 is no prompt lookup.
        share_prefix: The start that all prompts of a batch have in common is computed once.
    """

    batch_size: int
    lookup_tokens: int = 0
    share_prefix: bool = False

    def __str__(self) -> str:
        lookup = f", prompt lookup {self.lookup_tokens}" if self.lookup_tokens else ""
        prefix = ", shared prefix" if self.share_prefix else ""
        return f"batch {self.batch_size}{lookup}{prefix}"


@dataclass(slots=True)
class Work:
    """What answering took.

    Attributes:
        num_passes: Forward passes of the network, whatever the batch size, instructions included.
        num_fed_tokens: Token positions computed in them, padding included.
        num_new_tokens: Generated tokens, end marks included; 0 where a way does not say.
        num_cut: Answers that reached the length limit.
    """

    num_passes: int = 0
    num_fed_tokens: int = 0
    num_new_tokens: int = 0
    num_cut: int = 0

    def __add__(self, other: Work) -> Work:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Work(*(ours + theirs for ours, theirs in pairs))


@dataclass(slots=True)
class Answers:
    """The entities of each sentence, in the order of the sentences, and the work."""

    entities: list[tuple[Entity, ...]]
    work: Work = field(default_factory=Work)


class Way(Protocol):
    """Sentences in, entities out."""

    def answer(self, sentences: Sequence[Sentence], setting: Setting) -> Answers:
        """The entities of every sentence."""


def all_at_once(way: Way, sentences: Sequence[Sentence], setting: Setting) -> Answers:
    """The answers to sentences that are all there, for the way to batch."""
    return way.answer(sentences, setting)


def one_by_one(way: Way, sentences: Sequence[Sentence], setting: Setting) -> Answers:
    """The answers to sentences that come one at a time, each in a call of its own."""
    each = [way.answer([sentence], setting) for sentence in sentences]
    entities = [found for answers in each for found in answers.entities]
    return Answers(entities, sum((answers.work for answers in each), Work()))


@contextmanager
def counted(backbone: Any) -> Iterator[Work]:
    """Counts forward passes and the token positions fed, of all networks of the backbone's class.

    By class, because a decoder may work on a copy of the network that shares its weights.
    """
    work = Work()
    network = type(backbone)
    forward = network.forward

    @wraps(forward)
    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        fed = arguments[0] if arguments else named["input_ids"]
        work.num_passes += 1
        work.num_fed_tokens += fed.numel()
        return forward(self, *arguments, **named)

    network.forward = counting
    try:
        yield work
    finally:
        network.forward = forward
