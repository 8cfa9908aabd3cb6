"""The device that a model runs on."""

from __future__ import annotations

import torch

from fedmedlora.core.errors import ConfigError


def device_of(wanted: str, *, asked_by: str) -> str:
    """`cpu` or `cuda`; of `auto` a GPU, if torch can use one.

    `asked_by` opens the error message: the setting or option, as the user wrote it.

    Raises:
        ConfigError: A GPU is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError(
            f"{asked_by}: this machine has no GPU that torch can use. "
            'Take "cpu", or "auto", which takes what is there.'
        )
    if wanted == "auto":
        return "cuda" if there else "cpu"
    return wanted
