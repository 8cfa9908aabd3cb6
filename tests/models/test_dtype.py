"""The number type and the kernel: the less exact or less usual one only where clearly faster."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from fedmedlora.models import dtype as choosing
from fedmedlora.models.dtype import choose_dtype
from fedmedlora.models.kernels import linear


@pytest.mark.parametrize(
    ("float32", "onednn", "bfloat16", "name", "kernel"),
    [
        (3.0, 3.0, 1.0, "bfloat16", "torch"),
        (3.0, 1.1, 1.0, "float32", "onednn"),  # bfloat16 must beat the best float32
        (4.0, 2.0, 1.0, "bfloat16", "onednn"),
        (1.1, 1.1, 1.0, "float32", "torch"),
        (1.1, 1.0, 1.1, "float32", "torch"),
        (1.0, 3.0, 3.0, "float32", "torch"),
        (3.0, None, 1.0, "bfloat16", "torch"),
        (1.0, None, 3.0, "float32", "torch"),
    ],
)
def test_what_is_chosen_must_be_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
    float32: float,
    onednn: float | None,
    bfloat16: float,
    name: str,
    kernel: str,
) -> None:
    taken = {
        (torch.float32, "torch"): float32,
        (torch.float32, "onednn"): onednn,
        (torch.bfloat16, "torch"): bfloat16,
    }
    monkeypatch.setattr(choosing, "_seconds", lambda *key, **_: taken[key])
    monkeypatch.setattr(choosing, "onednn_available", lambda: onednn is not None)

    choice = choose_dtype()
    assert (choice.name, choice.kernel) == (name, kernel)
    assert choice.reason.startswith(f"{name}: bfloat16 products run {float32 / bfloat16:.1f} times")
    assert ("oneDNN" in choice.reason) == (onednn is not None)


def test_measuring_takes_few_products_and_can_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []

    def counted(x: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(x.shape[0])
        return linear(x, *others)

    monkeypatch.setattr(choosing, "linear", counted)
    choice = choose_dtype()
    recorded = json.loads(json.dumps(choice.to_json()))

    assert recorded["float32_seconds"] > 0
    assert recorded["bfloat16_seconds"] > 0
    assert recorded["reason"] == choice.reason
    assert sum(rows) <= 50 * 512


def test_of_products_that_are_emulated_only_a_small_share_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    half: list[int] = []

    def emulated(x: torch.Tensor, *_: Any) -> None:
        nonlocal clock
        slower = 30 if x.dtype == torch.bfloat16 else 1
        clock += slower * x.shape[0] / 512
        half.extend([x.shape[0]] * (slower > 1))

    monkeypatch.setattr(choosing, "linear", emulated)
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    choice = choose_dtype()

    assert choice.name == "float32"
    assert choice.bfloat16_seconds == pytest.approx(60)
    assert sum(half) <= 512 / 4


def test_on_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda known=supported: known)
        choice = choose_dtype("cuda")
        assert (choice.name, choice.kernel, choice.float32_seconds) == (name, "torch", None)
        assert choice.reason.startswith(f"{name}: ")
