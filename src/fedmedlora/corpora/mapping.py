"""Mapping files: ordered rules that turn an annotation project's own types into a schema's labels.

A mapping file is TOML. `docs/corpora.md` explains every key. The first rule that fits decides; what
no rule fits is dropped and counted. Files that ship with the package are in `mappings/`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema

if TYPE_CHECKING:
    from collections.abc import Mapping as Table

Argument = Literal["Arg1", "Arg2"]

_TOP_KEYS = {
    "name", "max_cover_characters", "text_may_stop_at_line_end", "word_lists", "entities",
    "relations", "attributes", "allowed_pairs",
}  # fmt: skip
_OUTCOMES = ("to", "keep", "drop")


@dataclass(frozen=True, slots=True)
class Link:
    """That there is a relation to a mention of one of these types, by one of these relations.

    An empty tuple takes any.
    """

    types: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of what a rule fits: a label, the label it had, or nothing, with the reason."""

    label: str | None = None
    keep: bool = False
    drop: str | None = None

    def label_for(self, native: str) -> str | None:
        """The label, None if it is dropped."""
        return native if self.keep else self.label


@dataclass(frozen=True, slots=True)
class EntityRule:
    """From native types to a label, if all conditions hold.

    Attributes:
        types: Native types.
        outcome: What they become.
        pattern: Has to be found in the mention's text; fragments are joined by a blank.
        modifies: The mention has to be the modifier in such a relation.
        modified_by: The mention has to be modified in such a relation.
        attribute: Name and value that the mention has to have; value None takes any.
    """

    types: tuple[str, ...]
    outcome: Outcome
    pattern: re.Pattern[str] | None = None
    modifies: Link | None = None
    modified_by: Link | None = None
    attribute: tuple[str, str | bool | None] | None = None


@dataclass(frozen=True, slots=True)
class RelationRule:
    """From native relations, event roles or groups to a relation, if all conditions hold.

    Attributes:
        names: Native relations and event roles; empty for a group.
        group: The group whose members are related to each other.
        outcome: What they become.
        modifier: Which argument is the modifier; an event's trigger is Arg1 of its roles.
        modifier_types: Native types that the modifier may have; empty takes any.
        entity_types: Native types that the other end may have; empty takes any.
        same_line: Both ends have to begin on one line of the note.
    """

    names: tuple[str, ...]
    group: str | None
    outcome: Outcome
    modifier: Argument
    modifier_types: tuple[str, ...] = ()
    entity_types: tuple[str, ...] = ()
    same_line: bool = False


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """Keeps an attribute in the metadata, under its own or another name."""

    names: tuple[str, ...]
    value: str | bool | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping file. `max_cover_characters` limits the span that stands for fragments."""

    name: str
    entities: tuple[EntityRule, ...]
    relations: tuple[RelationRule, ...] = ()
    attributes: tuple[AttributeRule, ...] = ()
    allowed_pairs: Table[str, tuple[str, ...]] = field(default_factory=dict)
    max_cover_characters: int = 60
    text_may_stop_at_line_end: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that mentions can get, in the order of the schema and then of the rules."""
        given = {
            label: None
            for rule in self.entities
            for native in rule.types
            if (label := rule.outcome.label_for(native)) is not None
        }
        order = default_schema().labels
        return (*(x for x in order if x in given), *(x for x in given if x not in order))

    @property
    def relation_labels(self) -> tuple[str, ...]:
        """The labels that relations can get, in the order of the rules."""
        given = {
            label: None
            for rule in self.relations
            for native in rule.names or (rule.group or "",)
            if (label := rule.outcome.label_for(native)) is not None
        }
        return tuple(given)


