"""What a site keeps for itself: there for the next round, never for its own, and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from fedmedlora.core.errors import RunStoreError
from fedmedlora.training.site_state import SiteState

if TYPE_CHECKING:
    from pathlib import Path


def test_a_round_starts_from_what_the_round_before_left_and_not_from_its_own(
    tmp_path: Path,
) -> None:
    state = SiteState(tmp_path / "north")
    assert state.before(1) == {}
    state.keep(1, {"B": torch.tensor([1.0])})
    state.keep(2, {"B": torch.tensor([2.0])})
    assert state.before(1) == {}
    assert state.before(2)["B"].item() == 1.0
    assert state.before(3)["B"].item() == 2.0


def test_a_site_that_sat_out_a_round_goes_on_from_its_last_one(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "north")
    state.keep(1, {"B": torch.tensor([1.0])})
    assert state.before(5)["B"].item() == 1.0


def test_old_rounds_are_deleted_but_never_the_one_that_a_repeated_round_needs(
    tmp_path: Path,
) -> None:
    state = SiteState(tmp_path / "north")
    for round_index in (1, 2, 3, 4):
        state.keep(round_index, {"B": torch.tensor([float(round_index)])})
    assert sorted(path.name for path in (tmp_path / "north").iterdir()) == [
        "round-003.safetensors",
        "round-004.safetensors",
    ]
    assert state.before(4)["B"].item() == 3.0


def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "north")
    state.keep(1, {"B": torch.tensor([1.0])})
    path = tmp_path / "north" / "round-001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunStoreError, match=r"round-001\.safetensors"):
        state.before(2)
