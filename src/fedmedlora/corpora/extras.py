"""What annotation tools store beside entities and relations, kept in a document's metadata.

Mapping files read it, and the BRAT writer gives it back. All of it is plain JSON, so that it also
survives as JSON lines. Ids in it are those of the document's entities and relations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document

ATTRIBUTES = "attributes"
"""`[{"target": id, "name": "POLARITY", "value": "NEG"}, ...]`; value `true` for a bare flag."""
GROUPS = "groups"
"""`[{"label": "OVERLAP", "members": [id, ...]}, ...]`."""
ROLES = "roles"
"""`[{"label": "Dose", "head": id, "tail": id}, ...]`: an event's trigger and its argument."""


def items(document: Document, kind: str) -> Sequence[dict[str, Any]]:
    """The document's extras of one kind; none if its metadata has something else there."""
    found = document.metadata.get(kind, ())
    if not isinstance(found, list) or not all(map(_SHAPES[kind], found)):
        return ()
    return found


def _is_attribute(item: Any) -> bool:
    return (
        _has_strings(item, {"target", "name", "value"}, "target", "name")
        and isinstance(item["value"], (str, bool))
        and item["value"] is not False
    )


def _is_group(item: Any) -> bool:
    return (
        _has_strings(item, {"label", "members"}, "label")
        and isinstance(item["members"], list)
        and all(isinstance(member, str) for member in item["members"])
    )


def _is_role(item: Any) -> bool:
    return _has_strings(item, {"label", "head", "tail"}, "label", "head", "tail")


def _has_strings(item: Any, keys: set[str], *strings: str) -> bool:
    return (
        isinstance(item, dict)
        and item.keys() == keys
        and all(isinstance(item[key], str) and item[key] for key in strings)
    )


_SHAPES = {ATTRIBUTES: _is_attribute, GROUPS: _is_group, ROLES: _is_role}
