"""An adapter read pair by pair is the adapter, or an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from fedmedlora.adapters.algebra import product_distance
from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from fedmedlora.adapters.products import delta_gram, mean_of_products
from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.core.errors import AdapterMismatchError, FedMedLoRAError, RunStoreError
from fedmedlora.testing.adapters import random_adapter


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_what_is_loaded_at_once(tmp_path: Path, dtype: str) -> None:
    save_adapter(tmp_path, random_adapter(0, rank=3, rslora=True, dtype=dtype))
    opened = open_adapter(tmp_path)
    assert opened == load_adapter(tmp_path) == random_adapter(0, rank=3, rslora=True, dtype=dtype)
    assert list(opened.pairs) == sorted(opened.pairs)


def test_what_is_done_to_a_pair_does_not_reach_the_next_reader(tmp_path: Path) -> None:
    save_adapter(tmp_path, random_adapter(0))
    opened = open_adapter(tmp_path)
    for pair in opened.pairs.values():
        pair.A.fill_(7)
    assert opened == random_adapter(0)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_or_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    save_adapter(tmp_path, random_adapter(0))
    whole = (tmp_path / name).read_bytes()
    for length in (0, 1, 9, len(whole) // 2, len(whole) - 3):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(RunStoreError, match=name):
            open_adapter(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunStoreError, match=name):
        open_adapter(tmp_path)


def test_a_file_that_shrinks_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    save_adapter(tmp_path, random_adapter(0))
    opened = open_adapter(tmp_path)
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(600)
    with pytest.raises(RunStoreError, match="changed while it was in use"):
        opened.digest()


def test_any_altered_byte_of_the_header_gives_what_loading_gives(tmp_path: Path) -> None:
    save_adapter(tmp_path, random_adapter(0))
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        broken = bytearray(whole)
        broken[position] ^= 0x11
        (tmp_path / WEIGHTS_FILE).write_bytes(bytes(broken))
        results = []
        for read in (load_adapter, open_adapter):
            try:
                results.append(read(tmp_path).digest())
            except FedMedLoRAError as error:
                results.append(type(error).__name__)
        assert results[0] == results[1], position


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    adapter = random_adapter(0)
    save_adapter(tmp_path, adapter)
    prefix = "base_model.model.q_proj.lora"
    tensors = {f"{prefix}_A.weight": adapter.pairs[next(iter(adapter.pairs))].A.double()}
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterMismatchError, match="F64"):
        open_adapter(tmp_path)
    save_file({"embedding": tensors[f"{prefix}_A.weight"].float()}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterMismatchError, match="'embedding' is not a LoRA factor"):
        open_adapter(tmp_path)
    save_adapter(tmp_path, adapter)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(AdapterMismatchError, match="use_dora"):
        open_adapter(tmp_path)


def test_products_of_opened_adapters_are_those_of_loaded_ones(tmp_path: Path) -> None:
    made = {"a": random_adapter(1, rank=3), "b": random_adapter(2), "c": random_adapter(3, rank=1)}
    for name, adapter in made.items():
        save_adapter(tmp_path / name, adapter)
    opened = {name: open_adapter(tmp_path / name) for name in made}
    weights = {"b": 0.5, "c": 0.3}
    assert mean_of_products(opened["a"], opened, weights) == mean_of_products(
        made["a"], made, weights
    )
    assert (delta_gram(opened["a"], opened)[1] == delta_gram(made["a"], made)[1]).all()
    assert product_distance(opened["a"], opened["b"]) == product_distance(made["a"], made["b"])
    assert change_rank(opened["a"], 2) == change_rank(made["a"], 2)
