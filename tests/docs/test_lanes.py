"""The lanes of tests: what each runs, and that none depends on the machine that runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.runs import machine_cores

ROOT = Path(__file__).parents[2]
TEXT_HALF = ("core", "corpora", "prompts", "runs", "evaluation", "report")


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> Any:
    return pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))


def recipe(target: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    command = ["make", "--dry-run", "--no-print-directory", target]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_every_lane_uses_all_cores_and_only_the_quick_one_leaves_something_out() -> None:
    quick, usual, everything = (recipe(target) for target in ("quick", "test", "test-all"))

    assert all("--numprocesses auto" in lane for lane in (quick, usual, everything))
    assert ["--text-only" in lane for lane in (quick, usual, everything)] == [True, False, False]
    assert all(f"tests/{package}" in quick for package in TEXT_HALF)
    assert ' -m ""' in everything


def test_the_text_half_loads_where_no_tensor_library_is_there(conftest: Any) -> None:
    """So the quick lane can run its tests, rather than skip them."""
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({sorted(conftest.TENSOR_LIBRARIES)!r}))
for package in {TEXT_HALF!r}:
    found = importlib.import_module("fedmedlora." + package)
    for module in pkgutil.walk_packages(found.__path__, found.__name__ + "."):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_process_of_tests_has_one_tensor_thread_and_so_have_those_that_it_starts() -> None:
    torch = pytest.importorskip("torch")

    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"


def test_a_test_that_takes_more_threads_does_not_leave_them_to_the_next(conftest: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(3)

    conftest.pytest_runtest_setup()

    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_there_are_as_many_processes_of_tests_as_cores_that_may_be_used(
    conftest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6}, raising=False)
    (tmp_path / "cpu.max").write_text(quota + "\n", "ascii")
    monkeypatch.setattr("fedmedlora.runs.machine_memory.free_bytes", lambda: None)
    within = partial(machine_cores.allowed_cores, own_cgroup=tmp_path / "none")

    for groups, expected in ((tmp_path, cores), (tmp_path / "none", 4)):
        monkeypatch.setattr(machine_cores, "allowed_cores", partial(within, groups))
        assert conftest.pytest_xdist_auto_num_workers() == expected


def test_there_are_no_more_processes_of_tests_than_fit_into_memory(
    conftest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_cores, "allowed_cores", lambda: 64)
    for free, expected in ((12e9, 8), (1e9, 1), (None, 64)):
        monkeypatch.setattr("fedmedlora.runs.machine_memory.free_bytes", lambda free=free: free)
        assert conftest.pytest_xdist_auto_num_workers() == expected


def test_no_test_asks_the_clock_of_the_machine() -> None:
    """Slow machines and busy ones fail such tests; `times_as_long` and `grows_linearly` do not."""
    clocks = re.compile(r"\btime\.(time|time_ns|perf_counter|monotonic|process_time)\(|timeout\=")
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if clocks.search(path.read_text("utf-8"))
    }

    # A browser that hangs is given up.
    assert asking == {"tests/report/test_viewer_browser.py"}