def shipped_mappings() -> list[str]:
    """The names of the mapping files in the package."""
    folder = resources.files("fedmedlora.corpora").joinpath("mappings")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_mapping(name_or_path: str) -> Mapping:
    """The mapping in a file, or the one of this name that ships with the package.

    Raises:
        ConfigError: There is no such mapping, or it has faults; all of them.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ConfigError(f"{path}: no such mapping file.")
        raw, where = path.read_bytes(), str(path)
    elif (name := name_or_path.replace("_", "-")) in shipped_mappings():
        file = resources.files("fedmedlora.corpora").joinpath("mappings", f"{name}.toml")
        raw, where = file.read_bytes(), name
    else:
        known = ", ".join(shipped_mappings())
        raise ConfigError(f"{name_or_path}: no such mapping; expected a .toml file or {known}.")
    try:
        data = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not TOML ({error}).") from error
    return parse_mapping(data, where)


def parse_mapping(data: Table[str, Any], where: str) -> Mapping:
    """The mapping in a parsed TOML table; `where` names its origin in error messages.

    Raises:
        ConfigError: Keys are unknown, missing or of a wrong type, a pattern is not a regular
            expression, or a label is not in the schema; all faults.
    """
    faults: list[str] = []
    top = _Fields(data, where, faults)
    top.only(_TOP_KEYS)
    lists = top.table("word_lists")
    words = {
        name: pattern
        for name, value in lists.items()
        if (pattern := _pattern(value, f"{where}: word_lists.{name}", faults))
    }
    pairs = {
        entity: _Fields(top.table("allowed_pairs"), f"{where}: allowed_pairs", faults).strings(
            entity
        )
        for entity in top.table("allowed_pairs")
    }
    mapping = Mapping(
        top.text("name") or where,
        tuple(_entity_rule(entry, words) for entry in top.tables("entities")),
        tuple(_relation_rule(entry) for entry in top.tables("relations")),
        tuple(_attribute_rule(entry) for entry in top.tables("attributes")),
        pairs or default_schema().allowed_pairs,
        top.count("max_cover_characters", 60),
        top.flag("text_may_stop_at_line_end"),
    )
    if not faults and not mapping.entities:
        faults.append(f"{where}: there is no [[entities]] rule; expected at least one.")
    if not faults and not pairs:
        faults += [
            f"{where}: the label {label!r} is not in {default_schema().id}. Correct it, or state "
            "which modifier may go with what under [allowed_pairs]."
            for label in mapping.labels
            if label not in default_schema().labels
        ]
    if faults:
        raise ConfigError("\n".join(faults))
    return mapping


def _entity_rule(entry: _Fields, words: Table[str, re.Pattern[str]]) -> EntityRule:
    entry.only(
        {"from", "text_matches", "word_list", "modifies", "modified_by", "attribute", *_OUTCOMES}
    )
    pattern = None
    if "text_matches" in entry.data:
        pattern = _pattern(entry.data["text_matches"], f"{entry.where}: text_matches", entry.faults)
    if name := entry.text("word_list"):
        if name not in words:
            entry.fault(f"there is no word list {name!r}")
        if pattern is not None:
            entry.fault("has both text_matches and word_list; expected one")
        pattern = words.get(name)
    attribute = None
    if "attribute" in entry.data:
        wanted = _Fields(entry.table("attribute"), f"{entry.where}: attribute", entry.faults)
        wanted.only({"name", "value"})
        attribute = wanted.text("name", required=True), wanted.data.get("value")
    return EntityRule(
        entry.strings("from", required=True),
        _outcome(entry),
        pattern,
        _link(entry, "modifies"),
        _link(entry, "modified_by"),
        attribute,
    )


def _link(entry: _Fields, key: str) -> Link | None:
    if key not in entry.data:
        return None
    link = _Fields(entry.table(key), f"{entry.where}: {key}", entry.faults)
    link.only({"type", "relation"})
    return Link(link.strings("type"), link.strings("relation"))


def _relation_rule(entry: _Fields) -> RelationRule:
    entry.only(
        {"from", "group", "modifier", "modifier_type", "entity_type", "same_line", *_OUTCOMES}
    )
    group = entry.text("group") or None
    outcome = _outcome(entry)
    modifier: Argument = "Arg2" if entry.text("modifier") == "Arg2" else "Arg1"
    if (group is None) == ("from" not in entry.data):
        entry.fault("expected either 'from' or 'group'")
    if group is not None and not (outcome.drop or entry.strings("modifier_type")):
        entry.fault("a group needs modifier_type, because its members have no direction")
    needs_modifier = group is None and outcome.drop is None
    if entry.text("modifier", required=needs_modifier) not in ("", "Arg1", "Arg2"):
        entry.fault("modifier is neither Arg1 nor Arg2")
    return RelationRule(
        entry.strings("from"),
        group,
        outcome,
        modifier,
        entry.strings("modifier_type"),
        entry.strings("entity_type"),
        entry.flag("same_line"),
    )


def _attribute_rule(entry: _Fields) -> AttributeRule:
    entry.only({"from", "value", *_OUTCOMES})
    return AttributeRule(
        entry.strings("from", required=True), entry.data.get("value"), _outcome(entry)
    )


def _outcome(entry: _Fields) -> Outcome:
    if len([key for key in _OUTCOMES if key in entry.data]) != 1:
        entry.fault("expected exactly one of 'to', 'keep' and 'drop'")
    if entry.data.get("keep", True) is not True:
        entry.fault("keep is not true")
    return Outcome(entry.text("to") or None, "keep" in entry.data, entry.text("drop") or None)


def _pattern(value: Any, where: str, faults: list[str]) -> re.Pattern[str] | None:
    try:
        return re.compile(value, re.IGNORECASE)
    except (re.error, TypeError) as error:
        faults.append(f"{where} is not a regular expression ({error}).")
        return None


class _Fields:
    """Typed access to a TOML table; what is wrong with it goes to `faults`."""

    def __init__(self, data: Table[str, Any], where: str, faults: list[str]) -> None:
        self.data = data
        self.where = where
        self.faults = faults

    def fault(self, reason: str) -> None:
        self.faults.append(f"{self.where}: {reason}.")

    def only(self, known: set[str]) -> None:
        for key in sorted(self.data.keys() - known):
            self.fault(f"unknown key {key!r}; expected {', '.join(sorted(known))}")

    def text(self, key: str, *, required: bool = False) -> str:
        value = self.data.get(key, "")
        if not isinstance(value, str) or (not value and (required or key in self.data)):
            self.fault(f"{key} is missing, empty or not a string")
            return ""
        return value

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            self.fault(f"{key} is not true or false")
        return value is True

    def count(self, key: str, default: int) -> int:
        value = self.data.get(key, default)
        if type(value) is not int or value < 0:
            self.fault(f"{key} is not a whole number, zero or more")
            return default
        return value

    def strings(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        value = self.data.get(key, [])
        listed = [value] if isinstance(value, str) else value
        if (
            not isinstance(listed, list)
            or not all(isinstance(item, str) and item for item in listed)
            or (not listed and (required or key in self.data))
        ):
            self.fault(f"{key} is missing, empty or neither a string nor a list of strings")
            return ()
        return tuple(listed)

    def table(self, key: str) -> Table[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            self.fault(f"{key} is not a table")
            return {}
        return value

    def tables(self, key: str) -> list[_Fields]:
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fault(f"{key} is not a list of tables, [[{key}]]")
            return []
        return [
            _Fields(item, f"{self.where}: {key} rule {number}", self.faults)
            for number, item in enumerate(value, 1)
        ]
