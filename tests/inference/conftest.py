"""Tiny models, built once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from fedmedlora.models.load import BaseModel
from fedmedlora.testing.tiny import tiny_base


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseModel]:
    """A tiny base model by shape, seed and dtype; the same object for the same arguments."""

    @cache
    def build(shape: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> BaseModel:
        return tiny_base(tmp_path_factory.mktemp("tiny"), shape, seed, dtype)  # type: ignore[arg-type]

    return build
