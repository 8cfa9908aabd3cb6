"""The grammar that goes with a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import RelationPrompt
from fedmedlora.inference.cursor import CopyCursor
from fedmedlora.inference.relation_cursor import RelationCursor
from fedmedlora.prompts.format import TagFormat, require_tags
from fedmedlora.prompts.relation_format import RelationFormat

if TYPE_CHECKING:
    from fedmedlora.core.example import Prompt
    from fedmedlora.inference.cursor import Cursor
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import PromptFormat

Tags = TagFormat | RelationFormat


def require_copying(formatted: PromptFormat | RelationFormat) -> Tags:
    """The format itself, if its answers copy the text with tags, as constrained decoding needs.

    Raises:
        ConfigError: They do not.
    """
    return formatted if isinstance(formatted, RelationFormat) else require_tags(formatted)


def start_of(prompt: Prompt, tags: Tags, tokenizer: PieceTokenizer) -> Cursor:
    """The cursor at the start of the prompt's answer.

    Raises:
        ConfigError: The prompt is not of this format's task.
    """
    if isinstance(prompt, RelationPrompt) and isinstance(tags, RelationFormat):
        return RelationCursor(prompt, tags, tokenizer)
    if isinstance(prompt, RelationPrompt) or not isinstance(tags, TagFormat):
        raise ConfigError(
            f"decoder: expected prompts of the format {tags.id}, got one of another task."
        )
    return CopyCursor(prompt, tags, tokenizer)
