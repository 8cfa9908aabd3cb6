"""A study's updates wait on disk until they are merged, and nobody can tell from its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.exchange import SiteUpdate
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.study import run as study_run
from fedmedlora.study.config import StudyConfig

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]
RESULTS = ("adapters/**/*.safetensors", "predictions/*", "scores.json")


def results(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for pattern in RESULTS
        for file in sorted(path.glob(pattern))
    }


def test_updates_are_on_disk_when_they_are_merged_and_the_results_are_those_of_memory(
    small: Small, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory: list[bool] = []
    aggregate = FedAvg.aggregate

    def watched(self: FedAvg, updates: Iterable[SiteUpdate], context: Any) -> Any:
        given = list(updates)
        in_memory.extend(isinstance(update.adapter.pairs, dict) for update in given)
        return aggregate(self, given, context)

    monkeypatch.setattr(FedAvg, "aggregate", watched)
    spooled = run(small())
    assert in_memory == [False] * 4  # two sites, two rounds

    class Holding(InProcessRuntime):
        def __init__(self, *given: Any, work: Path, **named: Any) -> None:
            super().__init__(*given, **named)

    monkeypatch.setattr(study_run, "InProcessRuntime", Holding)
    held = run(small())
    assert in_memory[4:] == [True] * 4

    assert len(results(spooled)) >= 4
    assert results(spooled) == results(held)
    assert not (spooled / "work").exists()
