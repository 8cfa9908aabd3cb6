"""Prompts, training examples and what parsing an answer gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedmedlora.core.document import Entity, Relation, Span

Task = Literal["entities", "relations"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt or an answer that is tokenised on its own.

    Text of the source (`tag` is False) or one of the format's tags (`tag` is True).
    """

    text: str
    tag: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads for one window of one document.

    `instruction + source + cue` is the whole prompt. `source` is the window's text, character for
    character; the other two are the format's own words, equal for all windows with the same labels.
    """

    document_id: str
    window: Span
    labels: tuple[str, ...]
    instruction: str
    source: str
    cue: str

    @property
    def passage(self) -> tuple[Segment, ...]:
        """What stands between instruction and cue."""
        return (Segment(self.source, tag=False),)

    @property
    def text(self) -> str:
        """The prompt as one string."""
        return self.instruction + "".join(part.text for part in self.passage) + self.cue


@dataclass(frozen=True, slots=True)
class RelationPrompt(Prompt):
    """What the model reads to mark the modifiers of a window's entities.

    Attributes:
        marked: The source with its entities marked and numbered; the source is copied in the answer
            without these marks.
        given: The entities by number, from 1 on; they lie in the document, maybe beyond the window.
        linked: Whether the answer says which entities a modifier belongs to. It does not where a
            corpus annotated no relations.
    """

    marked: tuple[Segment, ...]
    given: tuple[Entity, ...]
    linked: bool

    @property
    def passage(self) -> tuple[Segment, ...]:
        """What stands between instruction and cue."""
        return self.marked


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with the answer that the annotators' work implies.

    `completion` is the answer as segments, so that training sees the same tokens that constrained
    decoding chooses between. `num_entities` counts what the answer marks (modifiers, in the
    relation task), `num_lost` what the format cannot hold of the window.
    """

    prompt: Prompt
    completion: tuple[Segment, ...]
    task: Task
    num_entities: int
    num_lost: int = 0

    @property
    def completion_text(self) -> str:
        """The answer as one string."""
        return "".join(segment.text for segment in self.completion)


@dataclass(frozen=True, slots=True)
class ParseProblem:
    """Something in an answer that could not be read or placed; `offset` counts from its start.

    Codes: `unclosed`, `unopened`, `unknown-label`, `unknown-number`, `empty`, `nested`,
    `not-in-source`, `truncated`.
    """

    code: str
    offset: int


@dataclass(frozen=True, slots=True)
class ParseResult:
    """Entities and relations read from an answer, with offsets in the *document*."""

    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] = ()
    problems: tuple[ParseProblem, ...] = ()
