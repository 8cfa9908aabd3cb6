"""The tables of the report as values: what stands in which row, and what is marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.core.records import RoundRecord
    from fedmedlora.report.finished_run import (
        CellScores,
        Comparison,
        FinishedRun,
        Result,
        SettingScore,
        StudyScores,
    )

_SETTING_ORDER = ("external", "in-domain")
_PRESET_ORDER = ("strict", "lenient")


@dataclass(frozen=True, slots=True)
class Marked:
    """A score of the overview; `mark` is `best`, `close` (its interval reaches the best) or ``."""

    score: SettingScore
    mark: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Arms by settings and presets.

    Attributes:
        columns: Setting and preset.
        rows: Arm, and its score in each column, None where there is none.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Marked | None, ...]], ...]

    @property
    def settings(self) -> list[str]:
        """The settings that have a column."""
        return in_order((setting for setting, _ in self.columns), ())


def in_order(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Each name once: those of `first` in its order, then the others as they came."""
    unique = list(dict.fromkeys(names))
    known = [name for name in first if name in unique]
    return known + [name for name in unique if name not in known]


def settings_of(scores: StudyScores) -> list[str]:
    """The settings, held-out cohorts first: they are the harder question."""
    return in_order((cohort.setting for cohort in scores.cohorts), _SETTING_ORDER)


def presets_of(scores: StudyScores) -> list[str]:
    """The presets, strict first."""
    names = [row.preset for row in scores.results] + [row.preset for row in scores.summary]
    return in_order(names, _PRESET_ORDER)


def arm_names(scores: StudyScores) -> list[str]:
    """All arms, and after the single-site arms the means over them that only summaries know."""
    names = [arm.name for arm in scores.arms]
    extra = [r.arm for r in scores.summary if r.arm not in names]
    single = [i for i, arm in enumerate(scores.arms) if arm.condition == "single-site"]
    place = single[-1] + 1 if single else len(names)
    return [*names[:place], *dict.fromkeys(extra), *names[place:]]


def overview(scores: StudyScores) -> Overview:
    """The mean F1 of every arm in every setting, under every preset."""
    by_key = {(row.setting, row.preset, row.arm): row for row in scores.summary}
    columns = tuple(
        (setting, preset)
        for setting in settings_of(scores)
        for preset in presets_of(scores)
        if any((setting, preset, arm) in by_key for arm in arm_names(scores))
    )
    best = {
        column: max(row.macro_f1 for key, row in by_key.items() if key[:2] == column)
        for column in columns
    }

    def marked(column: tuple[str, str], arm: str) -> Marked | None:
        row = by_key.get((*column, arm))
        return None if row is None else Marked(row, _mark(row, best[column]))

    rows = [(arm, tuple(marked(column, arm) for column in columns)) for arm in arm_names(scores)]
    return Overview(columns, tuple((arm, cells) for arm, cells in rows if any(cells)))


def _mark(row: SettingScore, best: float) -> str:
    if round(100 * row.macro_f1, 1) == round(100 * best, 1):  # what looks equal is marked equal
        return "best"
    return "close" if row.ci95 is not None and row.ci95[1] >= best else ""


def comparisons_by_pair(
    scores: StudyScores, setting: str
) -> dict[str, dict[str, dict[str, Comparison]]]:
    """The paired differences of a setting by arm, by the arm it is compared with, by preset."""
    pairs: dict[str, dict[str, dict[str, Comparison]]] = {}
    for comparison in scores.comparisons:
        if comparison.setting == setting:
            others = pairs.setdefault(comparison.arm, {})
            others.setdefault(comparison.against, {})[comparison.preset] = comparison
    return pairs


def fewest_notes(scores: StudyScores, setting: str) -> int:
    """Test notes of the smallest cohort of the setting; of one note there is no interval."""
    return min((c.documents for c in scores.cohorts if c.setting == setting), default=0)


def results_by_cell(scores: StudyScores) -> dict[tuple[str, str, str], Result]:
    """Results by arm, cohort and preset."""
    return {(row.arm, row.cohort, row.preset): row for row in scores.results}


def label_order(cells: Iterable[CellScores], annotated: Sequence[str]) -> list[str]:
    """The labels that any of the cells has scores for, the cohort's own first."""
    return in_order((label for cell in cells for label in cell.labels), annotated)


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What the rounds of one arm cost in all.

    Attributes:
        num_rounds: Rounds that ended.
        seconds: The rounds together.
        site_seconds: Local training, summed over sites.
        bytes_up: Bytes that left the sites.
        bytes_down: Bytes that the sites received.
        full_model_bytes: What the same exchange of whole models had moved; None if unknown.
        extraction_seconds: Extraction from all cohorts; None if unknown.
    """

    arm: str
    num_rounds: int
    seconds: float
    site_seconds: float
    bytes_up: int
    bytes_down: int
    full_model_bytes: int | None
    extraction_seconds: float | None

    @property
    def num_bytes(self) -> int:
        """Both directions."""
        return self.bytes_up + self.bytes_down


def rounds_by_arm(run: FinishedRun) -> dict[str, list[RoundRecord]]:
    """The rounds of every arm that was trained, by round, arms in the study's order."""
    names = in_order((record.arm for record in run.rounds), arm_names(run.scores))
    by_arm: dict[str, list[RoundRecord]] = {name: [] for name in names}
    for record in sorted(run.rounds, key=lambda r: r.round_index):
        by_arm[record.arm].append(record)
    return by_arm


def full_model_bytes(run: FinishedRun, record: RoundRecord) -> int | None:
    """What the round had moved, had each transfer been the whole model; None if unknown."""
    size = record.notes.get("full_model_bytes", run.scores.full_model_bytes)
    if not isinstance(size, int) or size <= 0:
        return None
    return size * (len(record.bytes_up) + len(record.bytes_down))


def arm_costs(run: FinishedRun) -> list[ArmCost]:
    """Time and bytes of every arm that was trained or that extracted anything."""
    by_arm = rounds_by_arm(run)
    costs = []
    for arm in in_order((*by_arm, *run.extraction_seconds), arm_names(run.scores)):
        records = by_arm.get(arm, [])
        sent = records if arm in run.federated_arms else []
        full = [full_model_bytes(run, record) for record in sent]
        known = [size for size in full if size is not None]
        costs.append(
            ArmCost(
                arm=arm,
                num_rounds=len(records),
                seconds=sum(record.elapsed_seconds for record in records),
                site_seconds=sum(sum(record.site_seconds.values()) for record in records),
                bytes_up=sum(sum(record.bytes_up.values()) for record in sent),
                bytes_down=sum(sum(record.bytes_down.values()) for record in sent),
                full_model_bytes=sum(known) if sent and len(known) == len(full) else None,
                extraction_seconds=run.extraction_seconds.get(arm),
            )
        )
    return costs


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration as one table: dotted keys, list items by number or by their name."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [
            (str(item.get("name", i)) if isinstance(item, dict) else str(i), item)
            for i, item in enumerate(value)
        ]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flattened(item, f"{prefix}.{key}" if prefix else key)
    return flat


def config_differences(runs: Sequence[FinishedRun]) -> list[tuple[str, list[Any]]]:
    """The settings in which the runs differ, with the value of each run; None where it has none."""
    tables = [flattened(run.config) for run in runs]
    keys = in_order((key for table in tables for key in table), ())
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if any(v != values[0] for v in values)]
