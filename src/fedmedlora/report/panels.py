"""Which figures a run gets, and in which colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.words import counted
from fedmedlora.evaluation.intervals import MIN_DOCUMENTS
from fedmedlora.report import figures
from fedmedlora.report.svg import (
    DARK,
    GREY,
    LIGHT_BLUE,
    PALE_BLUE,
    PALETTE,
    PURPLE,
    is_dark,
    round_steps,
)
from fedmedlora.report.tables import (
    arm_names,
    full_model_bytes,
    in_order,
    results_by_cell,
    rounds_by_arm,
)
from fedmedlora.report.wording import byte_unit, duration, num_bytes, points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmedlora.core.records import RoundRecord
    from fedmedlora.report.finished_run import FinishedRun

_CONDITION_COLOURS = {
    "zero-shot": GREY,
    "start": PURPLE,
    "single-site": LIGHT_BLUE,
    "centralized": DARK,
}
_FEDERATED_COLOURS = tuple(c for c in PALETTE if c not in (LIGHT_BLUE, PURPLE))
TRAFFIC_COLOURS = {"up, leaving the sites": PALETTE[4], "down, reaching them": PALETTE[6]}
_UP_COLOUR, _DOWN_COLOUR = TRAFFIC_COLOURS.values()


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure under a caption; `note` says what is special about it."""

    caption: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class HeatCell:
    """F1 of the model trained by an arm on the notes of a cohort; `own`: it trained there."""

    value: float | None
    background: str
    dark: bool
    own: bool


def arm_colours(run: FinishedRun) -> dict[str, str]:
    """A colour for every arm: one for each condition, and its own for each federated arm."""
    conditions = {arm.name: arm.condition for arm in run.scores.arms}
    colours: dict[str, str] = {}
    num_federated = 0
    for name in arm_names(run.scores):
        condition = conditions.get(name)
        if condition is None:
            colours[name] = PALE_BLUE
        elif condition in _CONDITION_COLOURS:
            colours[name] = _CONDITION_COLOURS[condition]
        else:
            colours[name] = _FEDERATED_COLOURS[num_federated % len(_FEDERATED_COLOURS)]
            num_federated += 1
    return colours


def site_colours(run: FinishedRun) -> dict[str, str]:
    """A colour for every site of any round; cohorts of the same name come first."""
    cohorts = [cohort.name for cohort in run.scores.cohorts]
    sites = in_order((site for r in run.rounds for site in (*r.sites, *r.failed)), cohorts)
    return {site: PALETTE[i % len(PALETTE)] for i, site in enumerate(sites)}


def weight_colours(run: FinishedRun) -> dict[str, str]:
    """The colours of the sites that ever had a weight in a federated arm."""
    weighted = {s for rs in _federated_rounds(run).values() for r in rs for s in r.weights}
    return {site: colour for site, colour in site_colours(run).items() if site in weighted}


def cohort_panels(run: FinishedRun, preset: str) -> list[Panel]:
    """For each cohort the F1 of the arms tested on it; all panels have the same axis."""
    results = results_by_cell(run.scores)
    colours = arm_colours(run)
    micro = [row.scores.micro for row in run.scores.results if row.preset == preset]
    reach = max((max(m.f1, m.f1_ci95[1] if m.f1_ci95 else 0.0) for m in micro), default=0.0)
    highest = round_steps(0, max(100 * reach, 10))[-1] / 100
    panels = []
    for cohort in run.scores.cohorts:
        bars = []
        for arm in run.scores.arms:
            row = results.get((arm.name, cohort.name, preset))
            if row is not None:
                score = row.scores.micro
                ci95 = score.f1_ci95 if cohort.documents >= MIN_DOCUMENTS else None
                bars.append(figures.Bar(arm.name, score.f1, ci95, colours[arm.name]))
        title = f"{preset} F1 of every arm on {cohort.name}"
        svg = figures.score_bars(bars, highest=highest, title=title)
        note = f"{cohort.setting}, {counted(cohort.documents, 'note')}"
        panels.append(Panel(cohort.name, svg, note))
    return panels


