"""Decoders by the name that a user gives. Nothing heavy is imported before one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedmedlora.core.errors import ConfigError
from fedmedlora.prompts.relation_format import RelationFormat

if TYPE_CHECKING:
    from fedmedlora.inference.decoder import Decoder
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import PromptFormat

DecoderName = Literal["copy", "step", "generate"]


def make_decoder(
    name: DecoderName,
    base: BaseModel,
    prompt_format: PromptFormat | RelationFormat,
    batch_size: int,
    open_bonus: float = 0.0,
) -> Decoder:
    """The decoder of that name.

    Args:
        name: Which. `copy` and `step` can only copy the text with tags; `generate` writes freely.
        base: The model, adapters merged.
        prompt_format: The prompts' format.
        batch_size: Windows decoded side by side.
        open_bonus: Of tags that open, in constrained decoding (`calibration`).

    Raises:
        ConfigError: The decoder needs a format with tags, and this one has none; or it writes
            freely, and the format is one of relations.
    """
    match name:
        case "copy":
            from fedmedlora.inference.copy_decoder import CopyDecoder
            from fedmedlora.inference.cursors import require_copying

            tags = require_copying(prompt_format)
            return CopyDecoder(base, tags, batch_size=batch_size, open_bonus=open_bonus)
        case "step":
            from fedmedlora.inference.cursors import require_copying
            from fedmedlora.inference.step_decoder import StepDecoder

            tags = require_copying(prompt_format)
            return StepDecoder(base, tags, batch_size=batch_size, open_bonus=open_bonus)
        case "generate":
            from fedmedlora.inference.generate_decoder import GenerateDecoder

            if isinstance(prompt_format, RelationFormat):
                raise ConfigError(
                    "generate decoder: answers entity prompts only; expected the task entities, "
                    "got relations. Use the copy decoder."
                )
            return GenerateDecoder(base, prompt_format, batch_size=batch_size)
