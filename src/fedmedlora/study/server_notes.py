"""The server's validation notes behind what strategies ask: how good is this, and due to whom?"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.adapters.ranks import change_rank
from fedmedlora.aggregation.strategy import LINKS, NoteLosses
from fedmedlora.core.seeds import numpy_rng, python_rng
from fedmedlora.models.mixture import slopes_of_merge
from fedmedlora.study.conditions import client_name
from fedmedlora.study.data import rendered_notes, within_tokens
from fedmedlora.training.batches import encode_example
from fedmedlora.training.gradients import add_gradients
from fedmedlora.training.local import example_losses
from fedmedlora.training.site import TaskData

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Set

    from numpy.typing import NDArray

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Merge
    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Task
    from fedmedlora.models.lora import LoRAModel
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.study.config import ServerNotesConfig, StudyConfig
    from fedmedlora.study.data import SiteNotes
    from fedmedlora.training.batches import EncodedExample
    from fedmedlora.training.local import Reading

    Encoder = Callable[[Document, SiteNotes, Task, tuple[str, ...]], list[EncodedExample]]


@dataclass(frozen=True, slots=True)
class AskedNote:
    """A note of a site, the labels that it is asked for, and its windows within the budget.

    Labels are those of entities or, for the relation task, of modifiers.
    """

    giver: SiteNotes
    document: Document
    labels: tuple[str, ...]
    examples: tuple[EncodedExample, ...]


class ServerNotes:
    """Labelled notes, each asked only for the labels that its annotators looked for.

    Sites gave them with consent, from validation splits and never from what is trained or tested
    on; or they are of the server's `own` corpora.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: ServerNotesConfig,
        sites: tuple[SiteNotes, ...],
        model: LoRAModel,
        tags: TagFormat,
        own: tuple[SiteNotes, ...] = (),
    ) -> None:
        givers = [*(site for site in sites if settings.asks(site.name)), *own]
        self._model = model
        self._clients = {
            client: site
            for site in sites
            for client in (site.name, *(client_name(site.name, task) for task in site.tasks))
        }
        training = config.training
        self._batch_tokens = training.micro_batch_tokens or training.batch_tokens
        # The second reading costs as much as the first.
        self._reads_sequences = any(
            getattr(strategy, "validation_loss", "completion") == "sequence"
            for strategy in config.strategies
        )

        def encode(
            note: Document, giver: SiteNotes, task: Task, labels: tuple[str, ...]
        ) -> list[EncodedExample]:
            if task == "entities":
                giver = replace(giver, labels=labels)
            else:
                giver = replace(giver, modifiers=labels)
            tokenizer = model.base.tokenizer
            rendered = rendered_notes(config, [note], giver, task, tags, tokenizer)
            return [encode_example(example, tokenizer) for example in rendered]

        self._encode: Encoder = encode
        parts = sum(len(site.tasks) for site in givers)
        share = None if settings.max_tokens is None else settings.max_tokens // parts
        self._notes: dict[Task, list[AskedNote]] = {}
        for site in givers:
            for task in site.tasks:
                given = _within(site, task, settings.notes_per_site, encode, share)
                self._notes.setdefault(task, []).extend(given)

    @property
    def notes(self) -> dict[Task, list[tuple[str, str]]]:
        """By task, giver and id of each note."""
        return {
            task: [(note.giver.name, note.document.id) for note in notes]
            for task, notes in self._notes.items()
        }

    @property
    def examples(self) -> list[EncodedExample]:
        """All windows of all notes."""
        return [e for notes in self._notes.values() for note in notes for e in note.examples]

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass over the notes."""
        return sum(len(example.token_ids) for example in self.examples)

    def of_tasks(self, tasks: Collection[Task]) -> ServerNotes | None:
        """The notes for these tasks; None if there are none."""
        kept = {task: notes for task, notes in self._notes.items() if task in tasks}
        return self._with(kept) if kept else None

    def as_site(self, negatives: float, seed: int) -> dict[Task, TaskData]:
        """The notes as a site would train on them: with so large a share of empty windows."""
        data: dict[Task, TaskData] = {}
        for task, notes in self._notes.items():
            train = [
                example
                for note in notes
                for place, example in enumerate(note.examples)
                if example.num_entities or _draw(seed, task, note, place) < negatives
            ] or [example for note in notes for example in note.examples]
            python_rng(seed, "server-notes", "order", task).shuffle(train)
            num_documents = len({note.document.id for note in notes})
            data[task] = TaskData(tuple(train), (), num_documents)
        return data

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The adapter's loss by note: a mean over the answers' tokens.

        Where a strategy of the study asks for it, also over the whole sequences.
        """
        scaling = self._model.spec.scaling
        if not math.isclose(adapter.spec.scaling, scaling, rel_tol=1e-12):
            rank = adapter.spec.rank
            adapter = change_rank(adapter, rank, alpha=scaling * rank, rslora=False)
        self._model.load(adapter)
        sequence = self._by_note("sequence") if self._reads_sequences else {}
        return NoteLosses(self._by_note("completion"), sequence)

    def weight_gradient(
        self, adapters: Mapping[str, AdapterState], weights: Mapping[str, float], merge: Merge
    ) -> dict[str, float]:
        """One backward pass over all notes for all sites together."""
        examples: list[EncodedExample] = []
        shares: list[float] = []
        for notes in self._notes.values():
            asked = [note for note in notes if note.examples]
            for note in asked:
                num_targets = sum(example.num_targets for example in note.examples)
                examples += note.examples
                share = 1 / num_targets / len(asked) / len(self._notes)
                shares += [share] * len(note.examples)
        return slopes_of_merge(
            self._model,
            adapters,
            weights,
            merge,
            lambda model: add_gradients(model, examples, shares, batch_tokens=self._batch_tokens),
        )

    def labels_of(self, site: str, task: Task) -> frozenset[str] | None:
        """What the site annotates for a task: labels that its answers mark, and `LINKS` with them.

        None for a site that is not of this study.
        """
        if (known := self._clients.get(site)) is None:
            return None
        linked = task == "relations" and known.linked
        return frozenset(_labels(known, task)) | ({LINKS} if linked else set())

    def asking(self, task: Task, labels: Set[str]) -> ServerNotes | None:
        """The notes of a task, asked for no other labels than these."""
        notes = self._notes.get(task, [])
        asked = [self._asked(task, note, labels) for note in notes]
        if not any(note.examples for note in asked):
            return None
        return self if asked == notes else self._with({task: asked})

    def half(self, which: int) -> ServerNotes:
        """Every second note of each task."""
        return self._with({task: notes[which::2] for task, notes in self._notes.items()})

    def drawn(self, num_notes: int, seed: int) -> ServerNotes:
        """So many notes of each task."""
        if all(len(notes) <= num_notes for notes in self._notes.values()):
            return self
        return self._with({t: _drawn(n, num_notes, t, seed) for t, n in self._notes.items()})

    def _with(self, notes: dict[Task, list[AskedNote]]) -> ServerNotes:
        part = copy.copy(self)
        part._notes = notes
        return part

    def _asked(self, task: Task, note: AskedNote, labels: Set[str]) -> AskedNote:
        wanted = tuple(label for label in note.labels if label in labels)
        giver = note.giver
        if task == "relations" and giver.linked and LINKS not in labels:
            giver = replace(giver, linked=False)
        if wanted == note.labels and giver is note.giver:
            return note
        note = replace(note, giver=giver)
        # Windows are cut by the text alone, so these are the same places.
        encoded = self._encode(note.document, giver, task, wanted) if wanted else []
        return replace(note, labels=wanted, examples=tuple(encoded[: len(note.examples)]))

    def _by_note(self, reading: Reading) -> dict[Task, NDArray[np.float64]]:
        found = iter(
            example_losses(
                self._model, self.examples, batch_tokens=self._batch_tokens, reading=reading
            )
        )
        losses: dict[Task, NDArray[np.float64]] = {}
        for task, notes in self._notes.items():
            means = []
            for note in notes:
                read = [next(found) for _ in note.examples]
                count = sum(num for _, num in read)
                means.append(sum(total for total, _ in read) / count if count else math.nan)
            losses[task] = np.array(means, dtype=np.float64)
        return losses


