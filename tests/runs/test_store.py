"""The run directory keeps what was written, whole, whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs import atomic
from fedmedlora.runs.store import RunStore, config_sha256

CONFIG = {"name": "two hospitals", "rounds": 2, "rates": (0.1, 0.2)}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path, CONFIG, "two hospitals")


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put(text: str) -> Callable[[Path], None]:
    """Fills a folder with one file in a folder of its own."""

    def fill(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text(text)

    return fill


def test_a_run_opens_with_the_configuration_that_it_was_created_with(store: RunStore) -> None:
    opened = RunStore.open(store.path)

    assert opened.config == store.config == {**CONFIG, "rates": [0.1, 0.2]}
    assert opened.config_sha256 == store.config_sha256


def test_the_config_file_holds_the_sha256_of_the_sorted_compact_json(store: RunStore) -> None:
    saved = json.loads((store.path / "config.json").read_text("utf-8"))

    spelled = '{"name":"two hospitals","rates":[0.1,0.2],"rounds":2}'
    assert saved["config_sha256"] == hashlib.sha256(spelled.encode()).hexdigest()
    assert config_sha256({"a": 1, "b": 2}) == config_sha256({"b": 2, "a": 1})


def test_the_same_study_run_twice_gets_two_directories(tmp_path: Path) -> None:
    paths = [RunStore.create(tmp_path, CONFIG, "a/b ../c").path for _ in range(3)]

    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path for path in paths)
    assert paths[0].name.startswith("a-b-..-c-")
    assert [path.name[-3:] for path in paths] == ["001", "002", "003"]


def test_number_keys_survive_as_the_strings_that_json_makes_of_them(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, {"ranks": {10: "a", 2: "b"}}, "ranks")

    assert RunStore.open(store.path).config == {"ranks": {"10": "a", "2": "b"}}


def test_a_run_folder_that_cannot_be_made_is_refused_with_advice(tmp_path: Path) -> None:
    in_the_way = tmp_path / "runs"
    in_the_way.write_text("a file")

    with pytest.raises(RunStoreError, match="runs"):
        RunStore.create(in_the_way, CONFIG, "x")


def test_a_folder_that_may_not_be_written_is_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, whom permissions do not stop.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)

    with pytest.raises(RunStoreError, match="Choose a folder that you may write to"):
        RunStore.create(tmp_path / "runs", CONFIG, "x")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_a_name_that_leads_out_of_the_run_is_refused(store: RunStore, name: str) -> None:
    with pytest.raises(ValueError, match="inside it"):
        store.write_text(name, "x")


def test_text_and_json_come_back_as_they_were(store: RunStore) -> None:
    store.write_text("predictions/north.jsonl", "a\r\nb\u2028ü\n")
    store.write_json("scores.json", {"b": [1.5, None], "a": "ü"})

    assert store.read_text("predictions/north.jsonl") == "a\r\nb\u2028ü\n"
    assert store.read_json("scores.json") == {"b": [1.5, None], "a": "ü"}


def test_lines_are_appended_in_order(store: RunStore) -> None:
    for round_index in (1, 2, 3):
        store.append_json_line("rounds.jsonl", {"round": round_index, "text": "a\u2028b"})

    assert [r["round"] for r in store.read_json_lines("rounds.jsonl")] == [1, 2, 3]


def test_nan_is_not_written_because_json_has_none(store: RunStore) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write_json("scores.json", {"loss": float("nan")})

    assert not store.has("scores.json")


@pytest.mark.parametrize("damage", [b"", b'{"a": ', b'{"a": "\xff"}'])
def test_a_damaged_file_is_named(store: RunStore, damage: bytes) -> None:
    store.write_json("scores.json", {"a": 1})
    (store.path / "scores.json").write_bytes(damage)

    with pytest.raises(RunStoreError, match=r"scores\.json: damaged"):
        store.read_json("scores.json")


def test_a_damaged_line_is_named(store: RunStore) -> None:
    (store.path / "rounds.jsonl").write_text('{"round": 1}\n{"round"\n')

    with pytest.raises(RunStoreError, match=r"rounds\.jsonl: damaged: not JSON at line 2"):
        store.read_json_lines("rounds.jsonl")


def test_a_missing_file_is_named(store: RunStore) -> None:
    with pytest.raises(RunStoreError, match=r"scores\.json: cannot be read"):
        store.read_json("scores.json")


def test_a_configuration_that_was_changed_by_hand_is_refused(store: RunStore) -> None:
    path = store.path / "config.json"
    path.write_text(path.read_text().replace('"rounds": 2', '"rounds": 3'))

    with pytest.raises(RunStoreError, match="changed after the start"):
        RunStore.open(store.path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"config": 3}'])
def test_a_configuration_of_another_shape_is_refused(store: RunStore, content: str) -> None:
    (store.path / "config.json").write_text(content)

    with pytest.raises(RunStoreError, match=r"config\.json: damaged"):
        RunStore.open(store.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunStoreError, match="not a run directory"):
        RunStore.open(tmp_path)


def test_a_folder_is_written_whole_and_not_overwritten_unless_asked(store: RunStore) -> None:
    store.write_folder("adapters/round-001", put("one"))
    with pytest.raises(RunStoreError, match="exists already"):
        store.write_folder("adapters/round-001", put("two"))
    assert store.read_text("adapters/round-001/deep/a") == "one"

    store.write_folder("adapters/round-001", put("two"), replace=True)
    assert store.read_text("adapters/round-001/deep/a") == "two"
    assert [p.name for p in (store.path / "adapters").iterdir()] == ["round-001"]


def test_a_full_disk_is_said_so_and_leaves_the_earlier_file(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_json("scores.json", {"f1": 0.5})
    before = everything_in(store.path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunStoreError, match=r"no space left on the disk.*resume"):
        store.write_json("scores.json", {"f1": 0.6})
    with pytest.raises(RunStoreError, match="no space left"):
        store.write_folder("adapters/round-001", put("x"))
    assert everything_in(store.path) == before


def test_a_folder_whose_filling_fails_leaves_the_one_before(store: RunStore) -> None:
    store.write_folder("adapters/last", put("old"))
    before = everything_in(store.path)

    def fail_half_way(folder: Path) -> None:
        put("new")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_folder("adapters/last", fail_half_way, replace=True)
    assert everything_in(store.path) == before


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_folder("last", put("old"))
    rename = Path.rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if self.name.startswith(atomic.TEMPORARY_PREFIX):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)

    with pytest.raises(RunStoreError):
        store.write_folder("last", put("new"), replace=True)
    assert store.read_text("last/deep/a") == "old"


def test_what_a_killed_process_left_half_written_is_gone_once_the_run_is_locked(
    store: RunStore,
) -> None:
    store.write_folder("adapters/round-001", put("kept"))
    before = everything_in(store.path)
    (store.path / f"{atomic.TEMPORARY_PREFIX}1-scores.json").write_text("half")
    half = store.path / "adapters" / f"{atomic.TEMPORARY_PREFIX}2-round-002"
    half.mkdir()
    (half / "a").write_text("half")
    # Killed between the two renames of a replacement: only the old one is there.
    (store.path / "adapters" / "round-001").rename(
        store.path / "adapters" / f"{atomic.REPLACED_PREFIX}round-001"
    )

    with store.lock():
        kept = {k: v for k, v in everything_in(store.path).items() if k != ".lock"}
        assert kept == before


HOLDER = """
import signal, sys
from pathlib import Path
from fedmedlora.runs.store import RunStore
with RunStore.open(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    signal.pause()
"""


def test_two_processes_cannot_hold_a_run_and_kill_9_frees_it(store: RunStore) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunStoreError, match="another process is working on this run"):
            store.lock().__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    with store.lock():
        store.write_text("after", "x")


def test_kill_9_at_any_moment_leaves_whole_files_and_folders(
    store: RunStore, num_steps, killed_at
) -> None:
    def fill(folder: Path, turn: int) -> None:
        for part in range(4):
            (folder / str(part)).write_text(str(turn) * 20_000)

    def write(turn: int) -> None:
        store.write_json("state.json", {"turn": turn, "filler": str(turn) * 20_000})
        store.write_folder("last", lambda folder: fill(folder, turn), replace=True)

    write(1)
    last = num_steps(lambda: write(2))
    rng = random.Random(29)
    num_killed = 0
    for turn in range(3, 33):
        step, calls = rng.randint(1, last), rng.randint(0, 12)
        num_killed += killed_at(step, calls, lambda turn=turn: write(turn))

        with store.lock():
            state = store.read_json("state.json")
            assert state["filler"] == str(state["turn"]) * 20_000
            parts = [store.read_text(f"last/{part}") for part in range(4)]
            assert len(set(parts)) == 1
            assert {p.name for p in store.path.iterdir()} == {
                ".lock",
                "config.json",
                "environment.json",
                "state.json",
                "last",
            }
    assert num_killed > 20  # else it was done before that many calls
