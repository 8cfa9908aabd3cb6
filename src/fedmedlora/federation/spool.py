"""Updates of a round on disk, so that memory holds one of them, however many sites there are."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import RunStoreError
from fedmedlora.runs import atomic

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO


class Spool:
    """Adapters in one file of a folder, written once and read back module by module.

    The file has no name: it goes with the last adapter in it, or with the process if that is
    killed, so nothing is left behind and no later run can read it. It is not forced to disk, as
    nothing in it has to outlive the process. For one thread.

    Raises:
        RunStoreError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives on
        except OSError as error:
            raise atomic.store_error(folder, error) from error
        weakref.finalize(self, self._file.close)
        self._end = 0

    def keep(self, adapter: AdapterState) -> AdapterState:
        """An equal adapter; each of its pairs is read from the file whenever it is asked for.

        Raises:
            RunStoreError: The disk is full.
        """
        places: dict[str, Place] = {}
        try:
            self._file.seek(self._end)
            for module, pair in adapter.pairs.items():
                places[module] = Place(self._end, tuple(pair.A.shape), tuple(pair.B.shape))
                for factor in (pair.A, pair.B):
                    self._end += self._file.write(_bytes(factor.cpu().contiguous()))
            self._file.flush()
        except OSError as error:
            raise atomic.store_error(self._folder, error) from error
        return AdapterState(adapter.spec, _FiledPairs(self, places, adapter.spec.torch_dtype))

    def read(self, place: Place, dtype: torch.dtype) -> LoRAPair:
        """A pair, in new memory.

        Raises:
            RunStoreError: The file cannot be read.
        """
        pair = LoRAPair(
            A=torch.empty(place.a_shape, dtype=dtype), B=torch.empty(place.b_shape, dtype=dtype)
        )
        file: Any = self._file
        try:
            file.seek(place.start)
            num_read = sum(file.readinto(_bytes(factor)) for factor in (pair.A, pair.B))
        except OSError as error:
            raise atomic.store_error(self._folder, error) from error
        expected = pair.A.nbytes + pair.B.nbytes
        if num_read != expected:
            raise RunStoreError(
                f"{self._folder}: an update that waited there was cut off; expected {expected} "
                f"bytes, got {num_read}. Resume the run."
            )
        return pair


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pair begins in the file, `A` first, `B` right behind it."""

    start: int
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]


class _FiledPairs(Mapping[str, LoRAPair]):
    """The pairs of one adapter, each read when it is asked for. Keeps the file alive."""

    def __init__(self, spool: Spool, places: Mapping[str, Place], dtype: torch.dtype) -> None:
        self._spool = spool
        self._places = places
        self._dtype = dtype

    def __getitem__(self, module: str) -> LoRAPair:
        return self._spool.read(self._places[module], self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's own memory."""
    view: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    return view
