"""Files and folders that are there whole or not at all, whatever moment the process dies at.

Everything is written under a hidden name in the same folder, brought to disk, then renamed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedmedlora.core.errors import RunStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEMPORARY_PREFIX = ".writing-"
REPLACED_PREFIX = ".replaced-"


def write_file(path: Path, fill: Callable[[Path], None]) -> None:
    """The file at `path` is what `fill` writes to the path that it is given; replaces atomically.

    Raises:
        RunStoreError: The disk is full or the folder cannot be written; a file that was there
            before is as it was.
    """
    with _store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            fill(temporary)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None], *, replace: bool = False) -> None:
    """The folder at `path` is what `fill` puts into the empty folder that it is given.

    With `replace`, a folder that is there already goes away once the new one is whole. Should the
    process die between the two renames, `clear_leftovers` brings the old one back.

    Raises:
        RunStoreError: The folder is there already, or it cannot be written.
    """
    if path.exists() and not replace:
        raise RunStoreError(f"{path}: exists already and is not overwritten.")
    with _store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.mkdir()
        old = path.with_name(REPLACED_PREFIX + path.name)
        try:
            fill(temporary)
            _sync_tree(temporary)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not path.exists():
                old.rename(path)
            raise


def clear_leftovers(folder: Path) -> None:
    """Nothing that a killed process left half-written remains below `folder`.

    Only for the process that alone may write there.

    Raises:
        RunStoreError: A leftover cannot be removed.
    """
    with _store_errors(folder):
        for old in sorted(folder.rglob(REPLACED_PREFIX + "*")):
            target = old.with_name(old.name.removeprefix(REPLACED_PREFIX))
            if target.exists():
                shutil.rmtree(old)
            else:
                old.rename(target)
        for leftover in sorted(folder.rglob(TEMPORARY_PREFIX + "*")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """The file, or the names in the folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for here, _, names in os.walk(folder):
        for name in names:
            sync(Path(here, name))
        sync(Path(here))


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: OSError) -> RunStoreError:
    """The message for a failed write, with what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunStoreError(
            f"{path}: no space left on the disk; what was saved before is intact. "
            "Free some space and resume the run."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunStoreError(
            f"{path}: cannot be written ({error.strerror}). "
            "Choose a folder that you may write to, or change its permissions."
        )
    return RunStoreError(f"{path}: {error.strerror or type(error).__name__}.")
