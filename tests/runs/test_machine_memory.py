"""What the system tells about memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmedlora.runs.machine_memory import (
    free_bytes,
    peak_bytes,
    release_free_memory,
    resident_bytes,
    unread_bytes_of,
)

MB = 1_000_000
on_linux = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="only Linux tells what is resident"
)


@on_linux
def test_resident_memory_grows_with_what_is_held_and_the_peak_stays() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * (200 * MB))
    with_it = resident_bytes()
    del held
    release_free_memory()

    assert with_it - before > 190 * MB
    assert resident_bytes() < with_it - 190 * MB
    assert peak_bytes() >= with_it


@on_linux
def test_a_mapped_file_counts_as_unread_until_it_is_read(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"x" * (4 * MB))
    assert unread_bytes_of(".safetensors") == 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        unread = unread_bytes_of("weights.safetensors")
        assert len(bytes(mapped)) == 4 * MB
        assert 4 * MB <= unread <= 4 * MB + mmap.PAGESIZE
        assert unread_bytes_of("weights.safetensors") == 0


def write_cgroup(folder: Path, limit: str) -> None:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{300 * MB}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {100 * MB}\nactive_file 7\n")


def test_a_container_may_leave_less_than_the_machine_has(tmp_path: Path) -> None:
    write_cgroup(tmp_path, str(400 * MB))

    # What its file cache holds can be dropped.
    assert free_bytes(tmp_path) == 200 * MB


def test_a_container_without_limit_has_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cgroup(tmp_path, "max")
    machine = tmp_path / "meminfo"
    monkeypatch.setattr("fedmedlora.runs.machine_memory._MACHINE", machine)

    assert free_bytes(tmp_path) is None
    machine.write_text("MemTotal: 900 kB\nMemAvailable: 700 kB\n", "ascii")
    assert free_bytes(tmp_path) == free_bytes(tmp_path / "none") == 700 * 1024
