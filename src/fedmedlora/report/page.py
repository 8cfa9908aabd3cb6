"""The report: one HTML page that needs nothing else, and its numbers as JSON and CSV."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import fedmedlora
from fedmedlora.core import words
from fedmedlora.core.errors import RunStoreError
from fedmedlora.evaluation.intervals import MIN_DOCUMENTS
from fedmedlora.report import figures, panels, tables, wording
from fedmedlora.report.decisions import decision_panels, decisions
from fedmedlora.report.finished_run import FinishedRun, read_finished_run
from fedmedlora.report.headline import SETTING_TITLES, headline
from fedmedlora.report.relation_tables import relations_view
from fedmedlora.report.results_files import results_csv, results_json
from fedmedlora.report.template_environment import template_environment
from fedmedlora.runs.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fedmedlora.report.finished_run import StudyScores

REPORT, RESULTS_JSON, RESULTS_CSV = "report.html", "results.json", "results.csv"
_MOST_ROUND_ROWS = 500
_FEW_NOTES = 10

PRESET_DEFINITIONS = {
    "strict": "a predicted mention is right if a gold mention has the same label and exactly the "
    "same offsets.",
    "lenient": "a predicted mention is right if it shares at least one character with a gold "
    "mention of the same label. Each mention is in one pair at most.",
}


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """The path of `report.html`; `results.json` and `results.csv` are written beside it.

    Args:
        run_dirs: Finished runs; one that is named twice is shown once.
        out: Where to write. None: into the run or, for several runs, beside the first of them.

    Raises:
        RunStoreError: No run is named, one is no run directory, is not finished or is damaged, or
            the report cannot be written.
    """
    paths = list({path.resolve(): path for path in run_dirs}.values())
    if not paths:
        raise RunStoreError("report: expected at least one run directory, got none.")
    runs = [read_finished_run(path) for path in paths]
    folder = out or (paths[0] if len(paths) == 1 else paths[0].resolve().parent)
    results = json.dumps(results_json(runs), indent=2, ensure_ascii=False, allow_nan=False)
    _write(folder / RESULTS_JSON, results + "\n")
    _write(folder / RESULTS_CSV, results_csv(runs))
    _write(folder / REPORT, render_page(runs))
    return folder / REPORT


def render_page(runs: Sequence[FinishedRun]) -> str:
    """The page of one run, or of several with a comparison on top."""
    environment = template_environment()
    environment.filters.update(
        points=wording.points,
        signed_points=wording.signed_points,
        interval=wording.interval,
        bytes=wording.num_bytes,
        duration=wording.duration,
        percent=wording.percent,
        listed=wording.listed,
        counted=words.counted,
        setting_title=lambda setting: SETTING_TITLES.get(setting, setting),
        svg=Markup,
    )
    return environment.get_template("report.html").render(
        version=fedmedlora.__version__,
        views=[_view(i, run) for i, run in enumerate(runs, 1)],
        across=_across(runs) if len(runs) > 1 else None,
        has_start=any(arm.condition == "start" for run in runs for arm in run.scores.arms),
        preset_definitions=PRESET_DEFINITIONS,
        shown_presets=tables.in_order((p for r in runs for p in tables.presets_of(r.scores)), ()),
    )


def _view(number: int, run: FinishedRun) -> dict[str, Any]:
    """Everything that the template says about one run."""
    scores = run.scores
    presets = tables.presets_of(scores)
    overview = tables.overview(scores)
    ends = [end for comparison in scores.comparisons for end in comparison.ci95 or ()]
    round_rows = [
        (record, site)
        for records in tables.rounds_by_arm(run).values()
        for record in records
        for site in record.sites
    ]
    reach = (min([-0.01, *ends]), max([0.01, *ends]))
    return {
        "id": f"run-{number}",
        "name": run.name,
        "scores": scores,
        "config_sha256": run.config_sha256,
        "created": str(run.environment.get("created_utc", ""))[:10],
        "judged": {
            s: tables.fewest_notes(scores, s) >= MIN_DOCUMENTS for s in tables.settings_of(scores)
        },
        "small_cohorts": [c.name for c in scores.cohorts if c.documents < _FEW_NOTES],
        "about": _about(run.config),
        "artificial": _is_artificial(run.config),
        "damage": _damage(run.config),
        "headline": headline(run),
        "presets": presets,
        "overview": overview,
        "settings": [_setting_heading(setting, overview, scores) for setting in overview.settings],
        "conditions": {arm.name: arm.condition for arm in scores.arms},
        "comparisons": [
            (setting, pairs)
            for setting in tables.settings_of(scores)
            if (pairs := tables.comparisons_by_pair(scores, setting))
        ],
        "difference_mark": lambda c: Markup(
            figures.difference_mark(
                c.difference,
                c.ci95,
                reach=reach,
                title=f"{c.arm} minus {c.against}, {c.preset}",
            )
        ),
        "relations": relations_view(run),
        "cohort_panels": {preset: panels.cohort_panels(run, preset) for preset in presets},
        "heat_maps": {preset: panels.heat_map(run, preset) for preset in presets},
        "label_tables": _label_tables(run),
        "train_panels": panels.learning_panels(run, "train_loss"),
        "validation_panels": panels.learning_panels(run, "validation_loss"),
        "site_colours": panels.site_colours(run),
        "weight_colours": panels.weight_colours(run),
        "weight_panels": panels.weight_panels(run),
        "decisions": decisions(run),
        "decision_panels": decision_panels(run),
        "traffic_colours": panels.TRAFFIC_COLOURS,
        "traffic_panels": panels.traffic_panels(run),
        "cumulative_traffic": panels.cumulative_traffic(run),
        "time_panels": panels.time_panels(run),
        "costs": tables.arm_costs(run),
        "failures": [
            (record.arm, record.round_index, site, code)
            for record in run.rounds
            for site, code in record.failed.items()
        ],
        "num_rounds": len(run.rounds),
        "round_rows": round_rows if len(round_rows) <= _MOST_ROUND_ROWS else [],
        "manifest": _manifest(run),
        "config_text": json.dumps(run.config, indent=2, ensure_ascii=False),
    }


def _setting_heading(
    setting: str, overview: tables.Overview, scores: StudyScores
) -> dict[str, Any]:
    cohorts = [cohort for cohort in scores.cohorts if cohort.setting == setting]
    notes = words.counted(sum(cohort.documents for cohort in cohorts), "note")
    return {
        "title": SETTING_TITLES.get(setting, setting),
        "detail": f"{wording.listed([cohort.name for cohort in cohorts])}; {notes}",
        "presets": [preset for name, preset in overview.columns if name == setting],
    }


def _about(config: Mapping[str, Any]) -> str:
    """What the study file says that the study can show; nothing if it does not say."""
    about = config.get("about")
    return about if isinstance(about, str) else ""


def _is_artificial(config: Mapping[str, Any]) -> bool:
    data = config.get("data")
    nested = data.get("artificial") if isinstance(data, dict) else None
    return bool(config.get("artificial") or nested)


def _damage(config: Mapping[str, Any]) -> str:
    """Which site's training notes were spoilt, and how; empty if none were."""
    data = config.get("data")
    damage = data.get("damage") if isinstance(data, dict) else None
    if not isinstance(damage, dict):
        return ""
    share = damage.get("share")
    share = f"{100 * share:g} %" if isinstance(share, int | float) else "some"
    return (
        f"Of the training notes of {damage.get('site')}, {share} of the entities were given a "
        f"wrong label ({damage.get('kind')})."
    )


