"""Files of bytes, plain or compressed by their suffix: `.gz` and `.zst`."""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What reading raises when compressed bytes are cut off or damaged."""

_CHUNK_BYTES = 1 << 18


class _ZstdBytes(io.RawIOBase):
    """The decompressed bytes of a zstd file, which may have several frames.

    zstandard's own reader takes a file that is cut off for one that ends.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._between_frames = True
        self._waiting = b""
        self._raw = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._waiting:
            if not self._raw:
                self._raw = self._file.read(_CHUNK_BYTES)
            if not self._raw:
                if self._between_frames:
                    return 0
                raise EOFError("compressed file ended before the end of its frame")
            self._waiting = self._frame.decompress(self._raw)
            self._between_frames = self._frame.eof
            self._raw = self._frame.unused_data
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._waiting))
        view[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; damage shows as one of `DAMAGED` while reading."""
    with path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
                yield io.BufferedReader(unzipped, _CHUNK_BYTES)
        elif path.suffix == ".zst":
            yield io.BufferedReader(_ZstdBytes(file), _CHUNK_BYTES)
        else:
            yield file


@contextmanager
def replace_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends without an error.

    The same content gives the same bytes: compressed files carry no time and no name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0, compresslevel=6) as zipped:
                    yield cast("IO[bytes]", zipped)
            elif path.suffix == ".zst":
                with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as frame:
                    yield frame
            else:
                yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
