"""Objects in processes of their own: one way's peak memory, unmixed with another's.

A worker lives on between calls, so that ways in different processes still take turns.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedmedlora.core.errors import FedMedLoRAError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method returned, how long it took, and the most memory its process ever held."""

    value: Any
    seconds: float
    peak_memory_bytes: int


class WorkerError(RuntimeError):
    """A worker raised what is no error of ours, or died."""


class Worker:
    """`make(*arguments)` in a new process; everything that crosses must be picklable."""

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would begin with our memory
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, arguments), daemon=True, name=make.__name__
        )
        self._process.start()
        theirs.close()
        try:
            self.made = self._receive()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: object) -> Answer:
        """The answer of a method.

        Raises:
            FedMedLoRAError: The method raised one.
            WorkerError: It raised something else, or the process died.
        """
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """The process ends."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Answer:
        try:
            kind, found = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(
                f"worker {self._process.name}: died with exit code {self._process.exitcode}. "
                "-9 is often a lack of memory."
            ) from None
        if kind == "ours":
            raise FedMedLoRAError(found)
        if kind == "other":
            raise WorkerError(found)
        answer: Answer = found
        return answer


class Inline:
    """The same in this process, for quick runs; its peak memory is that of everything here."""

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        self._object, self.made = _answer(make, arguments)

    def ask(self, method: str, *arguments: object) -> Answer:
        """The answer of a method."""
        return _answer(getattr(self._object, method), arguments)[1]

    def close(self) -> None:
        """The object goes."""
        self._object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def worker(own_process: bool, make: Callable[..., object], *arguments: object) -> Worker | Inline:
    """The object made, in a process of its own or here."""
    return Worker(make, *arguments) if own_process else Inline(make, *arguments)


def peak_memory_bytes() -> int:
    """The most memory that this process held.

    On Linux not `ru_maxrss`: a child begins with its parent's, however small it is itself.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Answers until the other end is closed."""
    try:
        made, answer = _answer(make, arguments)
        # The object itself stays here.
        pipe.send(("value", Answer(None, answer.seconds, answer.peak_memory_bytes)))
        while True:
            method, arguments = pipe.recv()
            pipe.send(("value", _answer(getattr(made, method), arguments)[1]))
    except (EOFError, KeyboardInterrupt):
        return
    except FedMedLoRAError as error:
        pipe.send(("ours", str(error)))
    except Exception:  # told with its place, as the other end cannot see it
        pipe.send(("other", traceback.format_exc()))


def _answer(call: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[Any, Answer]:
    started = time.perf_counter()
    value = call(*arguments)
    return value, Answer(value, time.perf_counter() - started, peak_memory_bytes())
