"""Arithmetic on adapters that needs no model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fedmedlora.adapters.state import AdapterState


def change_norm(before: AdapterState, after: AdapterState) -> float:
    """Frobenius norm of the change of all factors that both adapters hold.

    The norm of the factors' change, not of the products'; accumulated in float64.
    """
    total = 0.0
    for (_, _, old), (_, _, new) in zip(before.tensors(), after.tensors(), strict=True):
        if new.numel() and old.numel():
            total += float((new.to(torch.float64) - old.to(torch.float64)).square().sum())
    return math.sqrt(total)
