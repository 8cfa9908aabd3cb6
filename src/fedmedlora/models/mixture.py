"""Adapters of many sites in one model: how the loss of their merge hangs on each one's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.adapters.state import FACTORS, AdapterState, LoRAPair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedmedlora.models.lora import LoRAModel

Merge = Literal["factor", "product"]


def slopes_of_merge(
    model: LoRAModel,
    adapters: Mapping[str, AdapterState],
    weights: Mapping[str, float],
    merge: Merge,
    backward: Callable[[LoRAModel], object],
) -> dict[str, float]:
    """By site, the slope of the merged model's loss along its weight.

    Products are merged exactly, before any cut to a rank: the adapters stand side by side as one of
    all their ranks, with `w_i A_i` in the place of `A_i`. Then d loss / d w_i is the inner product
    of `A_i` with the slope at its place, and one backward pass has it for every site.

    Args:
        model: Holds another adapter afterwards.
        adapters: By site; for `factor` all of one shape and scale.
        weights: By site; any numbers.
        merge: Whether factors are averaged, or products.
        backward: Leaves the slopes of a loss on the factors of the model that it is given.

    Raises:
        AdapterMismatchError: An adapter is not one of this model.
    """
    sites = sorted(adapters)
    specs = [adapters[site].spec for site in sites]
    modules = adapters[sites[0]].pairs
    found = dict.fromkeys(sites, 0.0)
    if merge == "factor":
        model.load(
            AdapterState(specs[0], _Pairs(modules, lambda m: _mean(m, sites, adapters, weights)))
        )
        model.parameters(FACTORS)
        backward(model)
        for module, slope in model.gradients():
            for site in sites:
                pair = adapters[site].pairs[module]
                found[site] += _inner(slope.A, pair.A) + _inner(slope.B, pair.B)
        return found
    ranks = [spec.rank for spec in specs]
    scaling = model.spec.scaling
    wide = replace(model.spec, rank=sum(ranks), alpha=scaling * sum(ranks), rslora=False)
    ratios = [spec.scaling / wide.scaling for spec in specs]

    def side_by_side(module: str) -> LoRAPair:
        pairs = [adapters[site].pairs[module] for site in sites]
        shares = [weights[site] * ratio for site, ratio in zip(sites, ratios, strict=True)]
        return LoRAPair(
            A=torch.cat([share * p.A.float() for share, p in zip(shares, pairs, strict=True)]),
            B=torch.cat([pair.B.float() for pair in pairs], dim=1),
        )

    model.load(AdapterState(wide, _Pairs(modules, side_by_side)))
    model.parameters(frozenset({"A"}))
    backward(model)
    for module, slope in model.gradients():
        parts = torch.split(slope.A, ranks)
        for site, part, ratio in zip(sites, parts, ratios, strict=True):
            found[site] += ratio * _inner(part, adapters[site].pairs[module].A)
    return found


class _Pairs(Mapping[str, LoRAPair]):
    """Pairs that are computed when they are asked for: one module is in memory at a time."""

    def __init__(self, modules: Mapping[str, object], pair_of: Callable[[str], LoRAPair]) -> None:
        self._modules = sorted(modules)
        self._pair_of = pair_of

    def __getitem__(self, module: str) -> LoRAPair:
        return self._pair_of(module)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _mean(
    module: str,
    sites: list[str],
    adapters: Mapping[str, AdapterState],
    weights: Mapping[str, float],
) -> LoRAPair:
    pairs = [(weights[site], adapters[site].pairs[module]) for site in sites]
    return LoRAPair(
        A=torch.stack([weight * pair.A for weight, pair in pairs]).sum(0),
        B=torch.stack([weight * pair.B for weight, pair in pairs]).sum(0),
    )


def _inner(slope: torch.Tensor, factor: torch.Tensor) -> float:
    return float((slope.double() * factor.double()).sum())
