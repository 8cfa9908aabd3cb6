"""A finished run as the report needs it: scores, rounds, configuration and environment, checked."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping  # noqa: TC003  # pydantic reads annotations at run time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from fedmedlora.core.errors import RunStoreError
from fedmedlora.core.records import RoundRecord
from fedmedlora.runs.store import ENVIRONMENT, RunStore

if TYPE_CHECKING:
    from pathlib import Path

SCORES, ROUNDS, EXTRACTION = "scores.json", "rounds.jsonl", "extraction.jsonl"

Ratio = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[FiniteFloat, FiniteFloat]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Arm(_Stored):
    """One way to get a model: no training, one site's notes, all notes, or federated."""

    name: str
    condition: str
    site: str | None = None
    strategy: Mapping[str, Any] | None = None


class Cohort(_Stored):
    """Test notes of one origin, and what they are to the models that are tested on them."""

    name: str
    setting: str
    documents: Count
    labels: tuple[str, ...] = ()


class LabelScores(_Stored):
    """Counts and ratios of one label."""

    tp: Count
    fp: Count
    fn: Count
    precision: Ratio
    recall: Ratio
    f1: Ratio

    @property
    def num_gold(self) -> int:
        """Mentions that were there to find."""
        return self.tp + self.fn


class MicroScores(LabelScores):
    """Counts and ratios over all labels, with the interval of F1."""

    f1_ci95: Interval | None = None


class CellScores(_Stored):
    """The scores of one arm on one cohort under one preset."""

    micro: MicroScores
    macro_f1: Ratio
    labels: Mapping[str, LabelScores] = {}


class Result(_Stored):
    """One arm on one cohort under one preset."""

    arm: str
    cohort: str
    preset: str
    scores: CellScores
    extraction_seconds: FiniteFloat | None = None


class SettingScore(_Stored):
    """One arm over the cohorts of a setting: the plain mean of their F1."""

    arm: str
    setting: str
    preset: str
    macro_f1: Ratio
    ci95: Interval | None = None
    cohorts: tuple[str, ...] = ()


class Comparison(_Stored):
    """The paired difference of two arms over the cohorts of a setting: `arm` minus `against`."""

    setting: str
    preset: str
    arm: str
    against: str
    difference: FiniteFloat
    ci95: Interval | None = None


class _OfTask(_Stored):
    """Which score it is of those beyond entities: what is scored, given what, linked by whom."""

    task: str
    given: str
    linker: str | None = None

    @property
    def figure(self) -> tuple[str, str, str | None]:
        """The three names together."""
        return (self.task, self.given, self.linker)


class TaskResult(_OfTask):
    """Modifiers or links of one arm on one cohort; without an arm, links by rule on gold."""

    arm: str | None = None
    cohort: str
    preset: str
    scores: CellScores


class TaskMean(_OfTask):
    """The plain mean of one arm's F1 over the cohorts of a setting that allow the score."""

    arm: str | None = None
    setting: str
    preset: str
    macro_f1: Ratio
    ci95: Interval | None = None
    cohorts: tuple[str, ...] = ()


class TaskComparison(_OfTask):
    """A paired difference; with `against_linker` that of two linkers on the same mentions."""

    setting: str
    preset: str
    arm: str
    against: str
    against_linker: str | None = None
    difference: FiniteFloat
    ci95: Interval | None = None


