"""The catalog is data that other parts rely on."""

from __future__ import annotations

import re

import pytest

from fedmedlora.core.errors import ModelError
from fedmedlora.models.catalog import ALL_LINEAR, DEFAULT_MODEL, PRESETS, WheelSource, preset


def test_every_preset_is_found_by_its_name_and_says_where_it_comes_from() -> None:
    for name, found in PRESETS.items():
        assert preset(name) is found
        assert found.name == name
        assert found.licence
        assert isinstance(found.source, WheelSource) or re.fullmatch(
            r"[\w.-]+/[\w.-]+", found.source
        )


def test_target_modules_are_names_of_linear_layers() -> None:
    assert all(p.target_modules for p in PRESETS.values())
    assert all(set(p.target_modules) <= set(ALL_LINEAR) for p in PRESETS.values())


def test_the_default_model_needs_no_hub_and_has_a_pinned_checksum() -> None:
    source = preset(DEFAULT_MODEL).source

    assert isinstance(source, WheelSource)
    assert re.fullmatch(r"[\w-]+==[\d.]+", source.requirement)
    assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'gpt-9': not in the catalog; .*smollm2-135m"):
        preset("gpt-9")
