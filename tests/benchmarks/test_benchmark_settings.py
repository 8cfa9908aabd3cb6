"""Settings from the command line are checked before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.extraction import QUICK, Config
from benchmarks.harness.settings import make_config, plain
from fedmedlora.core.errors import ConfigError


@dataclass(frozen=True)
class Few:
    count: int = 1
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    place: Path | None = None


def test_settings_win_over_the_preset_and_the_preset_over_defaults() -> None:
    config = make_config(Few, {"count": 2, "kind": "b"}, ["count=3", "sizes=[8]"])

    assert config == Few(count=3, sizes=(8,), kind="b")


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as unknown:
        make_config(Few, {}, ["counts=3", "kind"])
    with pytest.raises(ConfigError) as unfit:
        make_config(Few, {}, ["count=many", "kind=c"])

    assert "counts=3" in str(unknown.value)
    assert "--set kind:" in str(unknown.value)
    assert "--set count" in str(unfit.value)
    assert "--set kind" in str(unfit.value)


def test_the_record_of_a_path_does_not_tell_where_it_is(tmp_path: Path) -> None:
    config = make_config(Few, {}, [f"place={tmp_path / 'someone' / 'notes.jsonl'}"])

    assert plain(config) == {"count": 1, "sizes": [1, 2], "kind": "a", "place": "notes.jsonl"}


def test_the_quick_preset_of_the_extraction_benchmark_fits_its_settings() -> None:
    assert make_config(Config, QUICK, []).model == "tiny"
    assert make_config(Config, {}, ["corpus=notes", "dtype=float32"]).corpus == Path("notes")
