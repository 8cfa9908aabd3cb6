"""A whole study: every arm trained, every cohort extracted and scored, everything resumable."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

from fedmedlora import __version__
from fedmedlora.adapters.codec import CODECS
from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.core.errors import RunStoreError
from fedmedlora.core.schema import default_schema
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.federation.processes import ProcessRuntime
from fedmedlora.federation.workers import Workers
from fedmedlora.models.fetch import file_sha256
from fedmedlora.runs.machine_memory import release_free_memory
from fedmedlora.runs.run_events import FINISHED, recorded_run
from fedmedlora.runs.store import RunStore
from fedmedlora.study.compare import scores_json
from fedmedlora.study.conditions import Arm, arms_of
from fedmedlora.study.memory_limit import fitting_plan, refuse_weights_that_cannot_fit
from fedmedlora.study.predictions import PREDICTIONS, Predictions, file_stem, rules_on_gold
from fedmedlora.study.prepare import Prepared, prepare
from fedmedlora.study.reuse import forget
from fedmedlora.study.round_watcher import RoundWatcher
from fedmedlora.study.settled import prepare_here, speed_of_run
from fedmedlora.study.sites import ADAPTERS, CHECKED, INPUTS, WORK, identities, open_site
from fedmedlora.study.study_file import parse_study
from fedmedlora.study.study_warnings import study_warnings
from fedmedlora.study.time_left import Meter, TimeLeft
from fedmedlora.study.worker import pass_news_on, worker_commands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.records import Observer, RoundRecord
    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.federation.runtime import Runtime
    from fedmedlora.runs.audit import AuditLog
    from fedmedlora.study.compare import Cell, TaskCell
    from fedmedlora.study.config import StudyConfig

ROUNDS, SCORES = "rounds.jsonl", "scores.json"


def start_study(
    config: StudyConfig,
    out: Path,
    observer: Observer,
    started: Callable[[Path], None] = lambda _: None,
) -> RunStore:
    """A finished run in a new directory below `out`.

    `started` is told the directory once it exists. Nothing is written before all faults of the
    study are known.

    Raises:
        ConfigError: The study has faults, or cannot fit in memory.
        FedMedLoRAError: Something else went wrong; what was finished is kept and can be resumed.
    """
    refuse_weights_that_cannot_fit(config)
    prepared, measured = prepare_here(config, observer)
    for line in study_warnings(prepared):
        observer.message(line)
    memory = fitting_plan(prepared, observer)
    store = RunStore.create(
        out,
        prepared.config.model_dump(mode="json"),
        config.name,
        environment=measured
        | {"attention": prepared.attention.to_json(), "memory_plan": memory and memory.to_json()},
    )
    started(store.path)
    with store.lock():
        store.write_json(INPUTS, _inputs(prepared, store))
        _Run(prepared, store, observer).finish()
    return store


def resume_study(
    path: Path, observer: Observer, started: Callable[[Path], None] = lambda _: None
) -> RunStore:
    """The run at `path`, finished; what it had done already is not done again.

    `started` is told the directory once it is known that the run can be gone on with.

    Raises:
        RunStoreError: It is no run, damaged or in use, or its notes, base model or start have
            changed.
        FedMedLoRAError: As for `start_study`.
    """
    store = RunStore.open(path)
    with store.lock():
        prepared = prepare(parse_study(dict(store.config), str(path / "config.json")), observer)
        if not store.has(INPUTS):  # killed between two writes, before any work
            store.write_json(INPUTS, _inputs(prepared, store))
        saved, found = store.read_json(INPUTS), _inputs(prepared, store)
        for key, what in CHECKED.items():
            if saved.get(key) != found.get(key):
                raise RunStoreError(
                    f"{path}: the {what} changed after the run was started; a resumed run would "
                    "mix two studies. Undo the change, or start a new run."
                )
        started(path)
        _Run(prepared, store, observer).finish()
    return store


def _inputs(prepared: Prepared, store: RunStore) -> dict[str, Any]:
    """What the run depends on and its configuration does not hold.

    Also, for whoever uses its adapters, what each arm's adapters are taught, by their folder.
    """
    arms = arms_of(prepared.config)
    taught: dict[str, Any] = {}
    for arm in arms:
        if arm.strategy is not None:
            sites = prepared.relating(arm)
            asked = {label for site in sites for label in site.modifiers}
            taught[_folder_name(store, arm, arms)] = {
                "tasks": list(arm.tasks),
                "modifiers": [m for m in default_schema().modifier_labels if m in asked],
                "linked": any(site.linked for site in sites),
            }
    return {**identities(prepared), ADAPTERS: taught}


class _Run:
    """One run in progress. Each step is skipped if its result is on disk."""

    def __init__(self, prepared: Prepared, store: RunStore, observer: Observer) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._store = store
        self._observer = observer
        self._arms = arms_of(prepared.config)
        self._time_left = TimeLeft(prepared, self._arms, observer, speed_of_run(store))
        self._workers = Workers(worker_commands(self._config, store.path))
        # Those of a run that is resumed are there from the start: rounds.jsonl never shrinks.
        self._records = {arm.name: self._checkpoint(arm).records() for arm in self._arms}

    def finish(self) -> None:
        """Train and test every arm, then compare."""
        log, digest = self._store.file("audit.jsonl"), self._store.config_sha256
        with recorded_run(log, config_sha256=digest, version=__version__) as audit, self._workers:
            self._finish(audit)

    def _finish(self, audit: AuditLog) -> None:
        prepared = self._prepared
        counts: dict[Cell, DocumentCounts] = {}
        task_counts: dict[TaskCell, DocumentCounts] = {}
        for number, arm in enumerate(self._arms, start=1):
            place = f"arm {number} of {len(self._arms)}: {arm.name}"
            self._time_left.starts(arm)
            self._observer.message(place + self._time_left.phrase())
            adapter = self._train(arm)
            tested = Predictions(
                prepared, self._store, arm, adapter, self._time_left, self._folder(arm)
            )
            counts |= tested.entity_counts()
            task_counts |= tested.task_counts()
            fields = {"arm": arm.name, "adapter": adapter.digest() if adapter else None}
            audit.append("arm-finished", **fields, predictions=self._digests(arm))
            del tested  # with its merged weights and caches, before the next arm trains
        header = {
            "version": __version__,
            "study": self._config.name,
            "seed": self._config.seed,
            "config_sha256": self._store.config_sha256,
            "base_model": prepared.base.name,
            "schema": default_schema().id,
            "prompt_format": prepared.tags.id,
            "artificial": self._config.data.artificial,
            "full_model_bytes": _full_model_bytes(prepared),
        }
        cohorts = prepared.notes.cohorts
        if task_counts:
            task_counts |= rules_on_gold(self._config, cohorts)
        scores = scores_json(self._config, self._arms, cohorts, counts, header, task_counts)
        self._store.write_json(SCORES, scores)
        shutil.rmtree(self._store.file(WORK), ignore_errors=True)
        audit.append(FINISHED, scores=file_sha256(self._store.file(SCORES)))

    def _folder(self, arm: Arm) -> str:
        """Where the arm's adapters lie, or would: the start's own are not copied."""
        known = arm.strategy is not None or arm.condition == "start"
        return _folder_name(self._store, arm, self._arms) if known else ""

    def _digests(self, arm: Arm) -> dict[str, str]:
        """SHA-256 of the arm's prediction files, by name."""
        files = sorted(self._store.file(PREDICTIONS).glob(f"{file_stem(arm)}--*.jsonl"))
        return {path.name: file_sha256(path) for path in files}

    def _train(self, arm: Arm) -> AdapterState | None:
        """The arm's final adapter; None for the model as it is."""
        if arm.strategy is None:
            return self._prepared.initial if arm.condition == "start" else None
        federation, prepared = self._config.federation, self._prepared
        by_client = [prepared.round_tokens(*part) for part in arm.client_tasks.items()]
        total = federation.rounds * sum(by_client)
        meter = self._time_left.training(arm, total)
        num_done = len(self._records[arm.name])
        shares = self._time_left.tokens_by_round[arm.name]
        meter.skip(total * num_done / federation.rounds, sum(shares[:num_done]))
        outcome = run_rounds(
            arm=arm.name,
            strategy=arm.strategy.build(),
            runtime=self._runtime(arm, meter),
            sites=arm.sites,
            num_rounds=federation.rounds,
            adapter=prepared.initial,
            plan=LocalPlan(0, epochs=self._config.training.epochs),
            seed=self._config.seed,
            tasks=arm.client_tasks,
            scorer=prepared.server_notes and prepared.server_notes.of_tasks(arm.tasks),
            checkpoint=self._checkpoint(arm),
            min_sites=federation.min_sites if arm.condition == "federated" else None,
            observer=RoundWatcher(meter, self._note_round),
        )
        self._write_rounds()
        release_free_memory()  # extraction begins where training has left no holes
        return outcome.adapter

    def _checkpoint(self, arm: Arm) -> Checkpoint:
        return Checkpoint(adapters_folder(self._store, arm, self._arms))

    def _runtime(self, arm: Arm, meter: Meter) -> Runtime:
        """The arm's sites, here or in worker processes."""
        prepared, store, work = self._prepared, self._store, self._store.file(WORK)
        codec = CODECS[self._config.federation.codec]
        tokens = {part[0]: prepared.round_tokens(*part) for part in arm.client_tasks.items()}
        if self._config.federation.processes:
            tell = pass_news_on(meter, tokens)
            return ProcessRuntime(
                self._workers, arm.sites, codec, arm=arm.name, work=work, tell=tell
            )
        sites = {
            name: open_site(
                prepared, store, arm.name, name, meter, partial(meter.skip, tokens[name], 0)
            )
            for name in arm.sites
        }
        return InProcessRuntime(sites, codec, work=work)

    def _note_round(self, record: RoundRecord) -> None:
        """Write it down, and drop what no other arm can use."""
        self._records[record.arm].append(record)
        self._write_rounds()
        if record.round_index > 1:  # only the first round is the same in several arms
            for site in (*record.sites, *record.failed):
                forget(self._store.file(WORK), site, record.round_index)

    def _write_rounds(self) -> None:
        """All rounds by arm, in the order in which arms run."""
        records = [record for arm in self._arms for record in self._records[arm.name]]
        self._store.write_json_lines(ROUNDS, [record.to_json() for record in records])


def adapters_folder(store: RunStore, arm: Arm, arms: list[Arm]) -> Path:
    """Where an arm's rounds lie: the first federated arm's are the run's own adapters."""
    federated = [other.name for other in arms if other.condition == "federated"]
    if federated and arm.name == federated[0]:
        return store.file("adapters")
    return store.file(f"adapters/{arm.name}")


def _folder_name(store: RunStore, arm: Arm, arms: list[Arm]) -> str:
    """The same from the run's directory on."""
    return adapters_folder(store, arm, arms).relative_to(store.path).as_posix()


def _full_model_bytes(prepared: Prepared) -> int:
    """What sending the whole model once would take, in bfloat16."""
    sizes: list[int] = [weight.numel() for weight in prepared.base.model.parameters()]
    return 2 * sum(sizes)
