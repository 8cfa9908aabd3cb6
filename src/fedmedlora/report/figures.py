"""The kinds of figures of the report, each from plain values to one SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.report.svg import (
    Axis,
    Drawing,
    is_dark,
    round_steps,
    same_decimals,
    shortened,
    spread,
    text_width,
)
from fedmedlora.report.wording import interval, points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH = 380.0  # fits a telephone, and three times beside each other on a desk
_DASHES = (None, "6 3", "2 3", "8 3 2 3")
_MOST_LABELLED_LINES = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """A score with its interval, under the name of an arm."""

    label: str
    value: float
    ci95: tuple[float, float] | None
    colour: str


@dataclass(frozen=True, slots=True)
class Line:
    """Points `(round, value)` in the order of the rounds."""

    label: str
    points: Sequence[tuple[int, float]]
    colour: str
    dash: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a column; `tip` says in words what it is."""

    value: float
    colour: str
    tip: str
    label: str = ""


def score_bars(bars: Sequence[Bar], *, highest: float, title: str) -> str:
    """Horizontal bars of F1 from 0 to `highest`, with whiskers for the intervals."""
    labels = [shortened(bar.label, 28) for bar in bars]
    left = max((text_width(label) for label in labels), default=0.0) + 8
    width, row, top = WIDTH, 24.0, 4.0
    bottom = top + row * len(bars)
    axis = Axis(0, highest, left, width - 46)
    drawing = Drawing(width, bottom + 22, title)
    for tick in round_steps(0, 100 * highest):
        x = axis(tick / 100)
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 11, f"{tick:g}", class_="middle faint")
    for i, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        y = top + row * (i + 0.5)
        drawing.text(left - 6, y, label, class_="end", tip=bar.label)
        tip = f"{bar.label}: {points(bar.value)}"
        if bar.ci95:
            tip += f" ({interval(bar.ci95)})"
        drawing.add(
            "rect",
            tip=tip,
            x=left,
            y=y - 8,
            width=axis(bar.value) - left,
            height=16.0,
            fill=bar.colour,
        )
        if bar.ci95:
            low, high = axis(bar.ci95[0]), axis(bar.ci95[1])
            shape = f"M{low:.2f} {y - 4}v8M{low:.2f} {y}H{high:.2f}M{high:.2f} {y - 4}v8"
            drawing.add("path", d=shape, class_="halo")
            drawing.add("path", d=shape, class_="whisker")
        drawing.text(width - 4, y, points(bar.value), class_="end strong")
    drawing.line(left, top, left, bottom, "axis")
    return drawing.to_text()


def difference_mark(
    difference: float, ci95: tuple[float, float], *, reach: tuple[float, float], title: str
) -> str:
    """A difference and its interval on a line over `reach`, which holds 0; hollow if it spans 0."""
    width, height = 200.0, 18.0
    axis = Axis(*reach, 6, width - 6)
    drawing = Drawing(width, height, title)
    y = height / 2
    drawing.line(axis.start, y, axis.end, y, "grid")
    drawing.line(axis(0), 0, axis(0), height, "axis")
    clear = not ci95[0] <= 0 <= ci95[1]
    drawing.line(axis(ci95[0]), y, axis(ci95[1]), y, "whisker")
    drawing.add("circle", cx=axis(difference), cy=y, r=3.2, class_="dot" if clear else "dot hollow")
    return drawing.to_text()


