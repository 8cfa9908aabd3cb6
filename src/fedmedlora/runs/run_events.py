"""When a run began, went on, was interrupted or failed: told by its audit log."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs.audit import AuditLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENED, RESUMED, FINISHED = "run-opened", "run-resumed", "run-finished"
INTERRUPTED, FAILED = "run-interrupted", "run-failed"

NOT_RECORDED = "not recorded"
"""How a run ended before if it was killed or its machine stopped: it could not say so itself."""

_ENDS = {FINISHED: "finished", INTERRUPTED: "interrupted", FAILED: "failed"}


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; treated as Ctrl-C is."""


@contextmanager
def recorded_run(path: Path, **fields: Any) -> Iterator[AuditLog]:
    """The log at `path` of a run that goes on until the block ends.

    The first entry is `run-opened`, or `run-resumed` with how the run ended before. If the block is
    left by an interruption or an error, the last one is `run-interrupted` or `run-failed`; of an
    error only the kind is written down.

    Raises:
        RunStoreError: The log is broken or cannot be written.
    """
    audit = AuditLog(path)
    if audit.chain.num_entries:
        ended = _ENDS.get(audit.chain.last_event, NOT_RECORDED)
        audit.append(RESUMED, previous_end=ended, **fields)
    else:
        audit.append(OPENED, **fields)
    try:
        yield audit
    except KeyboardInterrupt as stop:
        _note_end(path, INTERRUPTED, by="SIGTERM" if isinstance(stop, Terminated) else "SIGINT")
        raise
    except BaseException as error:
        _note_end(path, FAILED, error=type(error).__name__)
        raise


def _note_end(path: Path, event: str, **fields: Any) -> None:
    # Opened anew, because an interruption may have come in the middle of a line. On a full disk
    # the next resumption says that the end was not recorded.
    with suppress(RunStoreError):
        AuditLog(path).append(event, **fields)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While this is open, SIGTERM ends the work as Ctrl-C does, so that the log can say so.

    Without it the process dies on the spot. Only the main thread can do this; elsewhere nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