class StudyScores(_Stored):
    """`scores.json`. `full_model_bytes` is what one transfer of the whole model would take."""

    version: str
    study: str
    seed: int | None = None
    config_sha256: str | None = None
    base_model: str = "unknown"
    schema_id: str = Field("unknown", alias="schema")
    prompt_format: str = "unknown"
    full_model_bytes: Count | None = None
    arms: tuple[Arm, ...]
    cohorts: tuple[Cohort, ...]
    results: tuple[Result, ...]
    summary: tuple[SettingScore, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    task_results: tuple[TaskResult, ...] = ()
    task_summary: tuple[TaskMean, ...] = ()
    task_comparisons: tuple[TaskComparison, ...] = ()

    @property
    def base_model_name(self) -> str:
        """The base model as it is named in text: of a folder on disk, the last part."""
        is_path = self.base_model.startswith(("/", "."))
        return self.base_model.rstrip("/").rpartition("/")[2] if is_path else self.base_model


class ExtractionLine(_Stored):
    """One line of `extraction.jsonl`: how long an arm took for a cohort."""

    arm: str
    cohort: str
    seconds: FiniteFloat


class RoundLine(_Stored):
    """One line of `rounds.jsonl`: the fields of a `RoundRecord`, checked."""

    arm: str
    round_index: Annotated[int, Field(ge=1)]
    sites: tuple[str, ...]
    failed: Mapping[str, str] = {}
    weights: Mapping[str, FiniteFloat] = {}
    train_loss: Mapping[str, FiniteFloat] = {}
    validation_loss: Mapping[str, FiniteFloat] = {}
    num_examples: Mapping[str, Count] = {}
    num_completion_tokens: Mapping[str, Count] = {}
    update_norms: Mapping[str, FiniteFloat] = {}
    bytes_up: Mapping[str, Count] = {}
    bytes_down: Mapping[str, Count] = {}
    site_seconds: Mapping[str, FiniteFloat] = {}
    elapsed_seconds: FiniteFloat = 0.0
    tasks: Mapping[str, Mapping[str, Mapping[str, FiniteFloat | None]]] = {}
    notes: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose scores are there.

    Attributes:
        name: Name of the run directory.
        scores: What `scores.json` says.
        plain_scores: The same, as it was read.
        rounds: Every round of every arm, in the order in which they ended.
        extraction_seconds: How long each arm took to extract from all its cohorts, if known.
        config: The resolved study configuration.
        config_sha256: Its fingerprint.
        environment: What the run was made with; empty if unknown.
    """

    name: str
    scores: StudyScores
    plain_scores: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    extraction_seconds: Mapping[str, float]
    config: Mapping[str, Any]
    config_sha256: str
    environment: Mapping[str, Any]

    @property
    def federated_arms(self) -> frozenset[str]:
        """The arms whose sites exchange adapters; what other arms move is never sent anywhere."""
        return frozenset(arm.name for arm in self.scores.arms if arm.condition == "federated")


def read_finished_run(path: Path) -> FinishedRun:
    """The run in the directory `path`.

    Raises:
        RunStoreError: It is no run directory, it is not finished, or its files are damaged or do
            not belong together.
    """
    store = RunStore.open(path)
    if not store.has(SCORES):
        raise RunStoreError(
            f"{path}: the run is not finished; resume with: fedmedlora study resume {path}"
        )
    plain_scores = _printable(store.read_json(SCORES))
    scores = _checked(StudyScores, plain_scores, store.file(SCORES))
    _check_references(scores, store.file(SCORES))
    if scores.config_sha256 not in (None, store.config_sha256):
        raise RunStoreError(
            f"{store.file(SCORES)}: belongs to another configuration; expected config_sha256 "
            f"{store.config_sha256}, got {scores.config_sha256}. Run the study anew."
        )
    environment = store.read_json(ENVIRONMENT) if store.has(ENVIRONMENT) else {}
    return FinishedRun(
        name=_printable(path.resolve().name),
        scores=scores,
        plain_scores=plain_scores,
        rounds=tuple(
            RoundRecord(**{name: getattr(line, name) for name in RoundLine.model_fields})
            for line in _lines(store, ROUNDS, RoundLine)
        ),
        extraction_seconds=_extraction_seconds(store, scores),
        config=_printable(store.config),
        config_sha256=store.config_sha256,
        environment=_printable(environment) if isinstance(environment, dict) else {},
    )


_Model = TypeVar("_Model", bound=BaseModel)


def _lines(store: RunStore, name: str, kind: type[_Model]) -> list[_Model]:
    lines = store.read_json_lines(name) if store.has(name) else []
    return [_checked(kind, _printable(line), store.file(name)) for line in lines]


def _extraction_seconds(store: RunStore, scores: StudyScores) -> dict[str, float]:
    """By arm; a time that `scores.json` states counts once, not once a preset."""
    by_cell = {
        (result.arm, result.cohort): result.extraction_seconds
        for result in scores.results
        if result.extraction_seconds is not None
    }
    by_cell |= {
        (line.arm, line.cohort): line.seconds for line in _lines(store, EXTRACTION, ExtractionLine)
    }
    totals: dict[str, float] = {}
    for (arm, _), seconds in by_cell.items():
        totals[arm] = totals.get(arm, 0.0) + seconds
    return totals


def _checked(kind: type[_Model], data: Any, path: Path) -> _Model:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunStoreError(
            f"{path}: damaged at {where}: {first['msg']}. Restore the file, or run the study anew."
        ) from error


def _check_references(scores: StudyScores, path: Path) -> None:
    """Nothing is dropped silently: every result has its arm and its cohort, and is there once."""
    arms = [arm.name for arm in scores.arms]
    cohorts = [cohort.name for cohort in scores.cohorts]
    cells = [(result.arm, result.cohort, result.preset) for result in scores.results]
    means = [(row.arm, row.setting, row.preset) for row in scores.summary]
    of_tasks = [(row.arm, row.cohort, row.preset, row.figure) for row in scores.task_results]
    task_means = [(row.arm, row.setting, row.preset, row.figure) for row in scores.task_summary]
    tested = [
        *(cell[:2] for cell in cells),
        *(cell[:2] for cell in of_tasks if cell[0] is not None),
    ]
    known = [*(c for _, c, _ in cells), *(c for _, c, _, _ in of_tasks)]
    faults = [
        *(f"the result of {arm!r}, which is not listed" for arm, _ in tested if arm not in arms),
        *(f"a result on {c!r}, which is not listed" for c in known if c not in cohorts),
        *(
            f"{what} twice"
            for what, names in (
                ("an arm", arms),
                ("a cohort", cohorts),
                ("a result", cells),
                ("a summary", means),
                ("a result of a task", of_tasks),
                ("a summary of a task", task_means),
            )
            if len(set(names)) != len(names)
        ),
    ]
    if faults:
        raise RunStoreError(f"{path}: damaged: holds {faults[0]}. Run the study anew.")


def _printable(value: Any) -> Any:
    """The same JSON value without characters that neither HTML nor a terminal should be given."""
    if isinstance(value, str):
        return "".join(c if _is_printable(c) else "\N{REPLACEMENT CHARACTER}" for c in value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def _is_printable(character: str) -> bool:
    """False for controls, surrogates, and marks that change the direction of what follows."""
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn")
