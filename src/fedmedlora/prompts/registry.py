"""The prompt formats by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.prompts.compact import Compact
from fedmedlora.prompts.html import Html

if TYPE_CHECKING:
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.format import TagFormat

FORMATS = ("compact", "html")


def get_format(name: str, schema: TaskSchema | None = None) -> TagFormat:
    """The current version of a format.

    Raises:
        ConfigError: There is no format of this name.
    """
    if name == "compact":
        return Compact()
    if name == "html":
        return Html(schema)
    raise ConfigError(f"prompt format {name!r}: expected one of {', '.join(FORMATS)}.")
