"""Decoders by the name that a user gives. Nothing heavy is imported before one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedmedlora.inference.decoder import Decoder
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat

DecoderName = Literal["copy", "step"]


def make_decoder(name: DecoderName, base: BaseModel, tags: TagFormat, batch_size: int) -> Decoder:
    """The decoder of that name.

    Args:
        name: Which.
        base: The model, adapters merged.
        tags: The prompts' format.
        batch_size: Windows decoded side by side.
    """
    match name:
        case "copy":
            from fedmedlora.inference.copy_decoder import CopyDecoder

            return CopyDecoder(base, tags, batch_size=batch_size)
        case "step":
            from fedmedlora.inference.step_decoder import StepDecoder

            return StepDecoder(base, tags, batch_size=batch_size)
