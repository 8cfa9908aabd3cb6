"""What a long command shows: bars in a terminal, plain lines now and then anywhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fedmedlora.cli.progress import SECONDS_BETWEEN_LINES, ConsoleObserver
from fedmedlora.core.records import RoundRecord


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedmedlora.cli.progress.time.monotonic", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Err = Callable[[], str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Err:
    """What went to stderr, which is no terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return lambda: capsys.readouterr().err


def test_a_log_file_gets_percent_and_time_left_every_twenty_seconds(
    clock: Clock, shown: Err
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("fedavg: training", 1000, "tokens")
        for _ in range(10):
            clock.now += 12
            observer.advance(100, loss=1.25)

    assert SECONDS_BETWEEN_LINES == 20
    assert shown().splitlines() == [
        "  fedavg: training: 20%, 1 min 36 s left (8.3 tokens/s)  loss 1.250",
        "  fedavg: training: 40%, 1 min 12 s left (8.3 tokens/s)  loss 1.250",
        "  fedavg: training: 60%, 48 s left (8.3 tokens/s)  loss 1.250",
        "  fedavg: training: 80%, 24 s left (8.3 tokens/s)  loss 1.250",
        "  fedavg: training: 100%, 0 s left (8.3 tokens/s)  loss 1.250",
        "  fedavg: training: 1,000 tokens in 2 min 00 s (8.3 tokens/s)",
    ]


def test_what_was_found_done_makes_neither_speed_nor_time_left_look_better(
    clock: Clock, shown: Err
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("fedavg: training", 1000, "tokens")
        clock.now += 21
        observer.advance(400, worked=False)
        clock.now += 79
        observer.advance(200, loss=1.25)
        clock.now += 200
        observer.advance(400, loss=1.25)

    assert shown().splitlines() == [
        "  fedavg: training: 40%",
        "  fedavg: training: 60%, 3 min 20 s left (2.0 tokens/s)  loss 1.250",
        "  fedavg: training: 100%, 0 s left (2.0 tokens/s)  loss 1.250",
        "  fedavg: training: 1,000 tokens, 400 of them done before, in 5 min 00 s (2.0 tokens/s)",
    ]


def test_what_is_to_be_expected_of_a_stage_and_of_all_is_shown_instead_of_its_own_speed(
    clock: Clock, shown: Err
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("fedavg: training", 1000, "tokens")
        observer.expect(90, 400)
        observer.advance(500, worked=False)
        clock.now += 30
        observer.expect(60, 370)
        observer.advance(100)
        observer.stage("fedavg: extraction", 2, "notes")
        clock.now += 30
        observer.advance(1)

    assert shown().splitlines() == [
        "  fedavg: training: 60%, 1 min 00 s left, 6 min 10 s of all (3.3 tokens/s)",
        "  fedavg: training: 600 tokens, 500 of them done before, in 30 s (3.3 tokens/s)",
        "  fedavg: extraction: 50%, 30 s left (30 s a note)",
        "  fedavg: extraction: 1 note in 30 s (30 s a note)",
    ]


@pytest.mark.parametrize(
    ("done", "seconds", "rate"),
    [
        (2, 1, "2.0 notes/s"),
        (9, 10, "1.1 s a note"),
        (1, 12, "12 s a note"),
        (1, 4, "4.0 s a note"),
    ],
)
def test_a_slow_rate_is_told_in_seconds(
    clock: Clock, shown: Err, done: float, seconds: float, rate: str
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("extraction", 100, "notes")
        clock.now += seconds
        observer.advance(done)

    assert shown().rstrip().endswith(f"({rate})")


def test_a_log_file_gets_no_control_characters_and_no_broken_lines(
    clock: Clock, shown: Err
) -> None:
    long = "/a/very/long/path" * 20
    with ConsoleObserver() as observer:
        observer.message(f"report: {long} [bold]not markup[/bold] :smile:")
        observer.stage("extraction", 3, "notes")
        for _ in range(3):
            clock.now += 30
            observer.advance(1)
        observer.round_ended(RoundRecord("fedavg", 1, ("a",), train_loss={"a": 2.0}))

    text = shown()
    assert f"report: {long} [bold]not markup[/bold] :smile:\n" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_new_stage_closes_the_one_before_and_a_message_a_complete_one(
    clock: Clock, shown: Err
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("first", 10, "tokens")
        observer.advance(4)
        observer.stage("second", 2, "notes")
        observer.message("in between")
        observer.advance(2)
        observer.message("arm 2 of 2")

    assert shown().splitlines() == [
        "  first: 4 tokens in 0 s",
        "in between",
        "  second: 2 notes in 0 s",
        "arm 2 of 2",
    ]


def test_a_stage_of_unknown_length_shows_what_is_done_and_how_fast(
    clock: Clock, shown: Err
) -> None:
    with ConsoleObserver() as observer:
        observer.stage("extraction", 0, "notes")
        observer.message("in between")
        for _ in range(2):
            clock.now += 24
            observer.advance(600)

    assert shown().splitlines() == [
        "in between",
        "  extraction: 600 notes (25.0 notes/s)",
        "  extraction: 1,200 notes (25.0 notes/s)",
        "  extraction: 1,200 notes in 48 s (25.0 notes/s)",
    ]


def test_progress_outside_a_stage_is_not_shown(clock: Clock, shown: Err) -> None:
    with ConsoleObserver() as observer:
        observer.advance(5)
        clock.now += 100
        observer.advance(5)

    assert shown() == ""


@pytest.mark.parametrize(
    ("losses", "weights", "line"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": 0.25, "b": 0.75}, "1.500; weights a 0.250 b 0.750"),
        ({"a": 1.0}, {"a": 1.0}, "1.000"),
        ({}, {"a": 1.0}, "unknown"),
    ],
)
def test_a_round_is_one_line(
    losses: dict[str, float], weights: dict[str, float], line: str, shown: Err
) -> None:
    record = RoundRecord("fedavg", 3, tuple(weights), weights=weights, train_loss=losses)
    with ConsoleObserver() as observer:
        observer.round_ended(record)

    assert shown() == f"  round 3: training loss {line}\n"


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    with ConsoleObserver() as observer:
        observer.stage("fedavg: training", 200, "tokens")
        clock.now += 4
        observer.advance(100, loss=0.5)
        observer._bar.refresh()
        during = terminal.getvalue()

    for part in ("fedavg: training", "50%", "100/200", "(25.0 tokens/s)", "loss 0.500"):
        assert part in during
    assert "\x1b[?25h" in terminal.getvalue()[len(during) :], "the cursor is not shown again"


def test_the_bar_is_closed_when_the_work_fails(clock: Clock, shown: Err) -> None:
    def work() -> None:
        with ConsoleObserver() as observer:
            observer.stage("fedavg: training", 200, "tokens")
            observer.advance(50)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()

    assert shown() == "  fedavg: training: 50 tokens in 0 s\n"
