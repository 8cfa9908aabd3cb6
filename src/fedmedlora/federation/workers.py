"""Worker processes: started when there is work, replaced when they die, ended with this process."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.federation.pipe import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from fedmedlora.adapters.exchange import FailureCode

    Event = tuple["_Worker", dict[str, Any], bytes]

logger = logging.getLogger(__name__)

# glibc reads it when a process begins, so only whoever starts one can set it. Most memory of a
# training step is made anew at each; in pages of 2 MB that takes far less time.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How a worker is started; the number of its end of the pipe is added to the arguments.

    `environment` is added to this process's own.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A request for a site. It becomes bytes when a worker is free to take it."""

    site: str
    header: Mapping[str, Any]
    request: Callable[[], bytes]


class Workers:
    """Processes that answer jobs, each one at a time. A context manager: at its end they are gone.

    A process is started when a job waits for it, and anew when it was killed. They get no signal of
    the terminal, but end with this process, however that ends.
    """

    def __init__(self, commands: Sequence[WorkerCommand]) -> None:
        self._commands = tuple(commands)
        self._running: dict[int, _Worker] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._in_use = False
        weakref.finalize(self, _end_all, self._running)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, whatever they do."""
        _end_all(self._running)

    @property
    def process_ids(self) -> dict[int, int]:
        """Of the processes that run now, by number of the command."""
        return {number: worker.process.pid for number, worker in self._running.items()}

    def answers(
        self,
        jobs: Iterable[Job],
        deadline_seconds: float | None = None,
        tell: Callable[[str, Mapping[str, Any]], None] = lambda _site, _news: None,
    ) -> Generator[tuple[str, bytes | FailureCode], None, None]:
        """By site, the bytes of its reply or the code of why there are none, as they come.

        Args:
            jobs: At most one a site. They go to workers in this order.
            deadline_seconds: For one job, from when a worker has it. One that takes longer is
                killed.
            tell: Told the news that a worker has for its site.

        Raises:
            FedMedLoRAError: A worker cannot be started.
            RuntimeError: The answers to earlier jobs have not been read to their end.
        """
        if self._in_use:
            raise RuntimeError("workers: expected one call at a time, got one within another.")
        self._in_use = True
        allowed = math.inf if deadline_seconds is None else deadline_seconds
        waiting = deque(jobs)
        try:
            while waiting or self._busy():
                self._hand_out(waiting, allowed)
                event = self._next_event()
                if event is None:
                    yield from self._late()
                elif (answer := self._take(event, tell)) is not None:
                    yield answer
        finally:
            for worker in self._busy():  # its answer must not reach the next call
                self._end(worker)
            self._in_use = False

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._running.values() if worker.site is not None]

    def _hand_out(self, waiting: deque[Job], allowed_seconds: float) -> None:
        """Every free worker has a job, and as many more as are of use are starting."""
        for worker in list(self._running.values()):
            if worker.site is None and worker.is_ready and worker.process.poll() is not None:
                self._end(worker)  # killed while it had nothing to do
            elif waiting and worker.site is None and worker.is_ready:
                worker.give(waiting.popleft(), allowed_seconds)
        num_starting = sum(not worker.is_ready for worker in self._running.values())
        for number, command in enumerate(self._commands):
            if number not in self._running and num_starting < len(waiting):
                self._running[number] = _Worker(number, command, self._events)
                num_starting += 1

    def _next_event(self) -> Event | None:
        """What a worker says next; None if a deadline comes first."""
        due = min((worker.due for worker in self._running.values()), default=math.inf)
        if due == math.inf:
            return self._events.get()
        try:
            return self._events.get(timeout=max(0.0, due - time.monotonic()))
        except Empty:
            return None

    def _late(self) -> Iterator[tuple[str, FailureCode]]:
        now = time.monotonic()
        for worker in self._busy():
            if worker.due <= now and worker.site is not None:
                site = worker.site
                self._end(worker)
                logger.error("site %s: its process was ended, as it took too long", site)
                yield site, "late"

    def _take(
        self, event: Event, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> tuple[str, bytes | FailureCode] | None:
        """The answer, if the event is one."""
        worker, message, data = event
        if self._running.get(worker.number) is not worker:
            return None  # last words of one that was ended
        site = worker.site
        if "log" in message:
            logging.getLogger(message["logger"]).log(message["level"], "%s", message["log"])
        elif "news" in message and site is not None:
            tell(site, message["news"])
        elif "ready" in message:
            worker.is_ready = True
        elif "reply" in message and site is not None:
            worker.rest()
            return site, data
        elif "gone" in message or "fault" in message:
            self._end(worker)
            if not worker.is_ready:
                raise self._cannot_start(worker, message.get("fault"))
            if site is not None:
                code = worker.process.returncode
                logger.error("site %s: its process ended in mid-work (code %s)", site, code)
                return site, "lost"
        return None

    def _cannot_start(self, worker: _Worker, fault: str | None) -> FedMedLoRAError:
        place = f"worker {worker.number + 1} of {len(self._commands)}"
        if fault is None:
            fault = f"its process ended before it was ready (code {worker.process.returncode})"
        return FedMedLoRAError(
            f"{place}: {fault.rstrip('.')}. If memory is short, free some and resume, or start "
            "anew with --set federation.processes=0."
        )

    def _end(self, worker: _Worker) -> None:
        del self._running[worker.number]
        worker.end()


def _end_all(running: dict[int, _Worker]) -> None:
    while running:
        running.popitem()[1].end()


class _Worker:
    """One process, and a thread that talks to it, as a process that hangs stops whoever writes."""

    def __init__(self, number: int, command: WorkerCommand, events: SimpleQueue[Event]) -> None:
        self.number = number
        self.is_ready = False
        self.site: str | None = None
        self.due = math.inf
        self._jobs: SimpleQueue[tuple[Mapping[str, Any], bytes] | None] = SimpleQueue()
        self._events = events
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.process = subprocess.Popen(
                (*command.arguments, str(theirs.fileno())),
                env={**_LARGE_PAGES, **os.environ, **command.environment},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours is for results
                start_new_session=True,  # so Ctrl-C reaches this process alone, which ends them
            )
            pipe = Pipe(ours.detach())
        self._thread = Thread(target=self._talk, args=(pipe,), daemon=True)
        self._thread.start()

    def give(self, job: Job, allowed_seconds: float) -> None:
        """The job is the worker's."""
        self.site = job.site
        self.due = time.monotonic() + allowed_seconds
        self._jobs.put((job.header, job.request()))

    def rest(self) -> None:
        """The job is done."""
        self.site, self.due = None, math.inf

    def end(self) -> None:
        """No process is left, not even a dead one."""
        if self.process.poll() is None:  # else its number may be another's by now
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._jobs.put(None)
        self._thread.join()

    def _talk(self, pipe: Pipe) -> None:
        """News as they come; after `ready` and after each reply, the next job."""
        try:
            while True:
                message, data = pipe.receive()
                self._events.put((self, message, data))
                if "ready" in message or "reply" in message:
                    job = self._jobs.get()
                    if job is None:
                        return
                    pipe.send(*job)
        except (EOFError, OSError):
            self._events.put((self, {"gone": True}, b""))
        finally:
            pipe.close()
