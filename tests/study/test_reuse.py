"""What is the same in several arms is computed once, and the results are those of computing it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedmedlora.training.site as site_module
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.reuse import ReusingSite

Run = Callable[[StudyConfig], Path]
SHARING = (
    "arms.single_site=true",
    'strategies=[{name="fedmedlora-plus", mode="reference"}, {name="fedavg"}]',
    "cohorts=[]",
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often a site trained, by round."""
    counts: Counter[int] = Counter()
    train = site_module.train_locally

    def counted(model: Any, adapter: Any, examples: Any, plan: Any, *more: Any) -> Any:
        counts[plan.round_index] += 1
        return train(model, adapter, examples, plan, *more)

    monkeypatch.setattr(site_module, "train_locally", counted)
    return counts


def results(path: Path) -> dict[str, bytes]:
    files = [*path.glob("predictions/*"), *path.rglob("*.safetensors"), path / "scores.json"]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_the_first_round_of_a_site_is_trained_once_for_all_arms_with_equal_results(
    small: Callable[..., StudyConfig],
    run: Run,
    trained: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = run(small(*SHARING))
    # Round 1: two sites. Round 2: two single sites, and two sites for each of two strategies.
    assert trained == {1: 2, 2: 6}

    trained.clear()
    handle = ReusingSite.handle

    def forgetting(self: ReusingSite, request: Any) -> Any:
        shutil.rmtree(self._folder, ignore_errors=True)
        return handle(self, request)

    monkeypatch.setattr(ReusingSite, "handle", forgetting)
    alone = run(small(*SHARING))

    assert trained == {1: 6, 2: 6}
    assert results(alone) == results(shared)


def test_nothing_is_shared_where_no_arm_trains_the_same(
    small: Callable[..., StudyConfig], run: Run, trained: Counter[int]
) -> None:
    run(small("arms.centralized=true"))

    assert trained == {1: 3, 2: 3}


def test_kept_updates_are_gone_once_the_run_is_finished(
    small: Callable[..., StudyConfig], run: Run
) -> None:
    path = run(small())

    assert not list(path.rglob("*.update"))
    assert not (path / "work").exists()


def test_another_seed_or_another_setting_shares_nothing(
    small: Callable[..., StudyConfig], run: Run, trained: Counter[int]
) -> None:
    first = run(small())
    second = run(small("seed=4"))
    third = run(small("training.learning_rate=2e-2"))

    assert trained == {1: 6, 2: 6}
    finals = [
        (path / "adapters" / "round-002" / "adapter_model.safetensors").read_bytes()
        for path in (first, second, third)
    ]
    assert len(set(finals)) == 3
