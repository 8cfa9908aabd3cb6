"""A site's one door: it answers requests with its own notes, which never leave it."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.adapters.exchange import Score, SiteScores, SiteUpdate, TaskMetrics, Train
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import ConfigError
from fedmedlora.training.local import LocalSettings, example_losses, train_locally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.models.lora import LoRAModel
    from fedmedlora.training.batches import EncodedExample
    from fedmedlora.training.site_state import SiteState


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task's examples at one site, and how many notes the training examples come from."""

    train: tuple[EncodedExample, ...]
    validation: tuple[EncodedExample, ...]
    num_documents: int

    @property
    def num_completion_tokens(self) -> int:
        """Supervised tokens of the training examples, counted once."""
        return sum(example.num_completion_tokens for example in self.train)

    @property
    def num_tokens(self) -> int:
        """All tokens of the training examples, prompts included."""
        return sum(len(example.token_ids) for example in self.train)


class LocalSite:
    """A site in this process. All sites share one `LoRAModel`; only adapters are swapped.

    `state` is where it keeps what a plan trains but does not share; None forgets it. What it has
    kept of a factor goes before what the server sends, also in a round that shares it.
    """

    def __init__(
        self,
        name: str,
        model: LoRAModel,
        data: Mapping[Task, TaskData],
        settings: LocalSettings,
        observer: Observer,
        state: SiteState | None = None,
    ) -> None:
        self.name = name
        self._state = state
        self.data = dict(data)
        self._model = model
        self._settings = settings
        self._observer = observer

    def fingerprint(self) -> str:
        """SHA-256 over everything but the request that decides what `handle` answers to `Train`."""
        digest = hashlib.sha256(repr((self.name, self._settings)).encode())
        digest.update(self._model.base.fingerprint.encode())
        for task, data in sorted(self.data.items()):
            digest.update(f"{task}:{data.num_documents}".encode())
            for split in (data.train, data.validation):
                digest.update(f":{len(split)}".encode())
                for example in split:
                    counts = (example.num_prompt_tokens, example.num_shared_tokens)
                    fields = (example.token_ids, *counts, example.num_entities)
                    digest.update(repr(fields).encode())
        return digest.hexdigest()

    def handle(self, request: Request) -> Reply:
        """The reply to a request.

        Raises:
            ConfigError: The request asks for a task that the site has no notes for.
        """
        if isinstance(request, Train):
            return self._train(request)
        return self._score(request)

    def _train(self, request: Train) -> SiteUpdate:
        started = time.perf_counter()
        plan = request.plan
        kept = self._state.before(plan.round_index) if self._state is not None else {}
        received = _with_own(request.adapter, kept)
        validation = {task: self._loss(received, task)[0] for task in plan.tasks}
        examples = [example for task in plan.tasks for example in self._task(task).train]
        result = train_locally(
            self._model, received, examples, plan, self._settings, self._observer
        )
        own = {
            f"{module}.{factor}": tensor
            for module, factor, tensor in result.adapter.tensors()
            if factor in plan.train_factors - plan.share_factors or f"{module}.{factor}" in kept
        }
        if own and self._state is not None:
            self._state.keep(plan.round_index, own)
        metrics = {
            task: TaskMetrics(
                num_documents=self.data[task].num_documents,
                num_examples=len(self.data[task].train),
                num_completion_tokens=self.data[task].num_completion_tokens,
                num_entities=sum(example.num_entities for example in self.data[task].train),
                train_loss=result.train_losses.get(task),
                validation_loss=validation[task],
            )
            for task in plan.tasks
        }
        return SiteUpdate(
            site=self.name,
            round_index=plan.round_index,
            adapter=result.adapter.only(plan.share_factors),
            metrics=metrics,
            num_steps=result.num_steps,
            elapsed_seconds=time.perf_counter() - started,
        )

    def _score(self, request: Score) -> SiteScores:
        losses: dict[str, dict[Task, float]] = {}
        errors: dict[str, dict[Task, float]] = {}
        for name, adapter in request.adapters.items():
            losses[name], errors[name] = {}, {}
            for task in request.tasks:
                loss, error = self._loss(adapter, task, request.max_tokens)
                if loss is not None and error is not None:
                    losses[name][task], errors[name][task] = loss, error
        return SiteScores(self.name, losses, errors)

    def _task(self, task: Task) -> TaskData:
        if task not in self.data:
            raise ConfigError(f"site {self.name}: has no notes for the task {task}.")
        return self.data[task]

    def _loss(
        self, adapter: AdapterState, task: Task, max_tokens: int | None = None
    ) -> tuple[float | None, float | None]:
        """Mean loss a completion token on held-out notes, and its standard error over examples."""
        examples = _within(self._task(task).validation, max_tokens)
        if not examples:
            return None, None
        self._model.load(adapter)
        tokens = self._settings.reading_tokens
        found = example_losses(self._model, examples, batch_tokens=tokens)
        means = [total / count for total, count in found]
        spread = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
        return sum(total for total, _ in found) / sum(count for _, count in found), spread


def _with_own(received: AdapterState, kept: Mapping[str, torch.Tensor]) -> AdapterState:
    """The received adapter, with factors that the site has kept instead of the server's."""
    if not kept:
        return received
    pairs = {
        module: LoRAPair(A=kept.get(f"{module}.A", pair.A), B=kept.get(f"{module}.B", pair.B))
        for module, pair in received.pairs.items()
    }
    return AdapterState(received.spec, pairs)


def _within(examples: Sequence[EncodedExample], max_tokens: int | None) -> Sequence[EncodedExample]:
    """The first examples whose completion tokens stay within the bound; at least one."""
    if max_tokens is None:
        return examples
    total = 0
    for index, example in enumerate(examples):
        total += example.num_completion_tokens
        if total > max_tokens:
            return examples[: max(1, index)]
    return examples
