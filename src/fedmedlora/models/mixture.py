"""Adapters of many sites in one model: how the loss of their merge hangs on each one's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.adapters.state import FACTORS, AdapterState, LoRAPair
from fedmedlora.models.lora import LoRAModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedmedlora.adapters.state import AdapterSpec

Merge = Literal["factor", "product"]


class Mixture:
    """The merged model as a function of the weights, on the base weights of another model.

    Products are merged exactly, before any cut to a rank: the adapters stand side by side as one of
    all their ranks, with `w_i A_i` in the place of `A_i`. Then d loss / d w_i is the inner product
    of `A_i` with the slope at its place, and one backward pass has it for every site.
    """

    def __init__(self, model: LoRAModel) -> None:
        self._model = model
        self._wide: LoRAModel | None = None

    def slopes(
        self,
        adapters: Mapping[str, AdapterState],
        weights: Mapping[str, float],
        merge: Merge,
        backward: Callable[[LoRAModel], object],
    ) -> dict[str, float]:
        """By site, the slope of a loss along its weight.

        Args:
            adapters: By site; for `factor` all of the model's own shape.
            weights: By site; any numbers.
            merge: Whether factors are averaged, or products.
            backward: Leaves the slopes of the loss on the factors of the model that it is given.

        Raises:
            AdapterMismatchError: An adapter is not one of this model.
        """
        sites = sorted(adapters)
        specs = [adapters[site].spec for site in sites]
        found = dict.fromkeys(sites, 0.0)
        if merge == "factor":
            model = self._model
            pairs = _Pairs(adapters[sites[0]].pairs, lambda m: _mean(m, sites, adapters, weights))
            model.load(AdapterState(specs[0], pairs))
            model.parameters(FACTORS)
            backward(model)
            for module, slope in model.gradients():
                for site in sites:
                    pair = adapters[site].pairs[module]
                    found[site] += _inner(slope.A, pair.A) + _inner(slope.B, pair.B)
            return found
        model = self._side_by_side(sum(spec.rank for spec in specs))
        ratios = [spec.scaling / model.spec.scaling for spec in specs]
        pairs = _Pairs(
            adapters[sites[0]].pairs,
            lambda m: LoRAPair(
                A=torch.cat(
                    [
                        adapters[site].pairs[m].A.float() * (weights[site] * ratio)
                        for site, ratio in zip(sites, ratios, strict=True)
                    ]
                ),
                B=torch.cat([adapters[site].pairs[m].B.float() for site in sites], dim=1),
            ),
        )
        model.load(AdapterState(model.spec, pairs))
        model.parameters(frozenset({"A"}))
        backward(model)
        for module, slope in model.gradients():
            parts = torch.split(slope.A, [spec.rank for spec in specs])
            for site, part, ratio in zip(sites, parts, ratios, strict=True):
                found[site] += ratio * _inner(part, adapters[site].pairs[module].A)
        return found

    def _side_by_side(self, rank: int) -> LoRAModel:
        """A model of this rank on the same base weights, kept for the next call."""
        if self._wide is None or self._wide.spec.rank != rank:
            spec = self._model.spec
            wide: AdapterSpec = replace(spec, rank=rank, alpha=spec.scaling * rank, rslora=False)
            self._wide = None  # before the new one is there
            self._wide = LoRAModel(self._model.base, wide)
        return self._wide


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
