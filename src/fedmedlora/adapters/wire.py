"""Wire values: plain dicts, lists, numbers, strings and tensors. Read strictly, framed as bytes.

Knows no message; `exchange.py` says which there are.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fedmedlora.core.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Wire = dict[str, Any]
T = TypeVar("T")

# A name on the wire is an identifier: no blanks, so that no sentence of a note fits into one.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+@-]{0,254}")
_MAGIC = b"FML1"
_PREFIX_BYTES = len(_MAGIC) + 4 + 8
_TENSOR = "$tensor"


def is_name(value: str) -> bool:
    """Whether the string may name something on the wire: an identifier of up to 255 characters."""
    return _NAME.fullmatch(value) is not None


class Fields:
    """The fields of one wire dict, taken out with their types checked.

    Raises:
        ExchangeError: The value is no dict, or a field is unknown or missing.
    """

    def __init__(self, wire: object, where: str, expected: Collection[str]) -> None:
        if not isinstance(wire, dict):
            raise ExchangeError(f"{where}: expected a dict, got {type(wire).__name__}.")
        missing = sorted(set(expected) - wire.keys())
        unknown = wire.keys() - set(expected)
        if missing or unknown:
            # Unknown names are counted, not repeated: they come from the other side.
            raise ExchangeError(
                f"{where}: expected the fields {sorted(expected)}; missing {missing}, "
                f"{len(unknown)} unknown. Both sides must run the same version."
            )
        self._wire = wire
        self._where = where

    def _fault(self, key: str, expected: str) -> ExchangeError:
        kind = type(self._wire[key]).__name__
        return ExchangeError(f"{self._where}.{key}: expected {expected}, got a bad {kind}.")

    def raw(self, key: str) -> object:
        """The field as it came."""
        return self._wire[key]

    def integer(self, key: str, minimum: int = 0) -> int:
        """A whole number of at least `minimum` and at most 64 bits: no float overflows at it."""
        value = self._wire[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not minimum <= value < 2**64:
            raise self._fault(key, f"an integer >= {minimum} of at most 64 bits")
        return int(value)

    def number(self, key: str) -> float:
        """A float; NaN and infinities pass, because a diverged site must be able to say so."""
        value = self._wire[key]
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._fault(key, "a number")
        try:
            return float(value)
        except OverflowError:  # Python's integers have no end
            raise self._fault(key, "a number of at most 308 digits") from None

    def scalar(self, key: str) -> float:
        """A number that travels as a float64 tensor without axes."""
        value = self._wire[key]
        if not isinstance(value, torch.Tensor) or value.shape or value.dtype != torch.float64:
            raise self._fault(key, "a float64 tensor without axes")
        return float(value)

    def boolean(self, key: str) -> bool:
        """True or False."""
        value = self._wire[key]
        if not isinstance(value, bool):
            raise self._fault(key, "true or false")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value = self._wire[key]
        if not isinstance(value, str):
            raise self._fault(key, "a string")
        return value

    def choice(self, key: str, allowed: Collection[T]) -> T:
        """One of the allowed values."""
        for option in allowed:
            if self._wire[key] == option and type(self._wire[key]) is type(option):
                return option
        raise self._fault(key, f"one of {sorted(map(str, allowed))}")

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """None, or what `read` makes of the field."""
        return None if self._wire[key] is None else read(key)

    def choices(self, key: str, allowed: Collection[T]) -> tuple[T, ...]:
        """A list of allowed values, each at most once."""
        value = self._wire[key]
        if not isinstance(value, list):
            raise self._fault(key, "a list")
        found = [option for item in value for option in allowed if item == option]
        if len(found) != len(value) or len(set(found)) != len(found):
            raise self._fault(key, f"a list of distinct values of {sorted(map(str, allowed))}")
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._wire[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._fault(key, "a list of strings")
        return tuple(value)

    def mapping(self, key: str) -> dict[str, object]:
        """A dict whose keys are names."""
        value = self._wire[key]
        if not isinstance(value, dict) or not all(
            isinstance(name, str) and is_name(name) for name in value
        ):
            raise self._fault(key, "a dict with identifiers as keys")
        return value

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """A dict of tensors."""
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.mapping(key).items():
            if not isinstance(tensor, torch.Tensor):
                raise self._fault(key, "a dict of tensors")
            found[name] = tensor
        return found


def to_bytes(wire: Wire) -> bytes:
    """The wire value as one frame: magic, CRC-32, header length, JSON header, safetensors blob.

    Raises:
        ExchangeError: The value holds something that is no wire value.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = json.dumps(_detach_tensors(wire, tensors), separators=(",", ":")).encode()
    # A blob with tensors sorted by name: the same message always has the same bytes.
    blob: bytes = save_tensors(tensors)
    body = len(header).to_bytes(8, "little") + header + blob
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def from_bytes(data: bytes) -> Wire:
    """The wire value in one frame.

    Raises:
        ExchangeError: The bytes are cut off, altered, or not a frame.
    """
    if len(data) < _PREFIX_BYTES or data[:4] != _MAGIC:
        raise ExchangeError(
            f"message: expected a frame that starts with {_MAGIC!r}, got {len(data)} other bytes. "
            "Both sides must run the same version."
        )
    if zlib.crc32(memoryview(data)[8:]) != int.from_bytes(data[4:8], "little"):
        raise ExchangeError(
            f"message of {len(data)} bytes: the checksum does not match; it was cut off or altered "
            "on the way. Send it again."
        )
    end = _PREFIX_BYTES + int.from_bytes(data[8:16], "little")
    try:
        header = json.loads(data[_PREFIX_BYTES:end].decode())
        tensors = load_tensors(data[end:])
        wire = _attach_tensors(header, tensors)
    except ExchangeError:
        raise
    except Exception as error:  # safetensors and json raise many kinds; all mean the same here
        raise ExchangeError(
            f"message of {len(data)} bytes: not a frame ({type(error).__name__})."
        ) from None
    if not isinstance(wire, dict) or tensors:
        raise ExchangeError("message: expected one dict that uses every tensor of the frame.")
    return wire


def _detach_tensors(value: object, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):08d}"
        # safetensors refuses tensors that share memory, as two references to one adapter do.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if _TENSOR in value or not all(isinstance(key, str) for key in value):
            raise ExchangeError("message: expected dicts with plain string keys.")
        return {key: _detach_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_detach_tensors(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExchangeError(f"message: {type(value).__name__} is no wire value.")


def _attach_tensors(value: object, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, dict):
        if _TENSOR in value:
            if len(value) != 1:
                raise ExchangeError("message: expected a tensor reference to stand alone.")
            # popped: two references to one tensor would share memory
            return tensors.pop(value[_TENSOR])
        return {key: _attach_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_attach_tensors(item, tensors) for item in value]
    return value


def wire_names(where: str, names: Mapping[str, object]) -> None:
    """Nothing, if every key may be a name on the wire.

    Raises:
        ExchangeError: One may not.
    """
    bad = sum(not is_name(name) for name in names)
    if bad:
        raise ExchangeError(f"{where}: {bad} names are not identifiers of 1 to 255 characters.")
