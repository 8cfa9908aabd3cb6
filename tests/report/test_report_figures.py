"""Figures: well-formed, and as long and as high as their numbers."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.report.figures import (
    Bar,
    Line,
    Segment,
    difference_mark,
    round_columns,
    round_lines,
    score_bars,
)
from fedmedlora.report.svg import PALETTE, is_dark, round_steps, shortened, spread

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


def parts(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(tag))


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


def test_bars_are_as_long_as_their_scores() -> None:
    bars = [Bar("a", 0.2, None, "#000000"), Bar("b", 0.4, None, "#111111")]
    svg = score_bars([*bars, Bar("c", 0.8, None, "#222222")], highest=0.8, title="t")

    lengths = [numbers(rect, "width")[0] for rect in parts(svg, "rect")]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.02)
    assert lengths[2] == pytest.approx(4 * lengths[0], abs=0.02)
    assert len({rect.get("x") for rect in parts(svg, "rect")}) == 1


def test_whiskers_span_the_interval_on_the_scale_of_the_bars() -> None:
    svg = score_bars([Bar("a", 0.5, (0.25, 0.75), "#000000")], highest=1.0, title="t")

    (rect,) = parts(svg, "rect")
    start, length = numbers(rect, "x", "width")
    (whisker,) = [p for p in parts(svg, "path") if p.get("class") == "whisker"]
    low, rest = whisker.get("d", "").removeprefix("M").split(" ", 1)
    high = rest.split("H")[1].split("M")[0]
    assert float(low) == pytest.approx(start + length / 2, abs=0.02)
    assert float(high) == pytest.approx(start + 1.5 * length, abs=0.02)


def test_a_bar_without_interval_has_no_whisker_and_no_bars_are_no_error() -> None:
    svg = score_bars([Bar("a", 0.5, None, "#000000")], highest=1.0, title="t")

    assert len(parts(svg, "rect")) == 1
    assert parts(svg, "path") == []
    assert parts(score_bars([], highest=1.0, title="t"), "rect") == []


def test_columns_stack_to_the_height_of_their_sum() -> None:
    columns = [
        (1, [Segment(0.25, "#000000", "a"), Segment(0.75, "#111111", "b")]),
        (2, [Segment(0.5, "#000000", "a"), Segment(0.5, "#111111", "b")]),
    ]
    svg = round_columns(columns, highest=1.0, title="t", tick=str)

    a1, b1, a2, b2 = (numbers(rect, "y", "height") for rect in parts(svg, "rect"))
    assert b1[1] == pytest.approx(3 * a1[1], abs=0.03)
    assert a2[1] == pytest.approx(2 * a1[1], abs=0.03)
    assert b1[0] + b1[1] == pytest.approx(a1[0], abs=0.02)
    assert b1[0] == pytest.approx(b2[0], abs=0.02)


def test_curves_run_through_their_points_with_equal_steps_between_rounds() -> None:
    line = Line("icu", [(1, 2.0), (2, 1.5), (3, 1.0)], "#000000")
    svg = round_lines([line], values=(1.0, 2.0), title="t")

    (curve,) = parts(svg, "polyline")
    (x1, y1), (x2, y2), (x3, y3) = (
        [float(v) for v in point.split(",")] for point in curve.get("points", "").split()
    )
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.02)
    assert y1 < y3  # a higher loss is drawn higher up
    assert "icu" in [text.text for text in parts(svg, "text")]


def test_a_logarithmic_axis_gives_every_tenfold_the_same_room() -> None:
    line = Line("a", [(1, 1e6), (2, 1e7), (3, 1e9)], "#000000")
    svg = round_lines([line], values=(1e6, 1e9), title="t", log=True)

    y = [numbers(circle, "cy")[0] for circle in parts(svg, "circle")]
    assert y[1] - y[2] == pytest.approx(2 * (y[0] - y[1]), abs=0.03)


@pytest.mark.parametrize(
    ("ci95", "hollow"),
    [((0.1, 0.3), False), ((-0.3, -0.1), False), ((-0.1, 0.3), True), ((0.0, 0.3), True)],
)
def test_a_difference_is_hollow_exactly_if_its_interval_holds_zero(
    ci95: tuple[float, float], hollow: bool
) -> None:
    svg = difference_mark(sum(ci95) / 2, ci95, reach=(-0.4, 0.4), title="t")

    (dot,) = parts(svg, "circle")
    assert ("hollow" in dot.get("class", "").split()) is hollow


def test_names_are_escaped_and_shown_in_full_as_a_tip() -> None:
    name = '<script>"&' + "x" * 60
    svg = score_bars([Bar(name, 0.5, None, "#000000")], highest=1.0, title=name)

    assert "<script" not in svg
    assert name in [tip.text for tip in parts(svg, "title")]
    assert ElementTree.fromstring(svg).get("aria-label") == name


def test_a_hundred_rounds_do_not_write_their_numbers_over_each_other() -> None:
    columns = [(r, [Segment(1.0, "#000000", "a", label="33 %")]) for r in range(1, 101)]
    svg = round_columns(columns, highest=1.0, title="t", tick=str)

    labels = [text.text for text in parts(svg, "text")]
    assert "33 %" not in labels
    assert sum((label or "").isdigit() for label in labels) <= 14


@settings(max_examples=60)
@given(finite, finite, st.integers(2, 8))
def test_axis_steps_are_equal_and_cover_the_values(a: float, b: float, most: int) -> None:
    low, high = sorted((a, b))
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low + 1.0
    steps = round_steps(low, high, most)

    tolerance = 1e-6 * max(1.0, abs(low), abs(high))
    assert steps[0] <= low + tolerance
    assert steps[-1] >= high - tolerance
    assert 2 <= len(steps) <= most + 1
    gaps = [after - before for before, after in pairwise(steps)]
    assert max(gaps) - min(gaps) <= tolerance


@pytest.mark.parametrize("value", [0.0, 3.7, -2.0])
def test_an_axis_of_a_single_value_has_a_length(value: float) -> None:
    steps = round_steps(value, value)

    assert steps[0] <= value <= steps[-1]
    assert steps[0] < steps[-1]


@settings(max_examples=60)
@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_are_spread_without_overlap_and_in_order(wanted: list[float]) -> None:
    placed = spread(wanted, 10, 0, 100)

    ordered = sorted(placed)
    assert all(after - before >= 10 - 1e-6 for before, after in pairwise(ordered))
    assert all(-1e-6 <= y <= 100 + 1e-6 for y in placed)
    for i, first in enumerate(wanted):
        assert all(placed[i] < placed[j] for j, other in enumerate(wanted) if first < other)


@given(st.text(max_size=40), st.integers(3, 30))
def test_a_shortened_name_keeps_its_ends(text: str, most: int) -> None:
    short = shortened(text, most)

    assert len(short) <= most
    if len(text) > most:
        head, _, tail = short.rpartition("…") if "…" not in text else (short[:1], "", short[-1:])
        assert text.startswith(head)
        assert text.endswith(tail)
    else:
        assert short == text


def test_ink_on_every_colour_of_the_palette_has_enough_contrast() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in PALETTE:
        ink = "#ffffff" if is_dark(colour) else "#10202f"
        bright, dim = sorted((luminance(ink), luminance(colour)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.0, colour
