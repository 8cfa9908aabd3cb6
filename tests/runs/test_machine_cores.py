"""How many processors may be used: affinity, the container's share, and the user's own word."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmedlora.runs import machine_cores
from fedmedlora.runs.machine_cores import physical_cores, usable_cores


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine_cores, "_allowed", lambda: set(range(8)))


def cores(tmp_path: Path, groups: dict[str, str], own: str = "0::/\n") -> int:
    for name, text in groups.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    place = tmp_path / "own"
    place.write_text(own, "utf-8")
    return usable_cores(tmp_path / "cgroup", place)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2), ("10000 100000\n", 1)],
)
def test_a_container_may_leave_fewer_than_there_are(
    tmp_path: Path, text: str, expected: int
) -> None:
    assert cores(tmp_path, {"cpu.max": text}) == expected


def test_the_narrowest_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    groups = {
        "a/cpu.max": "300000 100000\n",
        "a/b/cpu.max": "max 100000\n",
        "a/b/c/cpu.max": "500000 100000\n",
    }
    assert cores(tmp_path, groups, "0::/a/b/c\n") == 3


def test_the_older_kind_of_groups_is_read_too(tmp_path: Path) -> None:
    own = "4:memory:/x\n3:cpu,cpuacct:/job\n"
    quota = {"cpu/job/cpu.cfs_quota_us": "400000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}

    assert cores(tmp_path, quota, own) == 4
    assert cores(tmp_path, quota | {"cpu/job/cpu.cfs_quota_us": "-1\n"}, own) == 8


@pytest.mark.parametrize(
    ("word", "expected"), [("3", 3), ("2,1", 2), ("99", 8), ("x", 8), ("0", 8)]
)
def test_the_users_number_of_threads_is_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", word)

    assert cores(tmp_path, {}) == expected


def test_two_processors_of_one_core_are_one_core(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 3},{number % 3 + 3}\n", "ascii")

    assert physical_cores(tmp_path) == 3 + 2  # of the last two nothing is known