def heat_map(run: FinishedRun, preset: str) -> list[tuple[str, list[HeatCell]]]:
    """Arms by cohorts, from white at 0 to dark blue at the highest F1."""
    results = results_by_cell(run.scores)
    values = [row.scores.micro.f1 for row in run.scores.results if row.preset == preset]
    highest = max(values, default=0.0) or 1.0
    rows = []
    for arm in run.scores.arms:
        cells = []
        for cohort in run.scores.cohorts:
            row = results.get((arm.name, cohort.name, preset))
            value = row.scores.micro.f1 if row else None
            background = _blue((value or 0.0) / highest)
            cells.append(
                HeatCell(value, background, is_dark(background), own=arm.site == cohort.name)
            )
        rows.append((arm.name, cells))
    return rows


def _blue(share: float) -> str:
    """From near-white to dark blue."""
    ends = ((247, 251, 255), (8, 69, 148))
    return "#" + "".join(
        f"{round(low + share * (high - low)):02x}" for low, high in zip(*ends, strict=True)
    )


def learning_panels(run: FinishedRun, kind: str) -> list[Panel]:
    """Curves of `train_loss` or `validation_loss` by site, single-site arms in one panel."""
    colours = site_colours(run)
    single = {arm.name for arm in run.scores.arms if arm.condition == "single-site"}
    groups: dict[str, list[RoundRecord]] = {}
    for arm, records in rounds_by_arm(run).items():
        groups.setdefault("single-site, each alone" if arm in single else arm, []).extend(records)
    curves: dict[str, list[figures.Line]] = {}
    for caption, records in groups.items():
        lines = _lines_by_site(records, kind, colours)
        if lines:
            curves[caption] = lines
    values = [v for lines in curves.values() for line in lines for _, v in line.points]
    if not values:
        return []
    span = (min(values), max(values))
    name = "training loss" if kind == "train_loss" else "validation loss"
    return [
        Panel(caption, figures.round_lines(lines, values=span, title=f"{name}, {caption}"))
        for caption, lines in curves.items()
    ]


