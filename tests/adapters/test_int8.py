"""Adapters packed in 8 bits, and the manifest beside an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_adapter,
    save_adapter,
    save_packed_adapter,
)
from fedmedlora.adapters.int8 import PACKED_FILE
from fedmedlora.adapters.manifest import (
    MANIFEST_FILE,
    Manifest,
    PromptOfAdapter,
    read_manifest,
    write_manifest,
)
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.core.errors import RunStoreError
from fedmedlora.study.config import PromptConfig
from fedmedlora.testing.adapters import random_adapter

MANIFEST = Manifest(
    base="tiny",
    base_fingerprint="f" * 64,
    prompt=PromptOfAdapter(format="compact", window_tokens=40),
    tasks=("entities", "relations"),
    modifiers=("dosage",),
    linked=True,
    opening={"entities": 1.5},
)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    save_packed_adapter(folder, random_adapter(0))
    (folder / "MODEL_CARD.md").write_text("A card.\n", "utf-8")
    write_manifest(folder, MANIFEST)
    return folder


def test_a_packed_adapter_is_a_quarter_of_the_size_and_nearly_the_same(
    packed: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(0, rank=8, shapes={"q_proj": (300, 200)})
    save_adapter(tmp_path / "whole", adapter)
    save_packed_adapter(packed, adapter)
    write_manifest(packed, MANIFEST)

    found = load_adapter(packed)

    assert found.spec == adapter.spec
    assert product_distance(adapter, found) < 0.01 * product_norm(adapter)
    whole = (tmp_path / "whole" / WEIGHTS_FILE).stat().st_size
    assert (packed / PACKED_FILE).stat().st_size < 0.4 * whole


def test_every_number_is_its_row_scale_times_an_integer_exactly(packed: Path) -> None:
    stored = load_file(packed / PACKED_FILE)
    for module, factor, tensor in load_adapter(packed).tensors():
        name = f"base_model.model.{module}.lora_{factor}.weight"
        exact = stored[name].double() * stored[name + ".scale"].double()
        assert torch.equal(tensor.double(), exact)
        assert tensor.dtype == torch.float32


def test_rows_of_zeros_stay_zeros(packed: Path) -> None:
    adapter = random_adapter(0)
    for _, _, tensor in adapter.tensors():
        tensor[0] = 0
    save_packed_adapter(packed, adapter)
    write_manifest(packed, MANIFEST)

    for _, _, tensor in load_adapter(packed).tensors():
        assert not tensor[0].any()
        assert tensor.isfinite().all()


def test_it_opens_wherever_an_adapter_folder_is_opened(packed: Path) -> None:
    assert open_adapter(packed).digest() == load_adapter(packed).digest()


@pytest.mark.parametrize("name", [PACKED_FILE, CONFIG_FILE])
def test_a_file_that_was_altered_is_refused(packed: Path, name: str) -> None:
    data = bytearray((packed / name).read_bytes())
    data[-3] ^= 1
    (packed / name).write_bytes(data)

    with pytest.raises(RunStoreError, match="is not the file that"):
        load_adapter(packed)


def test_the_card_is_for_people_and_may_be_edited(packed: Path) -> None:
    (packed / "MODEL_CARD.md").write_text("Another card.\n", "utf-8")

    assert load_adapter(packed)


def test_a_packed_adapter_without_its_manifest_is_refused(packed: Path) -> None:
    (packed / MANIFEST_FILE).unlink()

    with pytest.raises(RunStoreError, match="incomplete; expected fedmedlora_adapter"):
        open_adapter(packed)


@pytest.mark.parametrize("name", [PACKED_FILE, CONFIG_FILE])
def test_a_packed_adapter_without_one_of_its_checksums_is_refused(packed: Path, name: str) -> None:
    saved = json.loads((packed / MANIFEST_FILE).read_text("utf-8"))
    del saved["files"][name]
    (packed / MANIFEST_FILE).write_text(json.dumps(saved), "utf-8")

    with pytest.raises(RunStoreError, match=r"incomplete; expected .* with the checksums of"):
        load_adapter(packed)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "deep\\file", "C:file", ""])
def test_a_manifest_names_files_of_its_own_folder_only(packed: Path, name: str) -> None:
    saved = json.loads((packed / MANIFEST_FILE).read_text("utf-8"))
    saved["files"][name] = "0" * 64
    (packed / MANIFEST_FILE).write_text(json.dumps(saved), "utf-8")

    with pytest.raises(RunStoreError, match="damaged, or written by another version, at files"):
        read_manifest(packed)


def test_numbers_without_a_scale_are_refused(packed: Path) -> None:
    stored = load_file(packed / PACKED_FILE)
    stored.pop(next(name for name in stored if name.endswith(".scale")))
    save_file(stored, packed / PACKED_FILE)
    write_manifest(packed, MANIFEST)

    with pytest.raises(RunStoreError, match="expected 8-bit numbers and bfloat16 scales"):
        load_adapter(packed)


def test_a_manifest_reads_back(packed: Path, tmp_path: Path) -> None:
    found = read_manifest(packed)

    assert found is not None
    assert found.model_copy(update={"files": {}}) == MANIFEST
    assert set(found.files) == {PACKED_FILE, CONFIG_FILE}
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("tasks", ["cooking"]),
        ("new", 1),
        ("prompt", {}),
        ("prompt", {"format": "poem", "window_tokens": 40}),
        ("prompt", {"format": "html", "window_tokens": 31}),
    ],
)
def test_a_manifest_of_another_kind_is_refused_with_the_place(
    packed: Path, key: str, value: object
) -> None:
    path = packed / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: value}), "utf-8")

    with pytest.raises(RunStoreError, match=f"damaged, or written by another version, at {key}"):
        read_manifest(packed)


def test_the_prompt_of_a_manifest_is_one_that_a_study_may_have() -> None:
    ours, studys = PromptOfAdapter.model_fields, PromptConfig.model_fields

    assert ours.keys() == studys.keys()
    for key, field in ours.items():
        assert (field.annotation, field.metadata) == (
            studys[key].annotation,
            studys[key].metadata,
        ), key
