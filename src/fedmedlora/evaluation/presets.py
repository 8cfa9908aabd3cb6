"""The named ways to count: every score states which one it was counted with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.evaluation.matching import Pair, match_lenient, match_strict
from fedmedlora.evaluation.relations import Link, match_links_lenient, match_links_strict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.core.document import Entity


@dataclass(frozen=True, slots=True)
class Preset:
    """How entities and links of one document are matched; both give `(gold, predicted)` pairs."""

    name: str
    match_entities: Callable[[Sequence[Entity], Sequence[Entity]], list[Pair]]
    match_links: Callable[[Sequence[Link], Sequence[Link]], list[Pair]]


STRICT = Preset("strict", match_strict, match_links_strict)
LENIENT = Preset("lenient", match_lenient, match_links_lenient)

PRESETS = {preset.name: preset for preset in (STRICT, LENIENT)}


def find_preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ConfigError: There is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise ConfigError(f"preset: expected one of {known}; got {name!r}.") from None
