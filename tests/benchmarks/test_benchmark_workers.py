"""Objects in processes of their own: their answers, their faults, and memory that is theirs."""

from __future__ import annotations

import os

import pytest

from benchmarks.harness.workers import Inline, Worker, WorkerError, peak_memory_bytes, worker
from fedmedlora.core.errors import ConfigError, FedMedLoRAError

MIB = 2**20


class Counter:
    """Lives in a worker, and keeps what it was told."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ConfigError("counter: expected a start >= 0.")
        self.total = start
        self.held = b""

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def hold(self, num_bytes: int) -> None:
        self.held = bytes([1]) * num_bytes

    def process(self) -> int:
        return os.getpid()

    def fail(self, kind: str) -> None:
        if kind == "ours":
            raise ConfigError("counter: told to fail.")
        if kind == "other":
            raise ZeroDivisionError("told to fail")
        os._exit(3)


def test_a_worker_keeps_its_state_between_calls_in_a_process_of_its_own() -> None:
    with Worker(Counter, 5) as counter:
        assert [counter.ask("add", 2).value, counter.ask("add", 3).value] == [7, 10]
        answer = counter.ask("process")
    assert answer.value != os.getpid()
    assert answer.seconds >= 0


def test_the_memory_of_a_worker_is_its_own_and_not_that_of_who_started_it() -> None:
    held = bytes([1]) * 300 * MIB
    assert peak_memory_bytes() > len(held)

    with Worker(Counter, 0) as counter:
        before = counter.made.peak_memory_bytes
        grown = counter.ask("hold", 200 * MIB).peak_memory_bytes
        kept = counter.ask("hold", 0).peak_memory_bytes

    assert before < len(held)
    assert 190 * MIB < grown - before < 250 * MIB
    assert kept > grown - MIB  # the peak, not what is held now; Linux counts it in shares
    assert len(held) == 300 * MIB


def test_faults_of_a_worker_are_told_and_say_what_went_wrong() -> None:
    with pytest.raises(FedMedLoRAError, match="expected a start"):
        Worker(Counter, -1)
    for kind, error, told in (
        ("ours", FedMedLoRAError, "told to fail"),
        ("other", WorkerError, "ZeroDivisionError: told to fail"),
        ("death", WorkerError, "died with exit code 3"),
    ):
        with Worker(Counter, 0) as counter, pytest.raises(error, match=told):
            counter.ask("fail", kind)


def test_inline_the_same_object_answers_in_this_process() -> None:
    with worker(False, Counter, 5) as counter:
        assert isinstance(counter, Inline)
        assert [counter.ask("add", 2).value, counter.ask("add", 3).value] == [7, 10]
        assert counter.ask("process").value == os.getpid()
        with pytest.raises(ConfigError, match="told to fail"):
            counter.ask("fail", "ours")