def _label_tables(run: FinishedRun) -> list[dict[str, Any]]:
    """For each cohort its labels with the number of gold mentions, and rows of arms by preset."""
    results = tables.results_by_cell(run.scores)
    found = []
    for cohort in run.scores.cohorts:
        cells = {key: row.scores for key, row in results.items() if key[1] == cohort.name}
        labels = tables.label_order(cells.values(), cohort.labels)
        gold = {
            label: max(c.labels[label].num_gold for c in cells.values() if label in c.labels)
            for label in labels
        }
        by_preset = {
            preset: [
                (arm.name, cells[arm.name, cohort.name, preset])
                for arm in run.scores.arms
                if (arm.name, cohort.name, preset) in cells
            ]
            for preset in tables.presets_of(run.scores)
        }
        found.append({"cohort": cohort, "labels": labels, "gold": gold, "by_preset": by_preset})
    return found


def _manifest(run: FinishedRun) -> list[tuple[str, str]]:
    """What is needed to do the run again, as far as it is known."""
    scores, environment = run.scores, run.environment
    config = tables.flattened(dict(run.config))
    packages = environment.get("packages")
    memory = environment.get("memory_bytes")
    rows: list[tuple[str, Any]] = [
        ("Run", run.name),
        ("Started (UTC)", environment.get("created_utc")),
        ("Configuration, sha256", run.config_sha256),
        ("Seed", scores.seed),
        ("Base model", scores.base_model),
        ("Schema", scores.schema_id),
        ("Prompt format", scores.prompt_format),
        ("LoRA rank, alpha", _joined(config, ("lora.rank", "lora.alpha"))),
        ("Training", _section(run.config, "training")),
        ("Federation", _section(run.config, "federation")),
        ("fedmedlora", environment.get("fedmedlora") or scores.version),
        ("Commit", environment.get("git_commit")),
        ("Python", environment.get("python")),
        ("System", _joined(environment, ("system", "machine"))),
        ("Processor", environment.get("cpu")),
        ("Cores, usable", _joined(environment, ("num_cores", "num_usable_cores"))),
        ("Memory", wording.num_bytes(memory) if isinstance(memory, int | float) else None),
        ("Accelerator", environment.get("gpu") or environment.get("device")),
        ("Threads", _section(environment, "thread_variables")),
        ("Packages", _pairs(packages) if isinstance(packages, dict) else None),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _joined(table: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(str(table[key]) for key in keys if table.get(key) is not None)


def _section(table: Mapping[str, Any], key: str) -> str:
    section = table.get(key)
    return _pairs(tables.flattened(section)) if isinstance(section, dict) else ""


def _pairs(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in table.items() if value is not None)


def _across(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """What the runs have in common and where they differ: one table for each setting."""
    settings = tables.in_order((s for run in runs for s in tables.settings_of(run.scores)), ())
    arms = tables.in_order((arm for run in runs for arm in tables.arm_names(run.scores)), ())
    presets = tables.in_order((p for run in runs for p in tables.presets_of(run.scores)), ())
    by_run = [{(r.arm, r.setting, r.preset): r for r in run.scores.summary} for run in runs]
    blocks = []
    for setting in settings:
        for preset in presets:
            rows = [(arm, [rows.get((arm, setting, preset)) for rows in by_run]) for arm in arms]
            kept = [(arm, cells) for arm, cells in rows if any(cells)]
            if kept:
                blocks.append((setting, preset, kept))
    return {"blocks": blocks, "differences": tables.config_differences(runs)}


def _write(path: Path, text: str) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_bytes(text.encode("utf-8"))

    write_file(path, fill)
