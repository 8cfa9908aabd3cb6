"""What extraction holds in memory at its peak, found with a ghost of the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch

from fedmedlora.inference.packed_model import Feed, PackedModel
from fedmedlora.models.live_bytes import LiveBytes, ghost
from fedmedlora.models.windowing import note_windows
from fedmedlora.training.pass_memory import PassMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmedlora.core.example import Task
    from fedmedlora.study.data import Cohort
    from fedmedlora.study.prepare import Prepared

# As the copy decoder has it: tokens of new windows that a pass takes in, and of a draft.
_NEW_TOKENS, _DRAFT_TOKENS = 384, 16


@dataclass(frozen=True, slots=True)
class _Prompts:
    """The longest instruction, and the longest window behind one."""

    instruction: int
    window: int


class DecodingMemory:
    """Measures extraction of a study's cohorts without doing it.

    Prompts are taken to be as long as those of the examples, which have the same windows.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._ghost = ghost(prepared.base)
        self._num_windows = [self._windows_of(c) for c in prepared.notes.cohorts]
        self._prompts: dict[Task, _Prompts] = {}
        for tasks in prepared.data.values():
            for task, data in tasks.items():
                known = self._prompts.get(task, _Prompts(1, 1))
                self._prompts[task] = _Prompts(
                    max([known.instruction, *(e.num_shared_tokens for e in data.train)]),
                    max(
                        known.window,
                        *(e.num_prompt_tokens - e.num_shared_tokens for e in data.train),
                        1,
                    ),
                )

    def at_peak(self, batch_size: int) -> tuple[int, PassMemory]:
        """Merged weights with the caches of all tasks, and a pass over as much as one may hold."""
        num_windows = max(self._num_windows, default=0)
        if not num_windows:
            return 0, PassMemory()
        lasting, largest = self._merged_bytes(), PassMemory()
        for prompts in self._prompts.values():
            counted = LiveBytes()
            with counted, torch.inference_mode():
                model = PackedModel(self._ghost)
                self._decode(model, prompts, min(batch_size, num_windows))
                caches = counted.now
            lasting += caches  # the decoders of all tasks keep theirs
            found = replace(PassMemory.of(counted), live_bytes=counted.peak - caches)
            largest = max(largest, found, key=lambda one: one.live_bytes)
        return lasting, largest

    def _decode(self, model: PackedModel, prompts: _Prompts, num_rows: int) -> None:
        model.start([0] * prompts.instruction, num_rows, 3 * prompts.window)
        new = [0] * (prompts.window + _DRAFT_TOKENS)
        num_new = min(num_rows, -(-_NEW_TOKENS // prompts.window))
        feeds = [Feed(row, 0, new) for row in range(num_new)]
        drafts = range(num_new, num_rows)
        model.feed(feeds + [Feed(row, prompts.window, [0] * _DRAFT_TOKENS) for row in drafts])

    def _merged_bytes(self) -> int:
        """A dense weight has a merged copy; beside one in 4 bits stands the adapter."""
        base, total = self._prepared.base, 0
        for name, pair in self._prepared.initial.pairs.items():
            weight = base.model.get_submodule(name)._parameters.get("weight")
            factors = pair.A.nbytes + pair.B.nbytes
            total += factors if weight is None else weight.nbytes
        return total

    def _windows_of(self, cohort: Cohort) -> int:
        """How many windows its notes have; counted to the size of a batch."""
        config = self._prepared.config

        def windows() -> Iterator[object]:
            for document in cohort.documents:
                yield from note_windows(
                    document.text,
                    self._prepared.base.tokenizer,
                    budget_tokens=config.prompt.window_tokens,
                )

        return sum(1 for _ in islice(windows(), config.evaluation.batch_size))
