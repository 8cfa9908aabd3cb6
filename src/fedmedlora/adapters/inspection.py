"""What can be said of an adapter without its model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.adapters.algebra import check_products, product_distance, product_norm
from fedmedlora.adapters.stacks import largest_components, stack

if TYPE_CHECKING:
    from fedmedlora.adapters.state import AdapterState

# The share of a product's energy that its leading components shall hold.
_MOST = 0.9


def inspect_adapter(adapter: AdapterState, against: AdapterState | None = None) -> dict[str, Any]:
    """Spec, size, and by module the norm and spectrum of `scaling * B @ A`; as JSON can hold it.

    `rank_used` counts the components that are there at all, `rank_for_90_percent` those that hold
    so much of the squared norm. With `against`, also how far apart the two products are. Norms of
    an adapter with numbers that are not finite are null.

    Raises:
        AdapterMismatchError: A factor is missing, or the other adapter is for something else.
    """
    check_products(adapter, adapter, "adapter")
    spec = adapter.spec
    finite = adapter.is_finite()
    found: dict[str, Any] = {
        "base_model": spec.base_model,
        "revision": spec.revision,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "scaling": spec.scaling,
        "dtype": spec.dtype,
        "target_modules": list(spec.target_modules),
        "num_modules": len(adapter.pairs),
        "num_parameters": adapter.num_parameters,
        "num_bytes": adapter.num_bytes,
        "finite": finite,
        "norm": product_norm(adapter) if finite else None,
        "modules": [_describe(adapter, module) for module in adapter.pairs],
    }
    if against is not None:
        found["against"] = _compare(adapter, against, finite)
    return found


def _describe(adapter: AdapterState, module: str) -> dict[str, Any]:
    pair = adapter.pairs[module]
    left, right = stack([pair])
    row: dict[str, Any] = {"module": module, "d_out": len(left), "d_in": right.shape[1]}
    if not (bool(torch.isfinite(left).all()) and bool(torch.isfinite(right).all())):
        return row | {"norm": None, "rank_used": None, "rank_for_90_percent": None}
    sigmas = largest_components(left * adapter.spec.scaling, right, pair.rank).sigmas
    energy = sigmas.square().cumsum(0)
    needed = int((energy < _MOST * energy[-1]).sum()) + 1 if len(sigmas) else 0
    return row | {
        "norm": float(sigmas.norm()),
        "rank_used": len(sigmas),
        "rank_for_90_percent": needed,
    }


def _compare(adapter: AdapterState, against: AdapterState, finite: bool) -> dict[str, Any]:
    check_products(against, adapter, "comparison of two adapters")
    if not (finite and against.is_finite()):
        return {"norm": None, "distance": None, "relative_distance": None, "cosine": None}
    distance = product_distance(adapter, against)
    norm, other = product_norm(adapter), product_norm(against)
    both = norm * other
    inner = (norm**2 + other**2 - distance**2) / 2
    return {
        "norm": other,
        "distance": distance,
        "relative_distance": distance / other if other else None,
        "cosine": max(-1.0, min(1.0, inner / both)) if both and math.isfinite(both) else None,
    }
