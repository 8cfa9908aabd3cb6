"""What is wrong with single settings of a study, in words and with the line to write."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from fedmedlora.aggregation import StrategyConfig
from fedmedlora.core.suggest import closest, did_you_mean
from fedmedlora.study.config import StudyConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Place = tuple[int | str, ...]

_MAX_SHOWN = 60
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string in quotes",
    "path_type": "a path in quotes",
    "tuple_type": 'a list, such as ["...", "..."]',
    "model_type": "a table",
    "dict_type": "a table",
}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_TO_WRITE = {
    "name": 'name = "..."',
    "corpus": 'corpus = "FOLDER"',
    "site": 'site = "..."',
    "sites": '[[sites]], and below it name = "..." and corpus = "FOLDER"',
}
_TABLES = (("sites",), ("cohorts",), ("strategies",), ("server_notes", "corpora"))
"""Settings that are lists of tables."""
_STRATEGIES: dict[str, type[BaseModel]] = {
    kind.model_fields["name"].default: kind for kind in get_args(get_args(StrategyConfig)[0])
}


def wrong_parts(error: ValidationError, values: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """The place of each fault in the study's plain values, and what is wrong there."""
    found = error.errors(include_url=False, include_input=False)
    places = [fault["loc"] for fault in found]
    by_place: dict[Place, list[dict[str, Any]]] = {}
    for fault in found:
        # A list whose items are wrong is told to be too short as well.
        inside = any(other[: len(fault["loc"])] == fault["loc"] != other for other in places)
        if not (fault["type"] == "too_short" and inside):
            by_place.setdefault(_place(fault["loc"]), []).append(dict(fault))
    return [(place, _hint(place, faults, values)) for place, faults in by_place.items()]


def _place(loc: Place) -> Place:
    """Where the setting stands in the file: pydantic also names kinds of strategies and types."""
    if loc[0] == "strategies" and len(loc) > 2:
        loc = (*loc[:2], *loc[3:])
    if re.match(r"constrained-|literal\[", str(loc[-1])):
        loc = loc[:-1]
    return loc


def _hint(place: Place, faults: Sequence[dict[str, Any]], values: Mapping[str, Any]) -> str:
    first = faults[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return _unknown_key(place, values)
    if kind == "missing":
        line = _TO_WRITE.get(str(place[-1]), f"{place[-1]} = ...")
        return f"missing. Write {line}"
    if kind == "union_tag_invalid":
        got = str(first["ctx"]["tag"])
        hint = did_you_mean(got, _STRATEGIES) or f" Expected one of {', '.join(_STRATEGIES)}."
        return f"no strategy is called {got!r}.{hint}".removesuffix(".")
    if kind == "union_tag_not_found":
        return 'name is missing; expected that of a strategy. Write name = "fedavg", for example'
    if kind == "value_error":
        return str(first["ctx"]["error"])
    expected = [words for fault in faults if (words := _expected(place, fault))]
    if len(expected) < len(faults):  # a kind of fault that has no words of ours
        return str(first["msg"])
    got = _value_at(place, values)
    hint = ""
    if isinstance(got, str) and place[0] == "strategies" and len(place) <= 2:
        name = got if got in _STRATEGIES else closest(got, _STRATEGIES) or "fedavg"
        hint = f' Write [[strategies]], and below it name = "{name}"'
    elif isinstance(got, str) and first["type"] == "tuple_type" and place not in _TABLES:
        hint = f" Write {place[-1]} = [{_shown(got)}]"
    elif isinstance(got, str):
        choices = [c for fault in faults for c in _choices(fault)]
        hint = did_you_mean(got, choices)
    # A list of choices has an "or" of its own.
    between = ", " if " or " in expected[-1] else " or "
    told = f"expected {between.join(dict.fromkeys(expected))}, got {_shown(got)}"
    return f"{told}.{hint}".removesuffix(".")


def _expected(place: Place, fault: Mapping[str, Any]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"{words} {context[key]:g}"
    if kind == "literal_error":
        return re.sub(r"'([^']*)'", r'"\1"', str(context["expected"]))
    if kind == "too_short":
        what = "[[sites]]" if place == ("sites",) else "item"
        return f"at least {context['min_length']} {what}"
    if kind == "model_type" and len(place) == 1:
        return f"a table, [{place[0]}]"
    if kind == "tuple_type" and place in _TABLES:
        return f"tables, each below a line [[{'.'.join(map(str, place))}]]"
    return _KINDS.get(kind, "")


def _choices(fault: Mapping[str, Any]) -> list[str]:
    if fault["type"] != "literal_error":
        return []
    return re.findall(r"'([^']*)'", str(fault["ctx"]["expected"]))


def _value_at(place: Place, values: Any) -> Any:
    for part in place:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + " ..."


def _unknown_key(place: Place, values: Mapping[str, Any]) -> str:
    """An unknown key: what was probably meant, or the table that it belongs to."""
    key = str(place[-1])
    here = _model_at(place[:-1], values)
    near = closest(key, here.model_fields) if here else None
    if near:
        return f"unknown key. Did you mean {near}?".removesuffix(".")
    homes = _homes(key)
    if homes and not (here and key in here.model_fields):
        return f"unknown key here; it belongs to {' or '.join(homes)}"
    known = f". Expected some of {', '.join(here.model_fields)}" if here else ""
    return f"unknown key{known}"


def _model_at(place: Place, values: Mapping[str, Any]) -> type[BaseModel] | None:
    """The settings that may stand at a place."""
    model: type[BaseModel] = StudyConfig
    for number, part in enumerate(place):
        if isinstance(part, int):
            continue
        if part == "strategies" and number == 0:
            chosen = _STRATEGIES.get(str(_value_at((*place[:2], "name"), values)))
            if chosen is None:
                return None
            model = chosen
            continue
        field = model.model_fields.get(part)
        inner = None if field is None else _model_in(field.annotation)
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in an annotation such as `tuple[SiteConfig, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := _model_in(part))), None)


def _homes(key: str) -> list[str]:
    """The tables of a study file in which a key, or one near it, is known."""
    found = []
    for table, field in StudyConfig.model_fields.items():
        model = None if table == "strategies" else _model_in(field.annotation)
        if model is None:
            continue
        brackets = f"[[{table}]]" if table in ("sites", "cohorts") else f"[{table}]"
        if key in model.model_fields:
            found.append(brackets)
        elif near := closest(key, model.model_fields):
            found.append(f"{brackets} as {near}")
    exact = [home for home in found if " as " not in home]
    if key in StudyConfig.model_fields:
        return ["the top of the file, before the first table"]
    return exact or found
