"""Writes docs/results.md from the records in benchmarks/results: `python benchmarks/render.py`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"
MIN_REPETITIONS = 5

_HEAD = """# Results of the benchmarks

This page is written by `python benchmarks/render.py` from the records in `benchmarks/results`, and
a test holds that nobody typed a figure into it. How they are made: [benchmarks.md](benchmarks.md).
Ratios are medians of repetitions that were interleaved in one process; absolute figures hold for
the machine that is named and for no other.
"""


class UnfitRecordError(ValueError):
    """A record whose figures must not be shown as results."""


def page(records: list[dict[str, Any]]) -> str:
    """The whole page; records in the order of their names.

    Raises:
        UnfitRecordError: A record is of a quick run, or a ratio has too few measurements.
    """
    if not records:
        return _HEAD + "\nNo record was committed yet.\n"
    return "\n".join([_HEAD, *(_section(record) for record in records)])


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, each with the name of its file."""
    return [
        json.loads(path.read_text("utf-8")) | {"name": path.stem}
        for path in sorted(folder.glob("*.json"))
    ]


def _section(record: dict[str, Any]) -> str:
    name = record["name"]
    if record["quick"]:
        raise UnfitRecordError(f"{name}: made with --quick, which proves nothing. Run it in full.")
    for row in record["targets"]:
        if row["unit"] == "x" and len(row["measurements"]) < MIN_REPETITIONS:
            raise UnfitRecordError(
                f"{name}, {row['id']}: expected at least {MIN_REPETITIONS} measurements, got "
                f"{len(row['measurements'])}. Raise repetitions."
            )
    parts = [f"## {name}\n", _origin(record)]
    if record["targets"]:
        parts.append(_targets(record["targets"]))
    for table in record["results"].get("tables", []):
        parts.append(f"### {table['title']} ({name})\n")
        parts.append(_markdown(table["columns"], table["rows"]))
        if table.get("note"):
            parts.append(f"{table['note']}\n")
    return "\n".join(parts)


def _origin(record: dict[str, Any]) -> str:
    hardware, packages = record["hardware"], record["packages"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    dirty = ", with changes that were not committed" if record["dirty"] else ""
    setting = record["results"].get("setting", {})
    facts = [
        f"{record['date_utc']}, commit `{record['commit'][:12]}`{dirty}",
        f"{record['seconds']:.0f} s in all, peak {record['peak_memory_bytes'] / 2**30:.1f} GiB",
        f"{hardware['cpu']}, {hardware['num_usable_cores']} usable cores, {record['threads']} "
        f"threads, {hardware['memory_gib']} GiB, {gpus}",
        f"{record['python']}, torch {packages['torch']}, transformers {packages['transformers']}",
    ]
    if setting:
        facts.append(
            ", ".join(
                f"{key.replace('_', ' ')} {value}"
                for key, value in setting.items()
                if isinstance(value, str | int)
            )
        )
    return "".join(f"- {fact}\n" for fact in facts)


def _targets(rows: list[dict[str, Any]]) -> str:
    columns = ["target", "what", "measured", "lowest to highest", "wanted", "met", "stretch", "met"]
    return _markdown(
        columns,
        [
            [
                row["id"],
                row["what"],
                row["value"],
                [min(row["measurements"]), max(row["measurements"])],
                f"{row['direction']} {_cell(row['target'])}",
                "yes" if row["met"] else "no",
                row["stretch"],
                None if row["stretch"] is None else "yes" if row["stretch_met"] else "no",
            ]
            for row in rows
        ],
    )


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    """A value for people: three digits that mean something, at least all before the point."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/render.py", description=__doc__)
    parser.parse_args(arguments)
    try:
        text = page(read_records(RESULTS))
    except UnfitRecordError as error:
        print(error, file=sys.stderr)
        return 2
    PAGE.write_text(text, "utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
