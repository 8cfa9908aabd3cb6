"""The worked example of docs/metrics.md is computed from the page itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.evaluate import evaluate_documents
from fedmedlora.evaluation.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
EXAMPLE = PAGE[PAGE.index("## Worked example") :]


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header line starts with `header`."""
    lines = EXAMPLE[EXAMPLE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [
        [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in lines
    ]


def document(label_column: int) -> Document:
    """Gold (column 0) or predicted (column 2) side of the example."""
    text = re.search(r"```text\n(.*)\n```", EXAMPLE)
    assert text is not None
    entities, links = [], []
    for row in rows("| gold | offsets"):
        label = row[label_column]
        if label.startswith("link"):
            links.append(re.findall(r"(\d+)-(\d+)", label))
        elif label:
            start, end = row[label_column + 1].split("-")
            entities.append(Entity.at(f"T{len(entities)}", label, int(start), int(end)))
    by_offsets = {(e.start, e.end): e.id for e in reversed(entities)}
    relations = [
        Relation(f"R{i}", "modifies", *(by_offsets[int(s), int(e)] for s, e in ends))
        for i, ends in enumerate(links)
    ]
    return Document("example", text[1], tuple(entities), tuple(relations))


@pytest.mark.parametrize("row", rows("| preset | block"), ids=lambda row: "-".join(row[:2]))
def test_the_worked_example_comes_out_as_the_page_says(row: list[str]) -> None:
    preset, block, *figures = row

    result = evaluate_documents([document(0)], [document(2)], PRESETS[preset], num_draws=10)

    micro = getattr(result, block).micro
    counts = [str(n) for n in (micro.tp, micro.fp, micro.fn)]
    assert counts + [f"{r:.3f}" for r in (micro.precision, micro.recall, micro.f1)] == figures


def test_the_page_defines_and_works_out_every_preset() -> None:
    assert {row[0] for row in rows("| preset | block")} == set(PRESETS)
    for name in PRESETS:
        assert f"| `{name}` | " in PAGE[: PAGE.index("## Worked example")]
