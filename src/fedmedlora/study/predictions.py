"""What an arm's model finds in the test notes: written once, read back, and counted."""

from __future__ import annotations

import time
from functools import cached_property, partial
from typing import TYPE_CHECKING

from fedmedlora.corpora.jsonl import document_line, read_jsonl
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.relation_extractor import RelationExtractor
from fedmedlora.models.lora import merged
from fedmedlora.runs.machine_memory import release_free_memory
from fedmedlora.study.compare import score_cell, score_rules_on_gold, score_tasks
from fedmedlora.study.conditions import tested_on
from fedmedlora.study.opening import OPENING, open_bonus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Task
    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.inference.cursors import Tags
    from fedmedlora.inference.decoder import Decoder
    from fedmedlora.models.load import BaseModel
    from fedmedlora.runs.store import RunStore
    from fedmedlora.study.compare import Cell, TaskCell
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort
    from fedmedlora.study.prepare import Prepared
    from fedmedlora.study.time_left import TimeLeft

PREDICTIONS, EXTRACTION = "predictions", "extraction.jsonl"


class Predictions:
    """One arm's predictions for every cohort that it is tested on.

    `{arm}--{cohort}.jsonl` is end to end: the entities that the model found and, where it was
    trained for it, their modifiers and relations. `{arm}--{cohort}--gold-entities.jsonl` has the
    modifiers and relations that it finds when the gold entities are given. What is on disk is not
    predicted again. `folder` is that of the arm's adapters in the run, empty without any.
    """

    def __init__(
        self,
        prepared: Prepared,
        store: RunStore,
        arm: Arm,
        adapter: AdapterState | None,
        time_left: TimeLeft,
        folder: str = "",
    ) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._store = store
        self._arm = arm
        self._adapter = adapter
        self._folder = folder
        self._cohorts = [c for c in prepared.notes.cohorts if tested_on(arm, c, self._config)]
        self._meter = time_left.extraction(arm, self._cohorts)

    def entity_counts(self) -> dict[Cell, DocumentCounts]:
        """Counts of entities by cohort and preset; nothing for an arm without that task."""
        if "entities" not in self._arm.tasks:
            return {}
        return {
            (self._arm.name, cohort.name, preset): score_cell(cohort, predicted, preset)
            for cohort in self._cohorts
            for predicted in [self._end_to_end(cohort)]
            for preset in self._config.evaluation.presets
        }

    def task_counts(self) -> dict[TaskCell, DocumentCounts]:
        """Counts of modifiers and relations, end to end and between the gold entities."""
        counts: dict[TaskCell, DocumentCounts] = {}
        for cohort in self._cohorts:
            if not self._relates(cohort):
                continue
            score = partial(
                score_tasks,
                self._arm.name,
                cohort,
                presets=self._config.evaluation.presets,
                modifiers=cohort.modifiers,
                relations=cohort.annotates_relations,
            )
            if "entities" in self._arm.tasks:
                counts |= score(self._end_to_end(cohort), "predicted")
            counts |= score(self._between_gold(cohort), "gold")
        return counts

    def _relates(self, cohort: Cohort) -> bool:
        return "relations" in self._arm.tasks and bool(cohort.modifiers)

    def _end_to_end(self, cohort: Cohort) -> list[Document]:
        name = f"{PREDICTIONS}/{file_stem(self._arm)}--{cohort.name}.jsonl"
        num_notes = len(cohort.documents) * (2 if self._relates(cohort) else 1)
        if self._found(name, num_notes):
            return list(read_jsonl(self._store.file(name)))
        started = time.perf_counter()
        found = list(self._extractor.extract(cohort.documents, cohort.labels, self._meter))
        if self._relates(cohort):
            found = self._related(found, cohort)
        seconds = round(time.perf_counter() - started, 3)
        self._save(name, found)
        line = {"arm": self._arm.name, "cohort": cohort.name, "seconds": seconds}
        self._store.append_json_line(EXTRACTION, line | {"characters": cohort.num_characters})
        return list(read_jsonl(self._store.file(name)))

    def _between_gold(self, cohort: Cohort) -> list[Document]:
        name = f"{PREDICTIONS}/{file_stem(self._arm)}--{cohort.name}--gold-entities.jsonl"
        if not self._found(name, len(cohort.documents)):
            gold = [document.only_labels(cohort.labels) for document in cohort.documents]
            # From the file, so that a run that went on in between ends with the same bits.
            earlier = self._end_to_end(cohort) if "entities" in self._arm.tasks else []
            answered = {document.id: document for document in earlier}
            self._save(name, self._related(gold, cohort, answered))
        return list(read_jsonl(self._store.file(name)))

    def _found(self, name: str, num_notes: int) -> bool:
        """Whether the predictions are on disk already; if so, they are no work any more."""
        if not self._store.has(name):
            return False
        if name not in self._told:
            self._meter.skip(num_notes, num_notes)
            self._told.add(name)
        return True

    @cached_property
    def _told(self) -> set[str]:
        """Files whose work the meter knows to be done."""
        return set()

    def _save(self, name: str, found: Iterable[Document]) -> None:
        lines = b"".join(document_line(document) for document in found)
        self._store.write_file(name, lambda path: _write(path, lines))
        self._told.add(name)

    @cached_property
    def _base(self) -> BaseModel:
        base = merged(self._prepared.base, self._adapter)
        release_free_memory()  # what merging took for a moment
        return base

    @cached_property
    def _extractor(self) -> Extractor:
        tags = self._prepared.tags
        return Extractor(
            self._decoder(tags, "entities"),
            self._base.tokenizer,
            tags,
            window_tokens=self._config.prompt.window_tokens,
        )

    def _decoder(self, tags: Tags, task: Task) -> Decoder:
        batch_size = self._config.evaluation.batch_size
        return make_decoder("copy", self._base, tags, batch_size, self._open_bonus(task))

    def _open_bonus(self, task: Task) -> float:
        """Found once for a run, and kept for whoever uses the adapter."""
        if self._config.evaluation.open_bonus == 0:
            return 0.0
        kept = self._store.read_json(OPENING) if self._store.has(OPENING) else {}
        if task not in kept.get(self._folder, {}):
            bonus = open_bonus(self._prepared, self._arm, self._adapter, task)
            self._meter.message(f"{self._arm.name}: {task}: tags open with a bonus of {bonus:g}")
            kept[self._folder] = {**kept.get(self._folder, {}), task: bonus}
            if self._folder:
                self._store.write_json(OPENING, kept)
        found: float = kept[self._folder][task]
        return found

    def _related(
        self,
        documents: Sequence[Document],
        cohort: Cohort,
        answered: Mapping[str, Document] | None = None,
    ) -> list[Document]:
        extractor = self._relation_extractor
        return list(extractor.extract(documents, cohort.modifiers, self._meter, answered))

    @cached_property
    def _relation_extractor(self) -> RelationExtractor:
        formatted = self._prepared.relations
        if formatted is None:
            raise ValueError("predictions: the study has no task relations.")
        return RelationExtractor(
            self._decoder(formatted, "relations"),
            self._base.tokenizer,
            formatted,
            window_tokens=self._config.prompt.window_tokens,
            linked=any(site.linked for site in self._prepared.relating(self._arm)),
        )


def rules_on_gold(config: StudyConfig, cohorts: Iterable[Cohort]) -> dict[TaskCell, DocumentCounts]:
    """Counts of the links that the rule draws between gold mentions."""
    counts: dict[TaskCell, DocumentCounts] = {}
    for cohort in cohorts:
        counts |= score_rules_on_gold(
            cohort,
            config.evaluation.presets,
            modifiers=cohort.modifiers,
            relations=cohort.annotates_relations,
        )
    return counts


def file_stem(arm: Arm) -> str:
    """How the arm's prediction files begin; names of arms never hold two dashes themselves."""
    return arm.name.replace("/", "--")


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
