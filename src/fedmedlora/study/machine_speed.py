"""What a training step costs on this machine, now, with more threads or more workers: measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TURNS = 3
# After so long no further turn is begun, of threads and then of workers; each way has had one.
_MOST_SECONDS = 1.0
# A way whose first step takes so many times as long as another's is not tried again.
_HOPELESS = 4.0
# Where a step takes longer, what it must make anew is a small part of it.
_LONG_SECONDS = 0.6
# More threads must be worth it, and workers, which take memory and start slowly, much more so.
_MORE_THREADS, _MORE_WORKERS = 1.05, 1.25


@dataclass(frozen=True, slots=True)
class Way:
    """Steps that run at one time, each with so many threads."""

    threads: int
    at_a_time: int = 1


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """How this machine trains best.

    Attributes:
        threads: Of a single process.
        workers: Processes that train several sites faster than one process does; 0 if none do.
        tokens_per_second: Of training in one process.
        gain: How many times as much the workers do together; 1 without.
        alone: How many times as much one of them does when it alone has work; 1 without.
        cores: Processors that this process may use.
        seconds: Of one layer's step, by way.
    """

    threads: int
    workers: int
    tokens_per_second: float
    gain: float = 1.0
    alone: float = 1.0
    cores: int = 1
    seconds: tuple[tuple[Way, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `environment.json`."""
        return {
            "threads": self.threads,
            "workers": self.workers,
            "tokens_per_second": round(self.tokens_per_second, 2),
            "gain_of_workers": round(self.gain, 3),
            "gain_of_one_worker": round(self.alone, 3),
            "usable_cores": self.cores,
            "layer_steps": [
                {"threads": way.threads, "at_a_time": way.at_a_time, "seconds": round(taken, 6)}
                for way, taken in self.seconds
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MachineSpeed:
        """What `to_json` wrote, without the single measurements."""
        return cls(
            int(data["threads"]),
            int(data["workers"]),
            float(data["tokens_per_second"]),
            float(data["gain_of_workers"]),
            float(data["gain_of_one_worker"]),
            int(data["usable_cores"]),
        )

    def factor(self, num_sites: int) -> float:
        """How much faster than `tokens_per_second` an arm of so many equal sites trains.

        Workers take them in waves, of which the last may be a small one.
        """
        if self.workers < 2 or not num_sites:
            return 1.0
        waves, rest = divmod(num_sites, self.workers)
        taken = waves * self.workers / self.gain
        if rest:  # the last wave leaves workers idle
            share = (rest - 1) / (self.workers - 1)
            taken += rest / (self.alone + (self.gain - self.alone) * share)
        return num_sites / taken


def best_speed(
    timed: Callable[[Way], float],
    *,
    threads: Sequence[int],
    cores: int,
    most_workers: int,
    layer_tokens: float,
    clock: Callable[[], float] = time.perf_counter,
) -> MachineSpeed:
    """The fastest of these numbers of threads; then whether workers that share them are faster.

    Args:
        timed: Seconds that one layer's steps take in a way, tried once.
        threads: Numbers of threads to try.
        cores: Processors that may be used; workers never have more threads in all.
        most_workers: As many sites as there are to train side by side.
        layer_tokens: Tokens of a step, divided by the number of layers.
        clock: Bounds the time that is spent.
    """
    usual = _measured([Way(number) for number in sorted(set(threads))], timed, clock)
    fastest = min(usual.values())
    chosen, taken = next((w, s) for w, s in usual.items() if s <= fastest * _MORE_THREADS)
    speed = MachineSpeed(
        chosen.threads, 0, layer_tokens / taken, cores=cores, seconds=tuple(usual.items())
    )
    workers = min(cores, most_workers)
    if workers < 2:
        return speed
    share = Way(max(1, chosen.threads // workers))
    together = Way(share.threads, workers)
    again = _measured(list(dict.fromkeys([chosen, share, together])), timed, clock)
    gain = workers * again[chosen] / again[together]
    seconds = (*speed.seconds, *again.items())
    if gain < _MORE_WORKERS:
        return MachineSpeed(
            chosen.threads, 0, speed.tokens_per_second, cores=cores, seconds=seconds
        )
    return MachineSpeed(
        chosen.threads,
        workers,
        speed.tokens_per_second,
        gain,
        again[chosen] / again[share],
        cores,
        seconds,
    )


def _measured(
    ways: Sequence[Way], timed: Callable[[Way], float], clock: Callable[[], float]
) -> dict[Way, float]:
    """The usual seconds of each way: in turns, so that what else happens meets all of them.

    The median, not the best: what others take of this machine is to count.
    """
    started = clock()
    first = {way: timed(way) for way in ways}  # pays for what is made once
    hopeless = {way: s for way, s in first.items() if s > _HOPELESS * min(first.values())}
    taken: dict[Way, list[float]] = {way: [] for way in ways if way not in hopeless}
    for turn in range(_TURNS):
        if turn and clock() - started > _MOST_SECONDS:
            break
        for way, times in taken.items():
            if first[way] < _LONG_SECONDS:
                timed(way)  # oneDNN's programs, of which the way before has taken the place
            times.append(timed(way))
    return {way: median(taken[way]) if way in taken else hopeless[way] for way in ways}


def thread_counts(cores: int, real_cores: int) -> list[int]:
    """1, 2, 4 ... threads, one a real core, and one a processor."""
    powers = {1 << power for power in range(cores.bit_length()) if 1 << power < cores}
    return sorted(powers | {cores, min(cores, real_cores)})
