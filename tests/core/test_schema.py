"""Schemas: the one that ships, and what a project's own file may get wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema, load_schema, parse_schema

SMALL = {
    "name": "eye",
    "version": "v2",
    "entity_labels": {"drug": "a medication"},
    "modifier_labels": {"route": "how it is given"},
    "allowed_pairs": {"drug": ["route"]},
}

# Annotation guideline v1.1, written down here a second time on purpose.
GUIDELINE = {
    "problem": "severity condition uncertain subject bodyloc course temporal negation",
    "treatment": "temporal negation",
    "drug": "strength dosage duration form frequency route temporal negation",
    "test": "labvalue reference_range temporal negation",
}


def faults(data: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        parse_schema(data, "own.toml")
    return str(refusal.value).splitlines()


def test_the_default_schema_is_the_guidelines() -> None:
    schema = default_schema()

    assert schema.id == "clinical-ie-v1"
    assert set(schema.entity_labels) == {"problem", "treatment", "test", "drug"}
    assert len(schema.modifier_labels) == 16
    allowed = {entity: set(labels.split()) for entity, labels in GUIDELINE.items()}
    for entity in schema.entity_labels:
        for modifier in schema.modifier_labels:
            assert schema.allows(modifier, entity) == (modifier in allowed[entity])


def test_every_default_label_has_a_definition_that_a_prompt_can_use() -> None:
    schema = default_schema()

    for definition in (*schema.entity_labels.values(), *schema.modifier_labels.values()):
        assert re.fullmatch(r"(a|an|the|how|for how)\b[^.\n<>]+", definition)


def test_a_schema_of_ones_own_keeps_its_order_and_pairs() -> None:
    schema = parse_schema(SMALL, "own.toml")

    assert schema.id == "eye-v2"
    assert schema.labels == ("drug", "route")
    assert schema.allows("route", "drug")
    assert not schema.allows("drug", "route")
    assert not schema.allows("route", "nothing")


def test_all_faults_are_told_at_once_each_on_a_line_with_the_file() -> None:
    found = faults(
        {
            "version": 2,
            "lables": {},
            "entity_labels": {"drug": "a medication"},
            "modifier_labels": {"route": "how it is given", "drug": "twice"},
            "allowed_pairs": {"drug": ["rout"], "tests": ["route"]},
        }
    )

    assert all(line.startswith("own.toml: ") for line in found)
    expected = ["'lables'", "name must", "version must", "both an entity", "'rout'", "'tests'"]
    assert len(found) == len(expected)
    for part in expected:
        assert sum(part in line for line in found) == 1, part


@pytest.mark.parametrize("key", ["name", "version"])
def test_a_schema_needs_a_name_and_a_version(key: str) -> None:
    (fault,) = faults({k: v for k, v in SMALL.items() if k != key})

    assert f"{key} must be a string" in fault


def test_a_schema_without_entities_is_refused() -> None:
    (fault,) = faults({"name": "x", "version": "v1"})

    assert "[entity_labels] is empty" in fault


@pytest.mark.parametrize("key", ["entity_labels", "modifier_labels"])
@pytest.mark.parametrize("wrong", [["drug"], "drug", {"drug": 3}])
def test_labels_must_be_a_table_of_definitions(key: str, wrong: object) -> None:
    found = faults({**SMALL, "allowed_pairs": {}, key: wrong})

    assert found == [f'own.toml: [{key}] must be a table of label = "definition".']


@pytest.mark.parametrize("wrong", [["drug"], "drug", 3, {"drug": "route"}, {"drug": [3]}])
def test_pairs_must_be_a_table_of_lists(wrong: object) -> None:
    found = faults({**SMALL, "allowed_pairs": wrong})

    assert found == ['own.toml: [allowed_pairs] must be a table of entity = ["modifier", ...].']


def test_a_file_is_read_with_its_path_in_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "eye"\nversion = "v2"\n[entity_labels]\ndrug = "Ü: a medication"\n')
    assert load_schema(path).entity_labels == {"drug": "Ü: a medication"}

    path.write_text('name = "eye"\n')
    with pytest.raises(ConfigError, match=re.escape(f"{path}: version must be a string")):
        load_schema(path)


@pytest.mark.parametrize("content", [b"name = ", b'name = "caf\xe9"\n', b"\x00"])
def test_a_file_that_is_not_toml_is_wrong_usage(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape(f"{path}: not TOML")):
        load_schema(path)
