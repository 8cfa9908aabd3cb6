"""One process at a time works on a run directory."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs.atomic import store_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """While this is open, no other process gets it for the same folder.

    The system gives the lock back when the process ends, also by kill -9. It is advisory: it holds
    between processes that ask for it.

    Raises:
        RunStoreError: Another process has it, or the folder cannot be written.
    """
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise store_error(folder / LOCK_NAME, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunStoreError(
                f"{folder}: another process is working on this run. "
                "Wait until it ends, or end it, then try again."
            ) from None
        except OSError as error:  # a file system without locks
            raise store_error(folder / LOCK_NAME, error) from error
        yield
    finally:
        os.close(descriptor)
