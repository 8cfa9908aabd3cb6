"""Rows of examples behind their instruction: what many prompts share is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.models.kernels import whole_rows
from fedmedlora.models.packed_attention import RowLayout, Segment, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.training.batches import EncodedExample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Examples in one row: each instruction once, and behind it its examples.

    Attributes:
        token_ids: `(1, tokens)`.
        targets: Which positions of `token_ids` are supervised, `(1, tokens)`, bool.
        num_tokens: Tokens of all examples as if each stood alone, instructions counted each time.
        layout: Of the row.
        instructions: Where each instruction stands in the row.
        places: For each example, as given, its instruction's number and its own place in the row.
    """

    token_ids: torch.Tensor
    targets: torch.Tensor
    num_tokens: int
    layout: RowLayout
    instructions: tuple[slice, ...]
    places: tuple[tuple[int, slice], ...]

    def by_example(self, losses: torch.Tensor) -> list[torch.Tensor]:
        """The losses of all targets, in row order, by example as given.

        What an instruction's own targets lose, each of its examples does.
        """
        found = losses.new_zeros(self.targets.shape[1])
        found[self.targets[0]] = losses
        parts = []
        for instruction, own in self.places:
            both = [self.instructions[instruction], own]
            parts.append(torch.cat([found[place][self.targets[0, place]] for place in both]))
        return parts


def pack(
    examples: Sequence[EncodedExample],
    *,
    whole: bool = False,
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """The examples as one row; those of one instruction stand side by side.

    Behind them stand a few tokens that nobody sees, so that rows have few lengths (`whole_rows`).

    Args:
        examples: At least one.
        whole: Supervise the prompts too.
        device: Of the tensors.
    """
    by_instruction: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(examples):
        shared = example.token_ids[: example.num_shared_tokens]
        by_instruction.setdefault(shared, []).append(index)
    tokens: list[int] = []
    is_target: list[bool] = []
    instructions: list[slice] = []
    places: dict[int, tuple[int, slice]] = {}
    for shared, indices in by_instruction.items():
        instructions.append(slice(len(tokens), len(tokens) + len(shared)))
        tokens += shared
        # Nothing comes before the first token of all, so nothing predicts it.
        is_target += [whole and at > 0 for at in range(len(shared))]
        for index in indices:
            example = examples[index]
            own = example.token_ids[len(shared) :]
            places[index] = (len(instructions) - 1, slice(len(tokens), len(tokens) + len(own)))
            tokens += own
            first = 1 if whole else max(1, example.num_prompt_tokens)
            is_target += [at >= first for at in range(len(shared), len(example.token_ids))]
    segments = [
        Segment(len(shared), tuple(examples[index].num_own_tokens for index in indices))
        for shared, indices in by_instruction.items()
    ]
    if filling := whole_rows(len(tokens)) - len(tokens):
        segments.append(Segment(0, (filling,)))
        tokens += tokens[:1] * filling
        is_target += [False] * filling
    return PackedBatch(
        torch.tensor([tokens], device=device),
        torch.tensor([is_target], device=device),
        sum(len(example.token_ids) for example in examples),
        lay_out(segments, device),
        tuple(instructions),
        tuple(places[index] for index in range(len(examples))),
    )
