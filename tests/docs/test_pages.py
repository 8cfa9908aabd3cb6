"""The pages hold together: links lead somewhere, words that would promise too much are absent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """The page without code, in which brackets mean something else."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def links(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that a code host makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of a page that lead to nothing in this repository."""
    faults = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            faults.append(link)
    return faults


def test_the_pages_that_a_project_needs_are_among_those_checked() -> None:
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/concepts.md"} <= set(NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#other) [c](gone.md) [d](page.md)\n")

    assert broken(page) == ["#other", "gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_promises_what_software_cannot_keep(page: Path) -> None:
    words = " ".join(page.read_text("utf-8").split())

    assert not re.search(r"(hipaa|gdpr)[- ]complian", words, re.IGNORECASE)
    assert not re.search(r"\b(guarantees|ensures) (privacy|anonymity)", words, re.IGNORECASE)


def test_the_page_of_concepts_knows_every_package_that_data_flows_through() -> None:
    concepts = (ROOT / "docs" / "concepts.md").read_text("utf-8")

    flow = [
        "corpora",
        "prompts",
        "training",
        "aggregation",
        "federation",
        "inference",
        "evaluation",
    ]
    for package in [*flow, "report"]:
        assert f"../src/fedmedlora/{package}" in concepts
