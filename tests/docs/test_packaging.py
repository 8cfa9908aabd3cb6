"""What is installed: every dependency has a pin inside its range, and CI runs what exists."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from fedmedlora import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = [line for line in LINES if not line.startswith("#")]
VERSIONS = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in PINS}
DECLARED = [
    requirement
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, group)
    if requirement.name != "fedmedlora"
]


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_pinned_inside_the_range_that_we_declare(
    requirement: Requirement,
) -> None:
    pin = VERSIONS[requirement.name.lower().replace("_", "-")]

    assert Version(pin) in requirement.specifier


def test_pins_are_exact_public_versions_in_order_and_name_no_place() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in PINS)
    assert sorted(PINS, key=str.lower) == PINS
    assert not any(mark in line for line in LINES for mark in ("://", " @ ", "--index", "--find"))


def test_the_version_is_the_same_wherever_it_stands() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")

    assert PROJECT["version"] == __version__
    assert f"\nversion: {__version__}\n" in citation


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")

    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_what_ci_runs_can_be_run_and_is_made_of_targets_that_exist() -> None:
    scripts = [ROOT / ".ci" / name for name in ("run", "fresh")]
    text = "\n".join(script.read_text("utf-8") for script in scripts)
    loop = re.search(r"^for target in (.*); do$", text, re.MULTILINE)
    assert loop is not None
    called = re.findall(r"^ *make --no-print-directory (?:-C \S+ )?([a-z-]+)", text, re.MULTILINE)
    used = {*loop[1].split(), *called}

    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert used <= set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert {"lint", "types", "layers", "demo", "test"} <= used
    assert re.search(r"^\.ci/fresh$", text, re.MULTILINE)
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o111


def test_the_sizes_of_the_demo_differ_in_their_study_only() -> None:
    # A make that runs these tests hands its own settings down.
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "FAST", "SIZE"}}

    def recipe(*settings: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", "demo", *settings]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout

    auto, small, large = recipe(), recipe("SIZE=S"), recipe("SIZE=L")

    assert auto.count("study choose --minutes 10 examples/demo-s.toml") == 1
    assert small.count("examples/demo-s.toml") == 1
    assert "study choose" not in small
    assert large == small.replace("examples/demo-s.toml", "examples/demo-l.toml")
    assert recipe("FAST=1") == small
    assert recipe("FAST=0") == auto
