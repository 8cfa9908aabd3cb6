"""The named ways to count: every score states which one it was counted with."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.evaluation.matching import (
    Rule,
    overlap,
    overlap_and_label,
    same_offsets,
    same_offsets_and_label,
)
from fedmedlora.evaluation.n2c2 import n2c2_lenient, n2c2_strict
from fedmedlora.evaluation.semeval import partly_right

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Preset:
    """How the items of one document are counted, and how documents make up a macro F1.

    Attributes:
        name: What results are filed under.
        rule: The rule of the preset's own figures.
        further: More figures that scorers of this kind give, by name.
        macro_over_documents: The macro F1 is a mean over documents, not over labels.
    """

    name: str
    rule: Rule
    further: Mapping[str, Rule] = field(default_factory=dict)
    macro_over_documents: bool = False


STRICT = Preset("strict", same_offsets_and_label)
LENIENT = Preset("lenient", overlap_and_label)
EXACT = Preset("exact", same_offsets)
PARTIAL = Preset("partial", partly_right)
PAPER = Preset("paper", same_offsets, {"lenient": overlap})
N2C2_2018 = Preset("n2c2-2018", n2c2_lenient, {"strict": n2c2_strict}, macro_over_documents=True)
I2B2_2010 = Preset("i2b2-2010", same_offsets_and_label, {"inexact": overlap_and_label})

PRESETS = {
    preset.name: preset for preset in (STRICT, LENIENT, EXACT, PARTIAL, PAPER, N2C2_2018, I2B2_2010)
}


def find_preset(name: str, *, and_all: bool = False) -> Preset:
    """The preset of this name.

    Args:
        name: Of a preset.
        and_all: Whether `all` could have been given, too, which an error then says.

    Raises:
        ConfigError: There is none.
    """
    if name in PRESETS:
        return PRESETS[name]
    known = [*PRESETS, *(["all"] if and_all else [])]
    near = get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"preset: expected one of {', '.join(known)}; got {name!r}.{hint}")
