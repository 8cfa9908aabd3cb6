"""`environment.json` says with what a run was made, never who made it or where."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import fedmedlora
from fedmedlora.runs.environment import describe_environment
from fedmedlora.runs.machine_cores import usable_cores
from fedmedlora.runs.store import RunStore


def test_it_names_python_the_package_and_the_versions_that_matter() -> None:
    environment = describe_environment()

    assert environment["fedmedlora"] == fedmedlora.__version__
    assert platform.python_version() in environment["python"]
    import numpy as np

    assert environment["packages"]["numpy"] == np.__version__
    assert environment["num_cores"] >= environment["num_usable_cores"] >= 1
    assert environment["cpu"]


def test_it_holds_neither_host_nor_user_nor_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "jane-doe-of-ward-7")
    monkeypatch.setenv("HOSTNAME", "st-example-server")

    spelled = json.dumps(describe_environment())

    assert "jane-doe" not in spelled
    assert "st-example" not in spelled
    assert platform.node() not in spelled
    assert str(Path.home()) + "/" not in spelled
    assert str(Path(sys.prefix)) not in spelled
    if len(getpass.getuser()) > 4:  # "root" may be part of other words
        assert getpass.getuser() not in spelled


def test_a_run_directory_gets_it_with_what_the_caller_adds(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, {}, "x", environment={"num_threads": 2})

    saved = store.read_json("environment.json")
    assert saved["num_threads"] == 2
    assert saved["packages"]


def test_cores_are_counted_as_everywhere_else_within_what_the_user_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert describe_environment()["num_usable_cores"] == usable_cores() == 1


def test_describing_the_environment_imports_no_tensor_library() -> None:
    code = (
        "import sys; from fedmedlora.runs.environment import describe_environment; "
        "describe_environment(); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_commit_is_left_out_where_git_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert describe_environment()["git_commit"] is None


def test_a_repository_that_merely_surrounds_the_package_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "project" / "site-packages" / "fedmedlora" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    subprocess.run(["git", "init", "-q", str(tmp_path / "project")], check=True)
    monkeypatch.setattr(fedmedlora, "__file__", str(installed))

    assert describe_environment()["git_commit"] is None
