"""The example studies are accepted, and those that `make demo` names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.corpora.synthetic import FIVE
from fedmedlora.study.study_file import load_study

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
DEMOS = re.findall(r"^DEMO_[SML] := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


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


def test_each_size_of_the_demo_says_which_it_is_and_what_it_cannot_show() -> None:
    assert len(DEMOS) == 3
    for size, demo in zip("SML", DEMOS, strict=True):
        about = load_study(ROOT / demo).about

        assert about.startswith(f"Size {size} of S, M and L")
        assert "cannot" in about


def test_the_sizes_of_the_demo_that_are_chosen_from_are_those_that_can_be_forced() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    listed = re.search(r"^DEMO_STUDIES := (.*)$", text, re.MULTILINE)

    assert listed is not None
    assert listed[1].split() == DEMOS


def test_the_study_with_wrong_labels_and_the_one_with_sound_ones_differ_in_nothing_else() -> None:
    flipped, sound = (
        load_study(ROOT / "examples" / f"{name}.toml").model_dump(mode="json")
        for name in ("real-label-flip", "real-weights")
    )
    damage = flipped["data"].pop("damage")

    assert damage["site"] in {site["name"] for site in flipped["sites"]}
    assert sound["data"].pop("damage") is None
    assert flipped.pop("name") != sound.pop("name")
    assert flipped == sound


def test_damage_can_be_added_to_a_sound_study_on_the_command_line() -> None:
    path = ROOT / "examples" / "real-weights.toml"
    told = re.search(r"--set '(data\.damage=.*)'", path.read_text("utf-8"))
    assert told is not None

    damage = load_study(path, [told[1]]).data.damage

    assert damage is not None
    assert (damage.site, damage.kind, damage.share) == ("phee", "permute-labels", 0.5)
