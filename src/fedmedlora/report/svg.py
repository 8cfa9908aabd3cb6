"""SVG drawn by hand: elements, text that fits, and axes with round numbers.

Elements go through `xml.etree`, so that whatever a name holds is escaped and the result is
well-formed. Colours of text and lines come from the style sheet of the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

# Okabe and Ito's colours, told apart with every common form of colour blindness. Yellow is last:
# it is weak on white.
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a5c99",
    "#f0e442",
)
GREY, DARK, LIGHT_BLUE, PALE_BLUE = "#bdbdbd", "#7f7f7f", "#56b4e9", "#a9d6f0"
PURPLE = "#7a5c99"
CHARACTER_WIDTH = 7.1  # of the 12 px text of the page in a wide font


class Drawing:
    """An SVG of fixed inner size, scaled by the page; `title` is read out by screen readers."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.root = ElementTree.Element(
            "svg",
            {
                "viewBox": f"0 0 {_number(width)} {_number(height)}",
                "width": _number(width),
                "height": _number(height),
                "role": "img",
                "aria-label": title,
            },
        )

    def add(
        self, tag: str, text: str | None = None, *, tip: str | None = None, **attributes: object
    ) -> None:
        """Adds an element; `tip` shows when the pointer rests on it. `_` in names becomes `-`."""
        plain = {
            name.rstrip("_").replace("_", "-"): _number(v) if isinstance(v, float) else str(v)
            for name, v in attributes.items()
            if v is not None
        }
        element = ElementTree.SubElement(self.root, tag, plain)
        element.text = text
        if tip is not None:
            ElementTree.SubElement(element, "title").text = tip

    def text(
        self, x: float, y: float, text: str, *, class_: str | None = None, tip: str | None = None
    ) -> None:
        """Adds text whose middle line is at `y`."""
        self.add("text", text, tip=tip, x=float(x), y=float(y) + 4.2, class_=class_)

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        """Adds a straight line."""
        self.add("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)

    def to_text(self) -> str:
        """The SVG as markup."""
        return ElementTree.tostring(self.root, encoding="unicode")


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def is_dark(colour: str) -> bool:
    """Whether white text is easier to read on this `#rrggbb` than black text."""
    red, green, blue = (math.pow(int(colour[i : i + 2], 16) / 255, 2.2) for i in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (1.05 / (luminance + 0.05)) > ((luminance + 0.05) / 0.05)


def shortened(text: str, most: int) -> str:
    """The text with its middle left out, if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = (most - 1 + 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def text_width(text: str) -> float:
    """About how wide the text is."""
    return CHARACTER_WIDTH * len(text)


def round_steps(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers at equal steps, from below `low` to above `high`."""
    span = high - low if high > low else (abs(high) or 1.0)
    step = 10 ** math.floor(math.log10(span / most))
    while True:
        for factor in (1, 2, 5):
            first = math.floor(low / (factor * step) + 1e-9)
            last = math.ceil(high / (factor * step) - 1e-9)
            last = max(last, first + 1)
            if last - first <= most:
                return [round(i * factor * step, 12) for i in range(first, last + 1)]
        step *= 10


def same_decimals(values: list[float]) -> list[str]:
    """The values with as many decimals as the one that needs most."""
    places = max(len(f"{value:.10f}".rstrip("0").partition(".")[2]) for value in values)
    return [f"{value:.{places}f}" for value in values]


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight mapping of values to positions."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near those wanted, in their order, at least `gap` apart where there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