def _labels(site: SiteNotes, task: Task) -> tuple[str, ...]:
    """What the site's answers mark in a task."""
    return site.labels if task == "entities" else site.modifiers


def _within(
    site: SiteNotes, task: Task, num_notes: int, encode: Encoder, max_tokens: int | None
) -> list[AskedNote]:
    """The site's first notes, each with its first windows.

    All notes have equal parts of the token budget, and what a short one leaves is for the others.
    So a site with long notes gives as many as one with short notes, and counts as much.
    """
    labels = _labels(site, task)
    notes = site.validation[:num_notes]
    encoded = [encode(note, site, task, labels) for note in notes]
    sizes = [sum(len(example.token_ids) for example in part) for part in encoded]
    found: dict[int, AskedNote] = {}
    left = max_tokens
    for place, index in enumerate(sorted(range(len(notes)), key=lambda index: sizes[index])):
        share = None if left is None else max(0, left) // (len(notes) - place)
        some = tuple(within_tokens(encoded[index], share))
        size = sum(len(example.token_ids) for example in some)
        if not some or (left is not None and size > left and found):
            continue
        found[index] = AskedNote(site, notes[index], labels, some)
        left = None if left is None else left - size
    return [found[index] for index in sorted(found)]


def _drawn(notes: list[AskedNote], num_notes: int, task: str, seed: int) -> list[AskedNote]:
    if len(notes) <= num_notes:
        return notes
    chosen = numpy_rng(seed, "server-notes", task).choice(len(notes), num_notes, replace=False)
    return [notes[index] for index in sorted(chosen)]


def _draw(seed: int, task: Task, note: AskedNote, place: int) -> float:
    return python_rng(seed, "negatives", task, note.giver.name, note.document.id, place).random()
