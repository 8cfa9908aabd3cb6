"""What tests of several packages need, and how a run of tests uses the machine."""

from __future__ import annotations

import gc
import math
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# One tensor thread a process: other cores run other tests. Libraries read this when they are
# loaded, here and in processes that a test starts.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

# The default run draws the same examples every time, so that a change is not refused for an old
# fault that chance has just found; `make test-all` looks for such faults with fresh ones, and
# `make quick` draws fewer. How long an example takes is the machine's affair.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("fixed"), derandomize=False)
settings.register_profile("quick", settings.get_profile("fixed"), max_examples=20)
settings.load_profile("fixed")

TENSOR_LIBRARIES = {"torch", "transformers", "tokenizers", "safetensors", "peft", "gguf", "trl"}
# What a process of tests takes at most, tensor libraries and tiny models included.
_BYTES_A_WORKER = 1.5e9


class _NoTensorLibraries:
    """Files and tests that load one of them are left to the other lanes."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name.partition(".")[0] in TENSOR_LIBRARIES:
            pytest.skip(f"needs {name}, which the quick lane leaves out", allow_module_level=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--text-only",
        action="store_true",
        help="leave out all that loads a tensor library: the quick lane",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--text-only"):
        sys.meta_path.insert(0, _NoTensorLibraries())  # type: ignore[arg-type]


def pytest_runtest_setup() -> None:
    """A test that chose another number of threads must not choose for the next one."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process of tests a core, as far as there is memory for them: `pytest -n auto`."""
    from fedmedlora.runs.machine_cores import allowed_cores
    from fedmedlora.runs.machine_memory import free_bytes

    free = free_bytes()
    most = math.inf if free is None else free / _BYTES_A_WORKER
    return max(1, int(min(allowed_cores(), most)))


# Commands -----------------------------------------------------------------------------------


def _command_faults(line: str) -> list[str]:
    from typer.main import get_command

    from fedmedlora.cli.app import app

    words = shlex.split(line, comments=True)
    command: Any = get_command(app)
    used = 1
    while used < len(words) and words[used] in getattr(command, "commands", {}):
        command = command.commands[words[used]]
        used += 1
    if getattr(command, "commands", None):
        return [f"{' '.join(words[: used + 1])}: no such command"]
    given = {word.split("=")[0] for word in words[used:] if word.startswith("--")}
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    faults = [f"{' '.join(words[:used])}: no option {option}" for option in sorted(given - known)]
    needed = {p.opts[0] for p in command.params if p.required and p.param_type_name == "option"}
    return faults + [f"{' '.join(words[:used])} needs {o}" for o in sorted(needed - given)]


@pytest.fixture
def command_faults() -> Callable[[str], list[str]]:
    """What is wrong with a `fedmedlora ...` line: unknown command or option, option missing."""
    return _command_faults


# Time ---------------------------------------------------------------------------------------

# Eight times the work takes eight times as long, or, if it grows with the square, 64 times.
# Between the two there is room for short work that is cheaper a character.
_LONGER, _MOST_OF_LINEAR = 8, 4.0


def _processor_seconds(work: Callable[[], object]) -> float:
    gc.disable()  # what it takes depends on all that the tests before have left
    started = time.thread_time()
    try:
        work()
        return time.thread_time() - started
    finally:
        gc.enable()


def _times_as_long(
    work: Callable[[], object], reference: Callable[[], object], most: float
) -> float:
    taken, referred = [], []
    for _ in range(5):  # what else the machine does only adds to either
        referred.append(_processor_seconds(reference))
        taken.append(_processor_seconds(work))
        if min(taken) <= most * min(referred):
            break
    return min(taken) / min(referred)


@pytest.fixture(scope="session")
def times_as_long() -> Callable[[Callable[[], object], Callable[[], object], float], float]:
    """How many times the processor time of a reference a work takes, measured side by side.

    Measured again as long as it is more than what is allowed, at most five times; the shortest
    times count.
    """
    return _times_as_long


@pytest.fixture(scope="session")
def grows_linearly() -> Callable[[Callable[[int], object], int], bool]:
    """Whether work on `size` is done in about eight times the time of work on an eighth of it."""

    def grows(work: Callable[[int], object], size: int) -> bool:
        small = max(1, size // _LONGER)
        most = _MOST_OF_LINEAR * size / small
        return _times_as_long(lambda: work(size), lambda: work(small), most) <= most

    return grows


# Kill -9 ------------------------------------------------------------------------------------


def _forked(work: Callable[[], object]) -> int:
    """The exit code of a forked child that does the work; minus the signal that killed it."""
    with warnings.catch_warnings():
        # Newer Pythons warn of forks in a process with threads; the tensor library has some.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _at_each_step(act: Callable[[int], object], work: Callable[[], object]) -> None:
    """Do the work, and act before each time that it asks the system for a file or folder."""
    number = 0

    def seen(event: str, _arguments: object) -> None:
        nonlocal number
        if event == "open" or event.startswith("os."):
            number += 1
            act(number)

    sys.addaudithook(seen)  # for good, so only in a child
    work()


def _num_steps(work: Callable[[], object]) -> int:
    reading, writing = os.pipe()
    last = [0]

    def counted() -> None:
        _at_each_step(lambda number: last.__setitem__(0, number), work)
        os.write(writing, b"%d" % last[0])

    assert _forked(counted) == 0
    os.close(writing)
    with open(reading, "rb") as told:  # noqa: PTH123 - it has no path
        return int(told.read())


def _killed_at(step: int, num_calls: int, work: Callable[[], object]) -> bool:
    left = num_calls

    def countdown(_frame: object, event: str, _argument: object) -> None:
        nonlocal left
        left -= event == "c_call"
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(number: int) -> None:
        if number == step:
            sys.setprofile(countdown)

    code = _forked(lambda: _at_each_step(begin, work))
    assert code in (0, -signal.SIGKILL), f"the child failed before step {step} and {num_calls}"
    return code != 0


@pytest.fixture(scope="session")
def forked() -> Callable[[Callable[[], object]], int]:
    """The exit code of a forked child that does some work; minus the signal that killed it."""
    return _forked


@pytest.fixture(scope="session")
def num_steps() -> Callable[[Callable[[], object]], int]:
    """How often some work asks the system for a file or folder; it is done in a forked child."""
    return _num_steps


@pytest.fixture(scope="session")
def killed_at() -> Callable[[int, int, Callable[[], object]], bool]:
    """Whether work in a forked child was killed (kill -9) so many steps and then calls after it.

    A step is one of `num_steps`, a call one into C, as that which writes half of a file. Unlike
    seconds they are the same under any load.
    """
    return _killed_at
