"""The run directory: what a study was told, what it ran on, and all that came of it.

`config.json` is written once, when the directory is made. Everything is written atomically, so
that a run can be resumed from whatever moment it was killed at. What the files mean is known to
those who write them; this module only keeps them whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs import atomic
from fedmedlora.runs.environment import describe_environment
from fedmedlora.runs.lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

CONFIG, ENVIRONMENT = "config.json", "environment.json"
_MOST_RUNS = 10_000


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that is hashed: sorted keys, no blanks, UTF-8.

    Raises:
        ValueError: The value holds NaN or infinity.
        TypeError: The value is not JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def config_sha256(config: Mapping[str, Any]) -> str:
    """The fingerprint of a configuration, independent of the order of its keys."""
    return hashlib.sha256(canonical_json(config)).hexdigest()


class RunStore:
    """One run directory. All names are relative to it, with `/` between folders."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = config

    @property
    def config_sha256(self) -> str:
        """The fingerprint of the configuration that the run was started with."""
        return config_sha256(self.config)

    @classmethod
    def create(
        cls,
        parent: Path,
        config: Mapping[str, Any],
        name: str,
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> RunStore:
        """A new run directory below `parent`: `<name>-<config hash>-<counter>`.

        Args:
            parent: Made if it is not there.
            config: The resolved configuration, plain JSON values.
            name: The study's name; what cannot stand in a folder name becomes `-`.
            environment: What else to write to `environment.json`, such as thread counts.

        Raises:
            RunStoreError: The directory cannot be made or written.
        """
        # As it will be read back: tuples become lists, number keys become strings.
        config = json.loads(json.dumps(config, allow_nan=False))
        fingerprint = config_sha256(config)
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "run"
        try:
            path = _new_directory(parent, f"{stem}-{fingerprint[:8]}")
        except OSError as error:
            raise atomic.store_error(parent, error) from error
        store = cls(path, config)
        store.write_json(ENVIRONMENT, describe_environment() | dict(environment or {}))
        # Last: a directory with a configuration is a run.
        store.write_json(CONFIG, {"config_sha256": fingerprint, "config": config})
        return store

    @classmethod
    def open(cls, path: Path) -> RunStore:
        """The run directory at `path`.

        Raises:
            RunStoreError: It is no run directory, or its configuration is damaged.
        """
        if not (path / CONFIG).is_file():
            raise RunStoreError(
                f"{path}: not a run directory; expected {CONFIG} in it. "
                "Name the directory that `study run` printed."
            )
        store = cls(path, {})
        saved = store.read_json(CONFIG)
        if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
            raise _damaged(path / CONFIG, "expected a configuration with its sha256")
        store.config = saved["config"]
        if saved.get("config_sha256") != store.config_sha256:
            raise _damaged(path / CONFIG, "its sha256 does not fit; it was changed after the start")
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While this is open, no other process runs or resumes this run.

        Half-written files that a killed process left are removed first.

        Raises:
            RunStoreError: Another process works on the run.
        """
        with exclusive(self.path):
            atomic.clear_leftovers(self.path)
            yield

    def file(self, name: str) -> Path:
        """Where `name` lies.

        Raises:
            ValueError: The name leads out of the run directory.
        """
        parts = PurePosixPath(name)
        if not parts.parts or parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"run directory: expected a name inside it, got {name!r}.")
        return self.path.joinpath(*parts.parts)

    def has(self, name: str) -> bool:
        """Whether the file or folder is there; if so, it is whole."""
        return self.file(name).exists()

    def write_file(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The path of a file that `fill` has written; see `atomic.write_file`."""
        atomic.write_file(self.file(name), fill)
        return self.file(name)

    def write_folder(
        self, name: str, fill: Callable[[Path], None], *, replace: bool = False
    ) -> Path:
        """The path of a folder that `fill` has filled; see `atomic.write_folder`."""
        atomic.write_folder(self.file(name), fill, replace=replace)
        return self.file(name)

    def write_text(self, name: str, text: str) -> Path:
        """The path of a UTF-8 file with exactly this text."""

        def fill(path: Path) -> None:
            path.write_bytes(text.encode("utf-8"))

        return self.write_file(name, fill)

    def write_json(self, name: str, value: Any) -> Path:
        """The path of a JSON file, keys in the given order.

        Raises:
            ValueError: The value holds NaN or infinity, which JSON cannot.
        """
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return self.write_text(name, text + "\n")

    def write_json_lines(self, name: str, values: Iterable[Any]) -> Path:
        """The path of a file with one JSON value a line, replacing what was there."""
        lines = [json.dumps(v, ensure_ascii=False, allow_nan=False) + "\n" for v in values]
        return self.write_text(name, "".join(lines))

    def append_json_line(self, name: str, value: Any) -> Path:
        """The path of a file that got one more line; for short files such as `rounds.jsonl`."""
        before = self.read_json_lines(name) if self.has(name) else []
        return self.write_json_lines(name, [*before, value])

    def read_text(self, name: str) -> str:
        """What `write_text` wrote.

        Raises:
            RunStoreError: The file is missing or not UTF-8.
        """
        path = self.file(name)
        try:
            return path.read_bytes().decode("utf-8")
        except OSError as error:
            raise RunStoreError(
                f"{path}: cannot be read ({error.strerror}); the run directory is incomplete."
            ) from error
        except UnicodeDecodeError as error:
            raise _damaged(path, f"not UTF-8 at byte {error.start}") from error

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote.

        Raises:
            RunStoreError: The file is missing or damaged.
        """
        return _parse(self.read_text(name), self.file(name), first_line=1)

    def read_json_lines(self, name: str) -> list[Any]:
        """What `write_json_lines` wrote.

        Raises:
            RunStoreError: The file is missing or damaged.
        """
        lines = self.read_text(name).split("\n")
        path = self.file(name)
        return [_parse(line, path, first_line=i) for i, line in enumerate(lines, 1) if line]


def _new_directory(parent: Path, stem: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for counter in range(1, _MOST_RUNS):
        path = parent / f"{stem}-{counter:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        atomic.sync(parent)
        return path
    raise RunStoreError(f"{parent}: {_MOST_RUNS} runs of {stem} are there. Use another folder.")


def _parse(text: str, path: Path, *, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise _damaged(path, f"not JSON at line {line}, column {error.colno}") from error


def _damaged(path: Path, what: str) -> RunStoreError:
    return RunStoreError(
        f"{path}: damaged: {what}. Restore the file from a backup, or start the study anew."
    )
