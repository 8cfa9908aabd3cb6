"""Timing side by side: repetitions interleaved, ratios paired, batch sizes searched."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from benchmarks.harness.targets import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Item = TypeVar("Item")


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes, until the GPU is done too where there is one."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def interleave(
    ways: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, list[float]]:
    """Seconds of each repetition by way, measured in the order A B A B ..."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, work in ways.items():
            taken[name].append(seconds_of(work))
    return taken


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of each repetition by way: those of this process alone, and those of the clock."""

    processor: dict[str, list[float]]
    clock: dict[str, list[float]]


def interleave_charged(ways: Mapping[str, Callable[[], object]], repetitions: int) -> Taken:
    """As `interleave`, for work of one thread on a machine that others use, too.

    The seconds of the processor leave out the time that others had it, all threads of this process
    together.
    """
    processor: dict[str, list[float]] = {name: [] for name in ways}

    def charged(name: str) -> Callable[[], None]:
        def work() -> None:
            started = time.process_time()
            ways[name]()
            processor[name].append(time.process_time() - started)

        return work

    return Taken(processor, interleave({name: charged(name) for name in ways}, repetitions))


def ratio(above: Sequence[float], below: Sequence[float]) -> Measured:
    """The median of the ratios of neighbouring repetitions.

    Neighbours share the machine's mood, so a slow minute does not count for one side only.
    """
    each = [a / b for a, b in zip(above, below, strict=True)]
    return Measured(statistics.median(each), each)


def middle(ordered: Sequence[Item], count: int) -> Sequence[Item]:
    """`count` neighbours from the middle of an ordered list: a batch of common length."""
    start = max(0, (len(ordered) - count) // 2)
    return ordered[start : start + count]


def spread(ordered: Sequence[Item], count: int) -> list[Item]:
    """`count` items spread evenly over an ordered list; all if there are no more."""
    count = min(count, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
