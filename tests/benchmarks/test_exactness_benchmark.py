"""The check of verified copying against step by step, on a study of tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import exactness
from benchmarks.ways.regret import recorded_choices, regrets
from fedmedlora.core.document import Document, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.cursor import CopyCursor
from fedmedlora.inference.path import AnswerPath
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
    assert len(lines) == len(table["rows"]) - 1 == len(study.sites) + len(study.cohorts)
    assert all(row[1] == row[3] and row[7] > 0 for row in table["rows"])


def test_a_choice_that_is_not_the_best_costs_its_distance(tmp_path: Path) -> None:
    base, tags = tiny_base(tmp_path, seed=1), get_format("compact")
    text = "fever and pain were seen, no cough"
    labels = ("problem", "drug")
    prompt = tags.prompt(Document("n", text), Span(0, len(text)), labels)
    with recorded_choices() as chosen:
        (right,) = CopyDecoder(base, tags).decode([prompt], lambda _: None)
    assert right.spans
    assert max(regrets(base, tags, [prompt], chosen, batch_size=1)) < 1e-4

    path = AnswerPath(CopyCursor(prompt, tags, base.tokenizer))
    path.forced()
    best = chosen["n", 0][0]
    (other,) = [token for token in path.candidates if token != best]
    path.follow(other)
    path.forced()
    wrong = [other]
    while not path.done:  # go on anyhow
        wrong.append(path.candidates[0])
        path.follow(wrong[-1])
        path.forced()
    costs = regrets(base, tags, [prompt], {("n", 0): wrong}, batch_size=1)
    assert costs[0] > 0.001
    assert min(costs) == 0


def test_a_run_must_be_named() -> None:
    with pytest.raises(ConfigError, match="--set run="):
        exactness.run(exactness.Config(), print)
