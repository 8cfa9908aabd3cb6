"""How figures are written for people: points, intervals, bytes, durations."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"


def points(value: float) -> str:
    """A ratio in points with one decimal: 0.512 is `51.2`."""
    # Adding 0.0 makes a rounded -0.0 positive.
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", MINUS)


def signed_points(value: float) -> str:
    """A difference in points with its sign."""
    text = points(value)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def interval(ci95: tuple[float, float] | None) -> str:
    """`45.1 to 57.0`, or nothing where there is no interval."""
    return "" if ci95 is None else f"{points(ci95[0])} to {points(ci95[1])}"


def includes_zero(ci95: tuple[float, float]) -> bool:
    """Whether a difference may well be none."""
    return ci95[0] <= 0 <= ci95[1]


def num_bytes(value: float) -> str:
    """Bytes in the decimal unit that leaves one to three digits before the point."""
    unit, divisor = byte_unit(value)
    return f"{value / divisor:,.0f} {unit}" if unit == "B" else f"{value / divisor:,.1f} {unit}"


def byte_unit(value: float) -> tuple[str, float]:
    """The unit for values up to this one, and its bytes."""
    for unit, divisor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= divisor:
            return unit, divisor
    return "B", 1.0


def duration(seconds: float) -> str:
    """Seconds as `0.8 s`, `42 s`, `3 min 05 s` or `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(value: float) -> str:
    """A share with two significant digits: `1.9 %`, `0.53 %`, `45 %`."""
    scaled = 100 * value
    digits = 0 if scaled >= 10 else 1 if scaled >= 1 else 2
    return f"{scaled:.{digits}f} %"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


FigureName = tuple[str, str, str | None]
"""Task, what was given, linker."""

_FIGURE_TITLES: dict[FigureName, str] = {
    ("entities", "predicted", None): "entities",
    ("modifiers", "predicted", None): "modifiers, end to end",
    ("modifiers", "gold", None): "modifier tagging with gold entities",
    ("relations", "predicted", "model"): "relations, end to end",
    ("relations", "predicted", "rules"): "relations by the rule linker, end to end",
    ("relations", "gold", "model"): "relations with gold entities",
    ("relations", "gold", "rules"): "relations by the rule linker, with gold entities",
    ("relations", "gold-spans", "rules"): "relations by the rule linker, on gold mentions",
}


def figure_title(figure: FigureName) -> str:
    """What a score beyond entities is called: `modifier tagging with gold entities`."""
    return _FIGURE_TITLES.get(figure, ", ".join(filter(None, figure)))
