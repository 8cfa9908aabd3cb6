import errno
import json
import os
from pathlib import Path

import pytest
import torch

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from fedmedlora.core.errors import AggregationError, RunStoreError
from fedmedlora.core.records import RoundRecord
from fedmedlora.federation.checkpoint import MEMORY_FILE, ROUND_FILE, Checkpoint
from fedmedlora.testing.adapters import random_adapter


def record(round_index: int) -> RoundRecord:
    return RoundRecord("fedavg", round_index, ("north",), weights={"north": 1.0})


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    """Three rounds; the last one remembers a tensor and a number."""
    checkpoint = Checkpoint(tmp_path / "arms" / "fedavg")
    checkpoint.save(record(1), random_adapter(1), {})
    checkpoint.save(record(2), random_adapter(2), {})
    checkpoint.save(
        record(3), random_adapter(3), {"mean": torch.tensor([0.1, -0.0]), "step": 0.1 + 0.2}
    )
    return checkpoint


def test_nothing_is_saved_before_the_first_round(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "none")
    assert checkpoint.latest() is None
    assert checkpoint.records() == []


def test_a_round_comes_back_bit_by_bit(saved: Checkpoint) -> None:
    latest = saved.latest()
    assert latest.record == record(3)
    assert latest.adapter == random_adapter(3)
    assert latest.memory["step"] == 0.1 + 0.2
    assert torch.equal(latest.memory["mean"], torch.tensor([0.1, -0.0]))
    assert torch.signbit(latest.memory["mean"][1])
    assert saved.records() == [record(1), record(2), record(3)]
    assert saved.load(1).adapter == random_adapter(1)


def test_every_round_is_a_folder_that_loads_as_an_adapter(saved: Checkpoint) -> None:
    assert load_adapter(saved.round_folder(2)) == random_adapter(2)
    names = {path.name for path in saved.folder.iterdir()}
    assert names == {"round-001", "round-002", "round-003"}


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE, ROUND_FILE, MEMORY_FILE])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_last_round_is_named_and_the_way_on_works(
    saved: Checkpoint, name: str, damage: str
) -> None:
    path = saved.round_folder(3) / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        path.write_bytes(b"" if damage == "empty" else whole[:-1])
        if damage == "cut" and name == ROUND_FILE:
            path.write_bytes(whole[:-3])  # the last byte is the line's end
    with pytest.raises(RunStoreError) as error:
        saved.latest()
    told = str(error.value)
    assert name in told
    assert f"Rounds 1 to 2 are intact: delete {saved.round_folder(3)} and resume" in told
    for left in saved.round_folder(3).iterdir():
        left.unlink()
    saved.round_folder(3).rmdir()
    assert saved.latest().record == record(2)


def test_every_altered_bit_of_a_rounds_file_is_noticed(saved: Checkpoint) -> None:
    path = saved.round_folder(3) / ROUND_FILE
    whole = path.read_bytes()
    meaning = json.loads(whole)
    for position in range(0, len(whole), 7):
        for bit in (0, 5):
            broken = bytearray(whole)
            broken[position] ^= 1 << bit
            path.write_bytes(bytes(broken))
            try:
                harmless = json.loads(broken.decode()) == meaning  # blanks between tokens
            except ValueError:
                harmless = False
            if not harmless:
                with pytest.raises(RunStoreError):
                    saved.load(3)


def test_intact_is_said_only_of_rounds_that_are(saved: Checkpoint) -> None:
    for round_index in (2, 3):
        (saved.round_folder(round_index) / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(RunStoreError, match=r"Rounds 1 to 1 are intact: delete .*002, .*003 and"):
        saved.latest()
    (saved.round_folder(1) / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(RunStoreError, match="No earlier round is intact"):
        saved.latest()


def test_a_gap_between_rounds_is_noticed(saved: Checkpoint) -> None:
    saved.round_folder(2).rename(saved.folder / "elsewhere")
    with pytest.raises(RunStoreError, match=r"missing \[2\]"):
        saved.latest()


def test_a_renamed_round_is_noticed(saved: Checkpoint) -> None:
    saved.round_folder(3).rename(saved.folder / "keep")
    saved.round_folder(2).rename(saved.folder / "round-003")
    (saved.folder / "keep").rename(saved.folder / "round-002")
    with pytest.raises(RunStoreError, match="expected round 3, got round 2"):
        saved.latest()


def test_a_round_is_not_overwritten(saved: Checkpoint) -> None:
    with pytest.raises(RunStoreError, match="exists already"):
        saved.save(record(3), random_adapter(9), {})
    assert saved.latest().adapter == random_adapter(3)


def test_what_a_killed_process_left_half_written_is_no_round(saved: Checkpoint) -> None:
    half = saved.folder / ".writing-0badf00d-round-004"
    half.mkdir()
    (half / WEIGHTS_FILE).write_bytes(b"half")
    assert saved.latest().record == record(3)
    saved.save(record(4), random_adapter(4), {})
    assert not half.exists()
    assert saved.latest().adapter == random_adapter(4)


def test_a_full_disk_is_a_clear_error_and_earlier_rounds_stay(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunStoreError, match="no space left"):
            saved.save(record(4), random_adapter(4), {})
    assert saved.rounds() == [1, 2, 3]
    assert saved.latest().adapter == random_adapter(3)


@pytest.mark.parametrize("value", [(1, 2), float("nan"), {1: "a"}, object(), b"x"])
def test_memory_that_would_not_come_back_equal_is_refused(tmp_path: Path, value: object) -> None:
    checkpoint = Checkpoint(tmp_path / "rounds")
    with pytest.raises(AggregationError, match="strategy memory 'momentum'"):
        checkpoint.save(record(1), random_adapter(1), {"momentum": value})
    assert checkpoint.latest() is None


def test_a_round_of_a_later_format_says_so(saved: Checkpoint) -> None:
    path = saved.round_folder(3) / ROUND_FILE
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RunStoreError, match="expected format 1, got 2"):
        saved.load(3)
