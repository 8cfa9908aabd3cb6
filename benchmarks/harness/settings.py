"""A benchmark's settings from `--set KEY=VALUE`, checked against its config dataclass."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def make_config(kind: type[Any], preset: Mapping[str, Any], settings: Sequence[str]) -> Any:
    """A `kind` with its defaults, changed by `preset` and then by `KEY=VALUE` settings.

    Values are read as JSON where they are JSON (`batch_sizes=[1,8]`), else as text.

    Raises:
        ConfigError: A key is unknown or a value does not fit; carries all faults.
    """
    known = [field.name for field in fields(kind)]
    values, faults = dict(preset), []
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or key not in known:
            faults.append(f"--set {setting}: expected KEY=VALUE with one of {', '.join(known)}.")
            continue
        values[key] = _value(value)
    if faults:
        raise ConfigError("\n".join(faults))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        found = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        raise ConfigError("\n".join(f"--set {key}: {what}." for key, what in found)) from None


def plain(config: Any) -> dict[str, Any]:
    """The settings for the record. Of a path only the last part, which names no machine."""
    if not is_dataclass(config):
        raise TypeError(f"benchmark config: expected a dataclass, got {type(config).__name__}.")
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.resolve().name
    return list(value) if isinstance(value, tuple) else value