def _lines_by_site(
    records: Sequence[RoundRecord], kind: str, colours: Mapping[str, str]
) -> list[figures.Line]:
    by_site: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        losses = record.train_loss if kind == "train_loss" else record.validation_loss
        for site, loss in losses.items():
            by_site.setdefault(site, []).append((record.round_index, loss))
    return [
        figures.Line(site, sorted(by_site[site]), colour, dash=i // len(PALETTE))
        for i, (site, colour) in enumerate(colours.items())
        if site in by_site
    ]


def weight_panels(run: FinishedRun) -> list[Panel]:
    """For each federated arm the aggregation weights by round."""
    colours = site_colours(run)
    panels = []
    for arm, records in _federated_rounds(run).items():
        columns = [
            (
                record.round_index,
                [
                    figures.Segment(
                        record.weights[site],
                        colour,
                        f"{site}, round {record.round_index}: {points(record.weights[site])} %",
                        label=f"{100 * record.weights[site]:.0f} %",
                    )
                    for site, colour in colours.items()
                    if site in record.weights
                ],
            )
            for record in records
            if record.weights
        ]
        if columns:
            highest = max(1.0, *(sum(max(s.value, 0) for s in parts) for _, parts in columns))
            svg = figures.round_columns(
                columns,
                highest=highest,
                title=f"aggregation weights, {arm}",
                tick=lambda v: f"{100 * v:.0f} %",
            )
            panels.append(Panel(arm, svg))
    return panels


def traffic_panels(run: FinishedRun) -> list[Panel]:
    """For each federated arm the bytes of every round, up and down."""
    by_arm = {arm: rs for arm, rs in _federated_rounds(run).items() if any(map(_moved, rs))}
    highest = max((_moved(record) for rs in by_arm.values() for record in rs), default=0)
    tick = _byte_ticks(highest)
    panels = []
    for arm, records in by_arm.items():
        columns = []
        for record in records:
            up, down = sum(record.bytes_up.values()), sum(record.bytes_down.values())
            where = f"round {record.round_index}"
            columns.append(
                (
                    record.round_index,
                    [
                        figures.Segment(up, _UP_COLOUR, f"up, {where}: {num_bytes(up)}"),
                        figures.Segment(down, _DOWN_COLOUR, f"down, {where}: {num_bytes(down)}"),
                    ],
                )
            )
        svg = figures.round_columns(
            columns, highest=highest, title=f"bytes by round, {arm}", tick=tick
        )
        panels.append(Panel(arm, svg))
    return panels


def cumulative_traffic(run: FinishedRun) -> Panel | None:
    """Bytes since the start by arm, on a logarithmic axis, against whole models if known."""
    colours = arm_colours(run)
    lines, full_lines = [], []
    for i, (arm, records) in enumerate(_federated_rounds(run).items()):
        sums = _running([(r.round_index, _moved(r)) for r in records])
        if sums and sums[-1][1] > 0:
            moved = [(x, total) for x, total in sums if total > 0]
            lines.append(figures.Line(arm, moved, colours.get(arm, DARK), dash=i))
        full = [(r.round_index, full_model_bytes(run, r)) for r in records]
        known = [(x, size) for x, size in full if size is not None]
        if full and len(known) == len(full):
            whole = [(x, total) for x, total in _running(known) if total > 0]
            full_lines.append(figures.Line("whole model", whole, DARK, dash=1))
    if not lines:
        return None
    # Of several, the arm in which no site failed.
    lines += sorted(full_lines, key=lambda line: line.points[-1][1] if line.points else 0)[-1:]
    values = [value for line in lines for _, value in line.points]
    svg = figures.round_lines(
        lines,
        values=(min(values), max(values)),
        title="bytes since the start",
        tick=_short_bytes,
        log=True,
    )
    return Panel("Since the start", svg, "up and down, logarithmic axis")


def time_panels(run: FinishedRun) -> list[Panel]:
    """For each trained arm the time of every round."""
    by_arm = rounds_by_arm(run)
    colours = arm_colours(run)
    seconds = [record.elapsed_seconds for records in by_arm.values() for record in records]
    highest = max(seconds, default=0.0)
    if highest <= 0:
        return []
    minutes = highest >= 180
    panels = []
    for arm, records in by_arm.items():
        columns = [
            (
                r.round_index,
                [
                    figures.Segment(
                        r.elapsed_seconds / (60 if minutes else 1),
                        colours.get(arm, DARK),
                        f"round {r.round_index}: {duration(r.elapsed_seconds)}",
                        label=duration(r.elapsed_seconds),
                    )
                ],
            )
            for r in records
        ]
        svg = figures.round_columns(
            columns,
            highest=highest / (60 if minutes else 1),
            title=f"time by round, {arm}",
            tick=("{:g} min" if minutes else "{:g} s").format,
        )
        panels.append(Panel(arm, svg))
    return panels


def _federated_rounds(run: FinishedRun) -> dict[str, list[RoundRecord]]:
    by_arm = rounds_by_arm(run)
    return {arm: records for arm, records in by_arm.items() if arm in run.federated_arms}


def _moved(record: RoundRecord) -> int:
    return sum(record.bytes_up.values()) + sum(record.bytes_down.values())


def _running(values: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
    total, sums = 0, []
    for x, value in values:
        total += value
        sums.append((x, float(total)))
    return sums


def _short_bytes(value: float) -> str:
    """Bytes of a round tick: `10 MB`."""
    unit, divisor = byte_unit(value)
    return f"{value / divisor:g} {unit}"


def _byte_ticks(highest: float) -> Callable[[float], str]:
    unit, divisor = byte_unit(highest)
    return lambda value: f"{value / divisor:g} {unit}"
