"""The task schema: which labels there are, what they mean, and which modifier may go with what."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TaskSchema:
    """Entity and modifier labels with their definitions, in the order prompts name them.

    `allowed_pairs` maps an entity label to the modifier labels that may be linked to it.
    """

    name: str
    version: str
    entity_labels: Mapping[str, str]
    modifier_labels: Mapping[str, str]
    allowed_pairs: Mapping[str, tuple[str, ...]]

    @property
    def id(self) -> str:
        """Name and version, e.g. `clinical-ie-v1`."""
        return f"{self.name}-{self.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, entities first."""
        return (*self.entity_labels, *self.modifier_labels)

    def allows(self, modifier: str, entity: str) -> bool:
        """Whether a modifier of this label may be linked to an entity of that label."""
        return modifier in self.allowed_pairs.get(entity, ())


def _labels(data: Mapping[str, Any], key: str, where: str, faults: list[str]) -> dict[str, str]:
    table = data.get(key, {})
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        faults.append(f'{where}: [{key}] must be a table of label = "definition".')
        return {}
    return dict(table)


def _pairs(data: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, tuple[str, ...]]:
    table = data.get("allowed_pairs", {})
    if not isinstance(table, dict) or not all(
        isinstance(allowed, list) and all(isinstance(modifier, str) for modifier in allowed)
        for allowed in table.values()
    ):
        faults.append(f'{where}: [allowed_pairs] must be a table of entity = ["modifier", ...].')
        return {}
    return {entity: tuple(allowed) for entity, allowed in table.items()}


def parse_schema(data: Mapping[str, Any], where: str) -> TaskSchema:
    """The schema in a parsed TOML table; `where` names its origin in error messages.

    Raises:
        ConfigError: Keys are unknown or missing, or a pair names a label that is not defined.
    """
    faults: list[str] = []
    known = {"name", "version", "entity_labels", "modifier_labels", "allowed_pairs"}
    faults += [f"{where}: unknown key {key!r}." for key in sorted(set(data) - known)]
    faults += [
        f"{where}: {key} must be a string."
        for key in ("name", "version")
        if not isinstance(data.get(key), str)
    ]
    entities = _labels(data, "entity_labels", where, faults)
    modifiers = _labels(data, "modifier_labels", where, faults)
    if not entities and not faults:
        faults.append(f"{where}: [entity_labels] is empty; expected at least one label.")
    faults += [
        f"{where}: {label!r} is both an entity and a modifier."
        for label in sorted(set(entities) & set(modifiers))
    ]
    pairs = _pairs(data, where, faults)
    for entity, allowed in pairs.items():
        if entity not in entities:
            faults.append(f"{where}: [allowed_pairs] names the unknown entity {entity!r}.")
        faults += [
            f"{where}: [allowed_pairs] {entity} names the unknown modifier {modifier!r}."
            for modifier in allowed
            if modifier not in modifiers
        ]
    if faults:
        raise ConfigError("\n".join(faults))
    return TaskSchema(data["name"], data["version"], entities, modifiers, pairs)


def load_schema(path: Path) -> TaskSchema:
    """The schema in a TOML file.

    Raises:
        ConfigError: The file is not TOML or not a schema.
    """
    try:
        with path.open("rb") as file:
            return parse_schema(tomllib.load(file), str(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}).") from error


@cache
def default_schema() -> TaskSchema:
    """`clinical-ie-v1`, the schema that ships with the package."""
    text = resources.files("fedmedlora.core").joinpath("schema.toml").read_text("utf-8")
    return parse_schema(tomllib.loads(text), "clinical-ie-v1")
