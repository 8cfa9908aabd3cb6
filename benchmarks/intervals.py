"""The document bootstrap against scipy's: how long, and how far apart the intervals are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.harness.targets import Measured
from benchmarks.harness.timing import interleave_charged, seconds_of
from fedmedlora.core.errors import ConfigError
from fedmedlora.evaluation.intervals import estimate_f1, interval
from fedmedlora.evaluation.significance import randomisation_p

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Config:
    """How many documents and draws, and how often."""

    documents: int = 1_000
    draws: int = 10_000
    repetitions: int = 9
    corpora: int = 10
    """How many sets of documents the two intervals are compared on."""
    batches: tuple[int, ...] = (10, 100, 1_000, 10_000)
    """scipy's batch sizes to search; the fastest one is used."""
    sizes: tuple[int, ...] = (100, 1_000, 5_000)
    """Numbers of documents of the table by size."""
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "documents": 30,
    "draws": 200,
    "repetitions": 2,
    "corpora": 2,
    "batches": [100],
    "sizes": [10, 20],
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module.

    Raises:
        ConfigError: scipy is not installed.
    """
    try:
        import scipy  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            "intervals: scipy is not installed; it comes with the extra dev."
        ) from None
    torch.set_num_threads(1)  # the record says it; numpy's threads are those of the variables there
    load = f"{os.getloadavg()[0]:.1f}"  # what others did just before
    counts = _made_up_counts(config.documents, config.seed)
    search = {
        batch: seconds_of(lambda batch=batch: _scipy(counts, config.draws, batch))  # type: ignore[misc]
        for batch in config.batches
    }
    batch = min(search, key=lambda size: search[size])
    say(f"scipy is fastest with batches of {batch}")
    taken = interleave_charged(
        {
            "ours": lambda: estimate_f1(counts, num_draws=config.draws).ci95,
            "scipy, percentile": lambda: _scipy(counts, config.draws, batch),
            "scipy, BCa": lambda: _scipy(counts, config.draws, batch, "BCa"),
            "ours, approximate randomisation": lambda: randomisation_p(
                counts, counts[::-1], num_swaps=config.draws - 1
            ),
        },
        config.repetitions,
    )
    intervals = [_compare(config, seed, batch) for seed in range(config.corpora)]
    apart = [row[-1] for row in intervals]
    say(f"the ends of the intervals are at most {max(apart):.3f} points apart")
    return {
        "setting": {
            "documents": config.documents,
            "draws": config.draws,
            "load_average_before": load,
        },
        "scipy": scipy.__version__,
        "scipy_seconds_by_batch": {str(size): seconds for size, seconds in search.items()},
        "targets": {
            "T13": Measured(median(taken.processor["ours"]), taken.processor["ours"]),
            "T13-interval": Measured(max(apart), apart),
        },
        "tables": [
            {
                "title": f"{config.draws:,} draws of {config.documents:,} documents",
                "columns": ["way", "seconds", "lowest to highest", "seconds by the clock"],
                "rows": [
                    [way, median(seconds), [min(seconds), max(seconds)], median(taken.clock[way])]
                    for way, seconds in taken.processor.items()
                ],
                "note": f"scipy {scipy.__version__}, in batches of {batch:,} draws, its fastest. "
                "Seconds are those of the processor but where the clock is named.",
            },
            {
                "title": "95 % intervals of F1, in points",
                "columns": ["documents of seed", "F1", "ours", "scipy", "ends apart by at most"],
                "rows": intervals,
            },
            {
                "title": "Seconds by number of documents",
                "columns": ["documents", "ours", "scipy, percentile"],
                "rows": [_by_size(config, size, batch) for size in config.sizes],
            },
        ],
    }


def _made_up_counts(num_documents: int, seed: int) -> NDArray[np.int64]:
    """tp, fp, fn of documents of which some are harder than others."""
    rng = np.random.default_rng(seed)
    num_gold = rng.poisson(12, num_documents)
    found = rng.binomial(num_gold, np.clip(rng.normal(0.8, 0.12, num_documents), 0, 1))
    return np.stack([found, rng.poisson(2, num_documents), num_gold - found], axis=1)


def _f1(
    tp: NDArray[np.int64], fp: NDArray[np.int64], fn: NDArray[np.int64], axis: int
) -> NDArray[np.float64]:
    hits = 2 * tp.sum(axis)
    ratio: NDArray[np.float64] = hits / (hits + fp.sum(axis) + fn.sum(axis))
    return ratio


def _scipy(
    counts: NDArray[np.int64], num_draws: int, batch: int, method: str = "percentile"
) -> tuple[float, float]:
    from scipy import stats

    found = stats.bootstrap(
        tuple(counts.T),
        _f1,
        paired=True,
        vectorized=True,
        n_resamples=num_draws,
        batch=min(batch, num_draws),
        method=method,
        rng=np.random.default_rng(1),
    ).confidence_interval
    return float(found.low), float(found.high)


def _compare(config: Config, seed: int, batch: int) -> list[Any]:
    """The two intervals of one set of documents, in points."""
    counts = _made_up_counts(config.documents, seed)
    estimate = estimate_f1(counts, num_draws=config.draws, seed=seed)
    ours, theirs = interval(estimate.draws), _scipy(counts, config.draws, batch)
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    ends = [[100 * end for end in each] for each in (ours, theirs)]
    return [seed, 100 * estimate.value, *ends, 100 * apart]


def _by_size(config: Config, num_documents: int, batch: int) -> list[Any]:
    counts = _made_up_counts(num_documents, config.seed)
    taken = interleave_charged(
        {
            "ours": lambda: estimate_f1(counts, num_draws=config.draws).ci95,
            "scipy": lambda: _scipy(counts, config.draws, batch),
        },
        min(3, config.repetitions),
    )
    return [num_documents, *(median(seconds) for seconds in taken.processor.values())]
