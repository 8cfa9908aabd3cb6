"""The check of verified copying against step by step, on a study of tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import exactness
from benchmarks.ways.regret import regrets
from fedmedlora.core.document import Document, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.prompts.registry import get_format
from fedmedlora.study.run import start_study
from fedmedlora.study.study_file import load_study
from fedmedlora.testing.studies import write_tiny_study
from fedmedlora.testing.tiny import tiny_base


def test_in_float32_both_give_the_same_answers(tmp_path: Path) -> None:
    study = load_study(write_tiny_study(tmp_path), ["federation.rounds=1"])
    run = start_study(study, tmp_path / "runs", SilentObserver()).path
    lines: list[str] = []
    found = exactness.run(exactness.Config(run=run, batch_size=4, threads=1), lines.append)

    assert found["targets"]["E-choice"].value < 1e-4
    assert found["targets"]["E-F1"].value == 0
    (table,) = found["tables"]
    assert len(lines) == len(table["rows"]) == len(study.sites) + len(study.cohorts)
    assert all(row[1] == row[3] and row[7] > 0 for row in table["rows"])


def test_a_choice_that_is_not_the_best_costs_its_distance(tmp_path: Path) -> None:
    base, tags = tiny_base(tmp_path, seed=1), get_format("compact")
    text = "fever and pain were seen, no cough"
    labels = ("problem", "drug")
    prompt = tags.prompt(Document("n", text), Span(0, len(text)), labels)
    (right,) = StepDecoder(base, tags).decode([prompt], lambda _: None)
    assert max(regrets(base, tags, [prompt], [right], batch_size=1)) < 1e-4

    wrong = WindowAnswer((FoundSpan("drug", 0, 5, -1.0), FoundSpan("problem", 15, 19, -1.0)))
    costs = regrets(base, tags, [prompt], [wrong], batch_size=1)
    assert wrong.spans != right.spans
    assert max(costs) > 0.01
    assert min(costs) == 0


def test_a_run_must_be_named() -> None:
    with pytest.raises(ConfigError, match="--set run="):
        exactness.run(exactness.Config(), print)
