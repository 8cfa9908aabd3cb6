"""The example studies are accepted, and those that `make demo` names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.corpora.synthetic import FIVE
from fedmedlora.study.study_file import load_study

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
DEMOS = re.findall(r"^DEMO_STUDY := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_study_is_accepted(path: Path) -> None:
    assert load_study(path).strategies


@pytest.mark.parametrize("demo", DEMOS)
def test_the_demo_trains_the_artificial_hospitals_and_holds_out_the_external_ones(
    demo: str,
) -> None:
    study = load_study(ROOT / demo)

    trained = {site.name for site in FIVE if site.role == "train"}
    assert {study.path_of(site) for site in study.sites} == {
        ROOT / "demo" / "hospitals" / name for name in trained
    }
    assert {cohort.name for cohort in study.cohorts} == {site.name for site in FIVE} - trained
    assert study.data.artificial
