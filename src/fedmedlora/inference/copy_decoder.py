"""Draft-and-verify decoding: the source itself is the draft of the answer.

One pass of the network reads a whole draft and answers every question on it: does a tag beat
copying here, which label, does the span end? All up to the first wrong guess is accepted. The
answer is that of the step decoder, which decides by the same path, one token at a time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING

import torch

from fedmedlora.inference.cursor import CopyCursor
from fedmedlora.inference.decoder import WindowAnswer, longest_first
from fedmedlora.inference.drafts import (
    FEW_PASSES,
    FEW_TOKENS,
    Draft,
    DraftLimits,
    Hints,
    Memory,
    draft,
)
from fedmedlora.inference.packed_model import Feed, PackedModel
from fedmedlora.inference.path import AnswerPath
from fedmedlora.prompts.format import require_tags
from fedmedlora.training.batches import encode_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat

# Windows that a worker must have for its start to pay.
_FEW_WINDOWS = 4
# Windows are let in until a pass has so many new tokens: larger ones leave the processor's caches.
_MANY_TOKENS = 384


@dataclass(slots=True)
class _Row:
    """One window being answered in one row of the cache."""

    prompt: int
    slot: int
    path: AnswerPath
    pending: list[int]
    fed: int = 0
    num_found: int = 0
    hints: Hints = field(default_factory=Hints)


class CopyDecoder:
    """Constrained decoding by verified copying.

    Windows are taken longest first; as soon as one is answered, the next takes its row. On a CPU
    the windows are dealt out to several workers of one thread each: the many small steps of a pass
    gain little from a second thread, two passes side by side do. Guesses learn from the windows
    before, within one worker and one call of `decode` only.

    Args:
        base: The model, adapters merged.
        tags: The prompts' format.
        batch_size: Rows of all workers, that is windows side by side.
        limits: How far drafts go; by default further where a window is alone.

    Raises:
        ConfigError: The format has no tags.
    """

    def __init__(
        self,
        base: BaseModel,
        tags: TagFormat,
        *,
        batch_size: int = 64,
        limits: DraftLimits | None = None,
    ) -> None:
        self._base, self._tags, self._limits = base, require_tags(tags), limits
        self._batch_size = batch_size
        self._on_cpu = base.output_weight.device.type == "cpu"
        self._workers: list[_Worker] = []

    @property
    def num_passes(self) -> int:
        """Passes of the network so far."""
        return sum(worker.num_passes for worker in self._workers)

    @property
    def num_fed_tokens(self) -> int:
        """Tokens that they read, the instructions not counted."""
        return sum(worker.num_fed_tokens for worker in self._workers)

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        """The answers, in the order of the prompts; see `Decoder`."""
        answers = [WindowAnswer(())] * len(prompts)
        num_threads = torch.get_num_threads()
        num_workers = 1
        if self._on_cpu:
            num_workers = max(1, min(num_threads, self._batch_size, len(prompts) // _FEW_WINDOWS))
        while len(self._workers) < num_workers:
            self._workers.append(_Worker(self._base, self._tags, self._limits))
        order, rows = longest_first(prompts), max(1, self._batch_size // num_workers)
        if num_workers == 1:
            self._workers[0].decode(prompts, order, rows, answers, on_done, Event())
            return answers
        stop, told = Event(), Lock()

        def tell(index: int) -> None:
            with told:
                on_done(index)

        def work(number: int) -> None:
            torch.set_num_threads(max(1, num_threads // num_workers))
            mine = order[number::num_workers]
            self._workers[number].decode(prompts, mine, rows, answers, tell, stop)

        with ThreadPoolExecutor(num_workers) as pool:
            jobs = [pool.submit(work, number) for number in range(num_workers)]
            try:
                for job in jobs:
                    job.result()
            finally:
                stop.set()  # where one has failed, or the user has had enough
        torch.set_num_threads(num_threads)  # what a worker sets, threads to come begin with
        return answers


class _Worker:
    """One packed model, and the rows that it works on."""

    def __init__(self, base: BaseModel, tags: TagFormat, limits: DraftLimits | None) -> None:
        self._tags, self._given_limits, self._tokenizer = tags, limits, base.tokenizer
        self._limits = limits or FEW_PASSES
        self._model = PackedModel(base)
        self._weight = base.output_weight
        self.num_passes = 0
        self.num_fed_tokens = 0

    def decode(
        self,
        prompts: Sequence[Prompt],
        chosen: Sequence[int],
        num_rows: int,
        answers: list[WindowAnswer],
        on_done: Callable[[int], None],
        stop: Event,
    ) -> None:
        """Answer the chosen prompts in this order."""
        self._limits = self._given_limits or (FEW_TOKENS if len(chosen) > 1 else FEW_PASSES)
        by_instruction: dict[tuple[int, ...], list[int]] = {}
        windows: dict[int, tuple[int, ...]] = {}
        for index in chosen:
            instruction, windows[index] = encode_parts(prompts[index], self._tokenizer)
            by_instruction.setdefault(instruction, []).append(index)
        memory = Memory()
        for instruction, queue in by_instruction.items():
            # For the longest source twice and some tags; the cache grows where that is too little.
            length = 3 * max(len(windows[index]) for index in queue)
            self._model.start(instruction, min(num_rows, len(queue)), length)
            free, rows = list(range(min(num_rows, len(queue)))), list[_Row]()
            queue.reverse()
            while (queue or rows) and not stop.is_set():
                num_new_tokens = 0
                while free and queue and num_new_tokens < _MANY_TOKENS:
                    index = queue.pop()
                    path = AnswerPath(CopyCursor(prompts[index], self._tags, self._tokenizer))
                    pending = [*windows[index], *path.forced()]
                    num_new_tokens += len(pending)
                    rows.append(_Row(index, free.pop(0), path, pending))
                self._pass([row for row in rows if not row.path.done], memory)
                for row in rows:
                    if row.path.done:
                        answers[row.prompt] = WindowAnswer(tuple(row.path.cursor.found))
                        free.append(row.slot)
                        on_done(row.prompt)
                rows = [row for row in rows if not row.path.done]

    def _pass(self, rows: Sequence[_Row], memory: Memory) -> None:
        """Feed every row a draft and take over what was guessed right."""
        if not rows:
            return
        drafts = [draft(r.path, r.pending, r.hints, memory, self._limits) for r in rows]
        with torch.inference_mode():
            hidden = self._model.feed(
                [Feed(r.slot, r.fed, d.tokens) for r, d in zip(rows, drafts, strict=True)]
            )
            logits = self._logits(hidden, drafts)
        self.num_passes += 1
        self.num_fed_tokens += len(hidden)
        at = 0
        for row, guessed in zip(rows, drafts, strict=True):
            _take_over(row, guessed, logits[at : at + len(guessed.questions)])
            at += len(guessed.questions)
            for span in row.path.cursor.found[row.num_found :]:
                memory.learn(*row.path.cursor.extent(span))
            row.num_found = len(row.path.cursor.found)

    def _logits(self, hidden: torch.Tensor, drafts: Sequence[Draft]) -> list[list[float]]:
        """For each question of all drafts, the logits of its candidates (and some padding)."""
        places, tables = [], []
        start = 0
        for guessed in drafts:
            for question in guessed.questions:
                places.append(start + question.offset)
                tables.append(question.candidates)
            start += len(guessed.tokens)
        width = max(len(table) for table in tables)
        padded = torch.tensor([table + [table[0]] * (width - len(table)) for table in tables])
        # Only the logits that are compared, not the whole vocabulary.
        wanted = self._weight[padded].float()
        states = hidden[torch.tensor(places)].float()
        found: list[list[float]] = torch.einsum("qwh,qh->qw", wanted, states).tolist()
        return found


def _take_over(row: _Row, guessed: Draft, logits: Sequence[Sequence[float]]) -> None:
    """Walk the row's path as far as the guesses hold; keep the other answers as hints."""
    walking = True
    for question, padded in zip(guessed.questions, logits, strict=True):
        values = padded[: len(question.candidates)]
        row.hints.learn(question, values.index(max(values)))
        if not walking:
            continue
        token = row.path.pick(values)
        follows = row.path.forced()
        best = question.candidates[values.index(max(values))]
        if best != question.guess:
            walking = False
            row.fed += question.offset + 1
            row.pending = follows if token is None else [token, *follows]
            if not row.pending and not row.path.done:
                # It only looked ahead: the next question is asked of the same hidden state.
                row.fed -= 1
                row.pending = [guessed.tokens[question.offset]]
    if walking:  # the last question was guessed right, and the answer ends behind it
        row.fed += len(guessed.tokens)
        row.pending = []
