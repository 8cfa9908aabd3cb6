"""docs/results.md holds what the committed records say; docs/benchmarks.md what can be run."""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.render import PAGE, RESULTS, UnfitRecordError, page, read_records
from benchmarks.run import find, names

if TYPE_CHECKING:
    from tests.benchmarks.conftest import QuickRun

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fit(extraction: QuickRun) -> dict[str, Any]:
    """A record as a full run would write it."""
    record = copy.deepcopy(extraction.record) | {"quick": False, "name": "some-name"}
    for row in record["targets"]:
        row["measurements"] = (2 * row["measurements"])[:5]
    return record


def test_the_page_is_what_the_committed_records_give() -> None:
    assert PAGE.read_text("utf-8") == page(read_records(RESULTS)), (
        "run: python benchmarks/render.py"
    )


def test_every_figure_of_a_record_is_on_its_page(fit: dict[str, Any]) -> None:
    fit["targets"][0] |= {"value": 7.126, "target": 6, "met": True, "stretch": 9}
    text = page([fit])

    [row] = re.findall(r"^\| T1a .*$", text, re.MULTILINE)
    assert [cell.strip() for cell in row.split("|")][3::2][:3] == ["7.13", "at least 6", "9"]
    assert row.split("|")[6].strip() == "yes"
    for table in fit["results"]["tables"]:
        assert f"### {table['title']}" in text
    num_rows = sum(len(table["rows"]) + 2 for table in fit["results"]["tables"])
    num_rows += len(fit["targets"]) + 2
    assert sum(line.startswith("|") for line in text.splitlines()) == num_rows


def test_a_quick_record_is_refused(fit: dict[str, Any]) -> None:
    with pytest.raises(UnfitRecordError, match="quick"):
        page([fit | {"quick": True}])


def test_a_ratio_of_too_few_repetitions_is_refused(fit: dict[str, Any]) -> None:
    fit["targets"][0]["measurements"] = [1.0] * 4

    with pytest.raises(UnfitRecordError, match="at least 5 measurements, got 4"):
        page([fit])


def commands() -> list[str]:
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "benchmarks/" in line]


@pytest.mark.parametrize("line", commands())
def test_every_command_on_the_page_names_files_benchmarks_and_settings_that_exist(
    line: str,
) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    if words[1].endswith("run.py"):
        assert words[2] in names()
        settings = [w.partition("=")[0] for before, w in pairwise(words) if before == "--set"]
        assert set(settings) <= {field.name for field in fields(find(words[2]).Config)}


def test_every_benchmark_is_on_the_page() -> None:
    run = {shlex.split(line)[2] for line in commands() if "run.py" in line}

    assert run == set(names())
