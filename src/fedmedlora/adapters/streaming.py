"""Adapters that stay in their folder: each pair is read when it is asked for."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from fedmedlora.adapters.files import WEIGHTS_FILE, factor_names, load_adapter, read_spec
from fedmedlora.adapters.int8 import PACKED_FILE
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError, RunStoreError

if TYPE_CHECKING:
    from pathlib import Path

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_LENGTH_BYTES = 8


def open_adapter(folder: Path) -> AdapterState:
    """What `load_adapter` gives, in the memory of one pair at a time.

    The file stays open as long as the adapter lives. It is read, not mapped into memory: pages of
    a mapped file count as memory of the process, and with ten sites of an 8B model they are many.
    A packed adapter is small and read as a whole.

    Raises:
        RunStoreError: The folder is missing, incomplete or damaged.
        AdapterMismatchError: It holds an adapter of a kind that we would compute wrongly.
    """
    if (folder / PACKED_FILE).is_file():
        return load_adapter(folder)
    path = folder / WEIGHTS_FILE
    places = _read_header(path)
    spec = read_spec(folder, {place.dtype for place in places.values()})
    names = factor_names(places, path)
    pairs = {module: (places[a], places[b]) for module, (a, b) in names.items()}
    return AdapterState(spec, _FolderPairs(path, pairs))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor begins in the file."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class _FolderPairs(Mapping[str, LoRAPair]):
    """The pairs of one file, each in new memory. For one thread."""

    def __init__(self, path: Path, places: Mapping[str, tuple[_Place, _Place]]) -> None:
        self._path = path
        self._places = places
        self._file: Any = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def __getitem__(self, module: str) -> LoRAPair:
        A, B = self._places[module]
        return LoRAPair(A=self._read(A), B=self._read(B))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, place: _Place) -> torch.Tensor:
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if not tensor.numel():
            return tensor
        self._file.seek(place.start)
        num_read = self._file.readinto(tensor.view(-1).view(torch.uint8).numpy().data)
        if num_read != tensor.nbytes:
            raise RunStoreError(
                f"{self._path}: expected {tensor.nbytes} bytes from byte {place.start} on, got "
                f"{num_read}. The file was changed while it was in use; start again."
            )
        return tensor


def _read_header(path: Path) -> dict[str, _Place]:
    """Where each tensor lies. Lengths and order of the tensors are checked by safetensors."""
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (SafetensorError, ValueError) as error:
        raise RunStoreError(
            f"{path}: damaged or cut off; expected a safetensors file. "
            "Use an intact copy of the folder."
        ) from error
    except OSError as error:
        raise RunStoreError(
            f"{path}: cannot be read ({error.strerror or 'no such file'}); expected a folder that "
            "holds an adapter."
        ) from error
    header.pop("__metadata__", None)
    unknown = sorted({entry["dtype"] for entry in header.values()} - _DTYPES.keys())
    if unknown:
        raise AdapterMismatchError(f"{path}: expected tensors of {sorted(_DTYPES)}, got {unknown}.")
    start = _LENGTH_BYTES + length
    return {
        name: _Place(
            start + entry["data_offsets"][0], tuple(entry["shape"]), _DTYPES[entry["dtype"]]
        )
        for name, entry in header.items()
    }
