"""From documents to token batches: examples, their token ids, and buckets of similar length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.seeds import python_rng
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Example, Prompt
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of prompt and answer; the loss counts from `num_prompt_tokens` on."""

    document_id: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_entities: int

    @property
    def num_completion_tokens(self) -> int:
        """Supervised tokens: the answer and its end mark."""
        return len(self.token_ids) - self.num_prompt_tokens


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


def thin_negatives(examples: Sequence[Example], *, keep: float, seed: int) -> list[Example]:
    """The examples, with a share `keep` of those that hold no entity.

    Windows without entities teach restraint, but most windows of some corpora are such. Which ones
    stay depends on the seed and the window only.
    """
    kept = []
    for example in examples:
        prompt = example.prompt
        address = (seed, "negatives", prompt.document_id, prompt.window.start)
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
    for piece in cut(prompt.source):
        rest += tokenizer.encode(prompt.source[piece.start : piece.end])
    instruction = (*tokenizer.begin_ids, *tokenizer.encode(prompt.instruction))
    return instruction, (*rest, *tokenizer.encode(prompt.cue))


def encode_example(example: Example, tokenizer: PieceTokenizer) -> EncodedExample:
    """Token ids of an example, closed by the end-of-sequence token."""
    prompt = encode_prompt(example.prompt, tokenizer)
    answer: list[int] = []
    for segment in example.completion:
        answer += tokenizer.encode(segment.text)
    return EncodedExample(
        example.prompt.document_id,
        (*prompt, *answer, tokenizer.end_id),
        len(prompt),
        example.num_entities,
    )


def plan_batches(
    examples: Sequence[EncodedExample], *, batch_tokens: int, address: tuple[str | int, ...]
) -> list[list[int]]:
    """One epoch as lists of example indices: random, but of similar length within a batch.

    The examples are shuffled, cut into pools of eight batches, sorted by length within a pool, and
    the batches shuffled again. A batch holds at most `batch_tokens` tokens with its padding, and at
    least one example.
    """
    rng = python_rng(*address)
    order = list(range(len(examples)))
    rng.shuffle(order)
    pools: list[list[int]] = [[]]
    pool_tokens = 0
    for index in order:
        size = len(examples[index].token_ids)
        if pools[-1] and pool_tokens + size > 8 * batch_tokens:
            pools.append([])
            pool_tokens = 0
        pools[-1].append(index)
        pool_tokens += size
    batches: list[list[int]] = []
    for pool in pools:
        pool.sort(key=lambda index: (len(examples[index].token_ids), index))
        current: list[int] = []
        for index in pool:
            if current and len(examples[index].token_ids) * (len(current) + 1) > batch_tokens:
                batches.append(current)
                current = []
            current.append(index)
        if current:
            batches.append(current)
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[EncodedExample], pad_id: int) -> Batch:
    """The examples as one padded batch.

    Padding stands on the right, where causal attention never looks back at it: no attention mask
    is needed, which keeps attention on its fast path.
    """
    length = max(len(example.token_ids) for example in examples)
    token_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    targets = torch.zeros((len(examples), length), dtype=torch.bool)
    for row, example in enumerate(examples):
        size = len(example.token_ids)
        token_ids[row, :size] = torch.tensor(example.token_ids)
        targets[row, max(1, example.num_prompt_tokens) : size] = True
    return Batch(token_ids, targets, sum(len(example.token_ids) for example in examples))
