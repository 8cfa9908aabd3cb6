"""From documents to token batches: examples, their token ids, and which of them make a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.seeds import python_rng
from fedmedlora.models.kernels import whole_rows
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Example, Prompt, Task
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.prompts.relation_format import RelationFormat


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of prompt and answer; the loss counts from `num_prompt_tokens` on.

    The first `num_shared_tokens`, the instruction, are those of many examples; all of them stand in
    the prompt. `num_entities` counts what the answer marks.
    """

    document_id: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_entities: int
    num_shared_tokens: int = 0
    task: Task = "entities"

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The answer and its end mark."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_completion_tokens(self) -> int:
        """Supervised tokens: the answer and its end mark."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_targets(self) -> int:
        """Tokens that count in the loss; the very first token of all is predicted by nothing."""
        return len(self.token_ids) - max(1, self.num_prompt_tokens)

    @property
    def num_own_tokens(self) -> int:
        """All tokens but those of the instruction."""
        return len(self.token_ids) - self.num_shared_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right to one length.

    Attributes:
        token_ids: `(examples, length)`.
        targets: Which positions of `token_ids` are supervised, `(examples, length)`, bool. The
            first position never is.
        num_tokens: Tokens that are not padding.
    """

    token_ids: torch.Tensor
    targets: torch.Tensor
    num_tokens: int

    def by_example(self, losses: torch.Tensor) -> list[torch.Tensor]:
        """The losses of all targets, in row order, parted by example."""
        return list(torch.split(losses, self.targets.sum(dim=1).tolist()))


def render_documents(
    documents: Iterable[Document],
    tags: TagFormat,
    tokenizer: PieceTokenizer,
    labels: Sequence[str],
    *,
    window_tokens: int,
) -> list[Example]:
    """An example for every window of every document, in order, asking for these labels."""
    return [
        tags.render(document, window.span, labels)
        for document in documents
        for window in note_windows(document.text, tokenizer, budget_tokens=window_tokens)
    ]


def render_relation_documents(
    documents: Iterable[Document],
    formatted: RelationFormat,
    tokenizer: PieceTokenizer,
    labels: Sequence[str],
    *,
    window_tokens: int,
    linked: bool,
) -> list[Example]:
    """As `render_documents`, for the modifiers of the documents' entities.

    Args:
        documents: Whose main entities are given.
        formatted: Of the relation task.
        tokenizer: The base model's.
        labels: Modifiers to ask for.
        window_tokens: Source tokens a window may hold; marks do not count.
        linked: Whether to ask what they belong to.
    """
    return [
        formatted.render(document, window.span, labels, linked=linked)
        for document in documents
        for window in note_windows(document.text, tokenizer, budget_tokens=window_tokens)
    ]


def thin_negatives(examples: Sequence[Example], *, keep: float, seed: int) -> list[Example]:
    """The examples, with a share `keep` of those that mark nothing.

    Windows without entities, or modifiers, teach restraint, but most windows of some corpora are
    such. Which ones stay depends on the seed, the task and the window only.
    """
    kept = []
    for example in examples:
        prompt = example.prompt
        # Each task draws for itself; the entity task as it did when it was the only one.
        task = () if example.task == "entities" else (example.task,)
        address = (seed, "negatives", *task, prompt.document_id, prompt.window.start)
        if example.num_entities or python_rng(*address).random() < keep:
            kept.append(example)
    return kept


def encode_prompt(prompt: Prompt, tokenizer: PieceTokenizer) -> tuple[int, ...]:
    """Token ids of a prompt. The source is tokenised piece by piece, as it is in the answer."""
    instruction, rest = encode_parts(prompt, tokenizer)
    return instruction + rest


def encode_parts(
    prompt: Prompt, tokenizer: PieceTokenizer
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of a prompt in two parts: what many prompts share, and what is its own."""
    rest: list[int] = []
    for part in prompt.passage:
        if part.tag:
            rest += tokenizer.encode(part.text)
            continue
        for piece in cut(part.text):
            rest += tokenizer.encode(part.text[piece.start : piece.end])
    instruction = (*tokenizer.begin_ids, *tokenizer.encode(prompt.instruction))
    return instruction, (*rest, *tokenizer.encode(prompt.cue))


def encode_example(example: Example, tokenizer: PieceTokenizer) -> EncodedExample:
    """Token ids of an example, closed by the end-of-sequence token."""
    instruction, rest = encode_parts(example.prompt, tokenizer)
    prompt = instruction + rest
    answer: list[int] = []
    for segment in example.completion:
        answer += tokenizer.encode(segment.text)
    return EncodedExample(
        example.prompt.document_id,
        (*prompt, *answer, tokenizer.end_id),
        len(prompt),
        example.num_entities,
        len(instruction),
        example.task,
    )


def plan_batches(
    examples: Sequence[EncodedExample], *, batch_tokens: int, address: tuple[str | int, ...]
) -> list[list[int]]:
    """One epoch as lists of example indices, an optimiser step each, in random order.

    A step holds at most `batch_tokens` tokens, and at least one example. Instructions do not count,
    so that a longer one leaves the steps as they are.
    """
    order = list(range(len(examples)))
    python_rng(*address).shuffle(order)
    batches: list[list[int]] = []
    total = 0
    for index in order:
        size = examples[index].num_own_tokens
        if not batches or total + size > batch_tokens:
            batches.append([])
            total = 0
        batches[-1].append(index)
        total += size
    return batches


def cut_rows(
    examples: Sequence[EncodedExample], *, max_tokens: int | None, packed: bool
) -> list[list[int]]:
    """The indices of the examples in order, parted into those that one pass reads.

    A pass reads at most `max_tokens` (any number if None), padding and instructions included, and
    at least one example.
    """
    rows: list[list[int]] = []
    for index, example in enumerate(examples):
        if rows:
            grown = [*(examples[held] for held in rows[-1]), example]
            if max_tokens is None or _row_tokens(grown, packed=packed) <= max_tokens:
                rows[-1].append(index)
                continue
        rows.append([index])
    return rows


def _row_tokens(examples: Sequence[EncodedExample], *, packed: bool) -> int:
    if not packed:
        return len(examples) * max(len(example.token_ids) for example in examples)
    instructions = {example.token_ids[: example.num_shared_tokens] for example in examples}
    return whole_rows(
        sum(map(len, instructions)) + sum(example.num_own_tokens for example in examples)
    )


def collate(
    examples: Sequence[EncodedExample],
    pad_id: int,
    *,
    whole: bool = False,
    device: torch.device | str = "cpu",
) -> Batch:
    """The examples as one padded batch: the plain form, for models that cannot read packed rows.

    Padding stands on the right, where causal attention never looks back at it: no attention mask
    is needed, which keeps attention on its fast path.

    Args:
        examples: At least one.
        pad_id: Any token.
        whole: Supervise the prompts too.
        device: Of the tensors.
    """
    length = max(len(example.token_ids) for example in examples)
    token_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    targets = torch.zeros((len(examples), length), dtype=torch.bool)
    for row, example in enumerate(examples):
        size = len(example.token_ids)
        token_ids[row, :size] = torch.tensor(example.token_ids)
        targets[row, 1 if whole else max(1, example.num_prompt_tokens) : size] = True
    num_tokens = sum(len(example.token_ids) for example in examples)
    return Batch(token_ids.to(device), targets.to(device), num_tokens)