def round_lines(
    lines: Sequence[Line],
    *,
    values: tuple[float, float],
    title: str,
    tick: Callable[[float], str] | None = None,
    log: bool = False,
) -> str:
    """Curves over rounds, each named at its end; `values` is the range that the figure covers."""
    labelled = len(lines) <= _MOST_LABELLED_LINES
    labels = [shortened(line.label, 17) if labelled else "" for line in lines]
    right_room = max(60.0, *(text_width(label) + 12 for label in labels)) if labelled else 4.0
    ticks = _powers_of_ten(*values) if log else round_steps(*values)
    tick_texts = [tick(value) for value in ticks] if tick else same_decimals(ticks)
    left = max(text_width(text) for text in tick_texts) + 8
    width, height, top = WIDTH, 220.0, 10.0
    bottom = height - 36
    scale: Callable[[float], float] = math.log10 if log else float
    y_axis = Axis(scale(ticks[0]), scale(ticks[-1]), bottom, top)
    rounds = sorted({x for line in lines for x, _ in line.points}) or [1]
    x_axis = Axis(rounds[0] - 0.25, max(rounds[-1], rounds[0] + 1) + 0.1, left, width - right_room)
    drawing = Drawing(width, height, title)
    for value, text in zip(ticks, tick_texts, strict=True):
        y = y_axis(scale(value))
        drawing.line(left, y, width - right_room, y, "grid")
        drawing.text(left - 6, y, text, class_="end faint")
    _round_ticks(drawing, rounds, x_axis, bottom)
    for line in lines:
        _curve(drawing, line, x_axis, lambda v: y_axis(scale(v)))
    if labelled:
        ends = [y_axis(scale(line.points[-1][1])) for line in lines if line.points]
        names = [(t, line) for t, line in zip(labels, lines, strict=True) if line.points]
        for y, (text, line) in zip(spread(ends, 13, top, bottom), names, strict=True):
            drawing.text(width - right_room + 8, y, text, tip=line.label)
    drawing.line(left, bottom, width - right_room, bottom, "axis")
    return drawing.to_text()


def _curve(drawing: Drawing, line: Line, x_axis: Axis, y_of: Callable[[float], float]) -> None:
    drawing.add(
        "polyline",
        points=" ".join(f"{x_axis(x):.2f},{y_of(value):.2f}" for x, value in line.points),
        class_="curve",
        stroke=line.colour,
        stroke_dasharray=_DASHES[line.dash % len(_DASHES)],
    )
    for x, value in line.points:
        tip = f"{line.label}, round {x}: {value:.4g}"
        drawing.add("circle", tip=tip, cx=x_axis(x), cy=y_of(value), r=3.0, fill=line.colour)


def round_columns(
    columns: Sequence[tuple[int, Sequence[Segment]]],
    *,
    highest: float,
    title: str,
    tick: Callable[[float], str],
) -> str:
    """One stacked column a round, from 0 to `highest`; labels are written where they fit."""
    ticks = round_steps(0, highest)
    tick_texts = [tick(value) for value in ticks]
    left = max(text_width(text) for text in tick_texts) + 8
    width, height, top = WIDTH, 200.0, 10.0
    bottom = height - 36
    y_axis = Axis(0, ticks[-1], bottom, top)
    rounds = [x for x, _ in columns] or [1]
    x_axis = Axis(rounds[0] - 0.5, rounds[-1] + 0.5, left, width - 4)
    thickness = min(72.0, 0.8 * (x_axis(1) - x_axis(0)))
    drawing = Drawing(width, height, title)
    for value, text in zip(ticks, tick_texts, strict=True):
        drawing.line(left, y_axis(value), width - 4, y_axis(value), "grid")
        drawing.text(left - 6, y_axis(value), text, class_="end faint")
    _round_ticks(drawing, rounds, x_axis, bottom)
    for x, segments in columns:
        base = 0.0
        for segment in segments:
            y, y_base = y_axis(base + segment.value), y_axis(base)
            drawing.add(
                "rect",
                tip=segment.tip,
                x=x_axis(x) - thickness / 2,
                y=y,
                width=thickness,
                height=y_base - y,
                fill=segment.colour,
                class_="segment",
            )
            fits = y_base - y >= 14 and text_width(segment.label) <= thickness
            if segment.label and fits:
                ink = "light-ink" if is_dark(segment.colour) else "dark-ink"
                drawing.text(x_axis(x), (y + y_base) / 2, segment.label, class_=f"middle {ink}")
            base += segment.value
    drawing.line(left, bottom, width - 4, bottom, "axis")
    return drawing.to_text()


def _round_ticks(drawing: Drawing, rounds: Sequence[int], axis: Axis, bottom: float) -> None:
    """The round numbers below the axis, thinned out where there are many."""
    every = math.ceil(len(rounds) / 12)
    for x in rounds[::every]:
        drawing.text(axis(x), bottom + 12, str(x), class_="middle faint")
    drawing.text((axis.start + axis.end) / 2, bottom + 27, "round", class_="middle faint")


def _powers_of_ten(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]
