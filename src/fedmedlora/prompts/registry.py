"""The prompt formats by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from fedmedlora.core.errors import ConfigError
from fedmedlora.prompts.compact import Compact
from fedmedlora.prompts.html import Html
from fedmedlora.prompts.json_list import JsonList

if TYPE_CHECKING:
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.format import PromptFormat, TagFormat

TAG_FORMATS = ("compact", "html")
FORMATS = (*TAG_FORMATS, "json")


@overload
def get_format(name: Literal["compact", "html"], schema: TaskSchema | None = None) -> TagFormat: ...


@overload
def get_format(name: str, schema: TaskSchema | None = None) -> PromptFormat: ...


def get_format(name: str, schema: TaskSchema | None = None) -> PromptFormat:
    """The current version of a format.

    Raises:
        ConfigError: There is no format of this name.
    """
    if name == "compact":
        return Compact()
    if name == "html":
        return Html(schema)
    if name == "json":
        return JsonList()
    raise ConfigError(f"prompt format {name!r}: expected one of {', '.join(FORMATS)}.")
