"""A GGUF file is opened once where transformers opens it again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedmedlora.models.gguf_once import read_once

gguf = pytest.importorskip("gguf")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_array("words", ["aspirin", "Käse", ""])
    writer.add_float32("number", 1.5)
    writer.add_tensor("weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def test_what_is_read_is_what_gguf_itself_reads(path: Path) -> None:
    plain = gguf.GGUFReader(path)
    with read_once():
        once = gguf.GGUFReader(path)
        assert gguf.GGUFReader(path) is once

    assert list(once.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        assert once.fields[name].contents() == field.contents()
    assert [t.name for t in once.tensors] == [t.name for t in plain.tensors]
    for mine, theirs in zip(once.tensors, plain.tensors, strict=True):
        assert np.array_equal(mine.data, theirs.data)
        assert type(mine.data) is np.ndarray


def test_afterwards_everything_is_as_it_was(path: Path) -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(ZeroDivisionError), read_once():
        raise ZeroDivisionError

    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
