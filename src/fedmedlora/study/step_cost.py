"""Training steps of a miniature: real operations of a study's real shapes, a layer at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.state import AdapterSpec
from fedmedlora.models.lora import LoRAModel
from fedmedlora.models.packed_attention import allow_packed_rows
from fedmedlora.training.batches import EncodedExample, collate
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import pack

if TYPE_CHECKING:
    from fedmedlora.models.load import BaseModel
    from fedmedlora.study.machine_speed import Way

# A usual example: an instruction, a window, and the window again with its tags.
_INSTRUCTION, _WINDOW, _ANSWER = 24, 56, 72
# Longer steps cost hardly less a token, and much time and memory here.
_MOST_TOKENS = 1024


class StepTimer:
    """Times steps of one layer, several at a time if asked.

    Several at a time run in threads of this process. They stand for worker processes, which need
    seconds to start; as they have one interpreter between them, they are no faster than those.
    """

    def __init__(
        self, base: BaseModel, *, rank: int, target_modules: tuple[str, ...], batch_tokens: int
    ) -> None:
        """`batch_tokens` are those that a pass of the study's training takes at most."""
        self._base = base
        self._spec = AdapterSpec(base.name, base.revision, rank, 2.0 * rank, target_modules)
        vocabulary = len(base.output_weight)
        tokens = tuple(7 * at % vocabulary for at in range(_INSTRUCTION + _WINDOW + _ANSWER))
        example = EncodedExample("", tokens, _INSTRUCTION + _WINDOW, 1, _INSTRUCTION)
        examples = [example] * max(1, min(batch_tokens, _MOST_TOKENS) // example.num_own_tokens)
        packed = allow_packed_rows(base.backbone)
        self._batch = pack(examples) if packed else collate(examples, 0)
        self._steps: list[_Step] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of a step, as a study counts them."""
        return self._batch.num_tokens

    def __call__(self, way: Way) -> float:
        """Seconds until the steps of all that run at a time are done."""
        while len(self._steps) < way.at_a_time:
            self._steps.append(_Step(self))
        torch.set_num_threads(way.threads)
        if way.at_a_time == 1:
            started = time.perf_counter()
            self._steps[0].run()
            return time.perf_counter() - started
        ready = Barrier(way.at_a_time + 1)
        with ThreadPoolExecutor(way.at_a_time) as pool:
            steps = [
                pool.submit(step.run, ready, way.threads) for step in self._steps[: way.at_a_time]
            ]
            ready.wait()
            started = time.perf_counter()
            for step in steps:
                step.result()  # raises what the step did
            return time.perf_counter() - started


class _Step:
    """One trainee: adapter and optimiser of its own on weights that all share."""

    def __init__(self, timer: StepTimer) -> None:
        self._model = LoRAModel(timer._base, timer._spec)
        self._batch = timer._batch
        self._parameters = self._model.parameters(frozenset("AB"))
        self._optimiser = torch.optim.AdamW(self._parameters, lr=1e-6, weight_decay=0.0, fused=True)

    def run(self, ready: Barrier | None = None, threads: int | None = None) -> None:
        """A whole step."""
        if threads is not None:
            torch.set_num_threads(threads)  # each thread has a number of its own
        if ready is not None:
            ready.wait()
        batch = self._batch
        self._optimiser.zero_grad(set_to_none=True)
        losses = token_losses(
            self._model.backbone, self._model.base.output_weight, batch, batch.targets
        )
        losses.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
