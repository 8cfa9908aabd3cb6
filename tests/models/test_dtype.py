"""The number type: bfloat16 only where it is clearly faster."""

from __future__ import annotations

import time

import pytest
import torch

from fedmedlora.models import dtype as choosing
from fedmedlora.models.dtype import choose_dtype


@pytest.mark.parametrize(
    ("float32_seconds", "bfloat16_seconds", "name"),
    [(3.0, 1.0, "bfloat16"), (1.1, 1.0, "float32"), (1.0, 1.0, "float32"), (1.0, 3.0, "float32")],
)
def test_bfloat16_must_be_clearly_faster_to_be_chosen(
    monkeypatch: pytest.MonkeyPatch, float32_seconds: float, bfloat16_seconds: float, name: str
) -> None:
    taken = {torch.float32: float32_seconds, torch.bfloat16: bfloat16_seconds}
    monkeypatch.setattr(choosing, "_seconds", taken.__getitem__)

    choice = choose_dtype()
    assert choice.name == name
    assert choice.reason.startswith(f"{name}: ")


def test_measuring_takes_a_moment() -> None:
    started = time.perf_counter()
    choice = choose_dtype()

    assert 0 < choice.float32_seconds + choice.bfloat16_seconds < time.perf_counter() - started < 10
