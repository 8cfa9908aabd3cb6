"""Whole runs of a strategy, with and without a crash in the middle."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.core.records import SilentObserver
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import Outcome, run_rounds
from fedmedlora.testing.adapters import DriftingSite, random_adapter
from fedmedlora.testing.law_cases import TALL_AND_WIDE, site_names
from fedmedlora.testing.scorers import ProbeScorer

if TYPE_CHECKING:
    from fedmedlora.aggregation.strategy import Memory, Strategy
    from fedmedlora.core.records import Observer, RoundRecord

NUM_ROUNDS = 3


class _CrashError(Exception):
    """The process dies; nothing of what it held in memory is left."""


class _Crashing(SilentObserver):
    def round_ended(self, record: RoundRecord) -> None:
        if record.round_index == 2:
            raise _CrashError


def uninterrupted(strategy: Strategy, num_sites: int, seed: int) -> tuple[Outcome, Memory]:
    """What a run of some rounds ends with, and what the strategy then remembers."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(strategy, num_sites, seed, Path(folder), SilentObserver())


def interrupted(strategy: Strategy, num_sites: int, seed: int) -> tuple[Outcome, Memory]:
    """The same of a run that died after its second round and was resumed from its files."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(strategy, num_sites, seed, Path(folder), _Crashing())
        except _CrashError:
            return _run(strategy, num_sites, seed, Path(folder), SilentObserver())
    raise AssertionError("the run did not crash")


def _run(
    strategy: Strategy, num_sites: int, seed: int, folder: Path, observer: Observer
) -> tuple[Outcome, Memory]:
    sites = {
        name: DriftingSite(name, number + 1) for number, name in enumerate(site_names(num_sites))
    }
    checkpoint = Checkpoint(folder)
    outcome = run_rounds(
        arm="law",
        strategy=copy.deepcopy(strategy),  # what it keeps in itself dies with the process
        runtime=InProcessRuntime(sites, FP32),
        sites=sites,
        num_rounds=NUM_ROUNDS,
        adapter=random_adapter(seed, rank=3, shapes=TALL_AND_WIDE, alpha=6.0),
        plan=LocalPlan(0),
        seed=seed,
        scorer=ProbeScorer(seed),
        checkpoint=checkpoint,
        observer=observer,
    )
    return outcome, checkpoint.load(NUM_ROUNDS).memory
