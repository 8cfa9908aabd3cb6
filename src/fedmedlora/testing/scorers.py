"""Validation notes of a server that has no language model: exact losses, exact gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedmedlora.aggregation.strategy import NoteLosses
from fedmedlora.core.seeds import derive_seed, numpy_rng

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from numpy.typing import NDArray

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Merge
    from fedmedlora.core.example import Task


@dataclass(frozen=True, slots=True)
class ProbeScorer:
    """A scorer whose note `n` asks how far the adapter is from what that note wants.

    The loss is `sqrt(1 + e^2) - 1` with `e` the mean over modules of `<P_n, scaling * B A>`, minus
    `t_n`, with a random probe `P_n` and target `t_n`: it is finite for every finite adapter,
    depends on the product only, and differs from note to note.

    Attributes:
        seed: Of probes and targets.
        notes: The numbers of the notes that are asked.
        support: Labels by site, if somebody said, for every task. Labels change no loss here.
    """

    seed: int = 0
    notes: tuple[int, ...] = tuple(range(12))
    support: tuple[tuple[str, frozenset[str]], ...] = ()
    task: Task = "entities"

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The loss on every note, both kinds alike."""
        products = {
            module: adapter.spec.scaling * pair.B.double() @ pair.A.double()
            for module, pair in adapter.pairs.items()
        }
        errors = self._errors(products)
        losses = np.sqrt(1 + errors**2) - 1
        return NoteLosses({self.task: losses}, {self.task: losses})

    def weight_gradient(
        self, adapters: Mapping[str, AdapterState], weights: Mapping[str, float], merge: Merge
    ) -> dict[str, float]:
        """By the chain rule, in float64."""
        modules = list(next(iter(adapters.values())).pairs)
        merged: dict[str, torch.Tensor] = {}
        slopes: dict[str, dict[str, torch.Tensor]] = {site: {} for site in adapters}
        for module in modules:
            sites = {
                site: (adapter.spec.scaling, adapter.pairs[module])
                for site, adapter in adapters.items()
            }
            if merge == "product":
                for site, (scaling, pair) in sites.items():
                    slopes[site][module] = scaling * pair.B.double() @ pair.A.double()
                parts = [weights[site] * slopes[site][module] for site in sites]
                merged[module] = torch.stack(parts).sum(0)
                continue
            A = torch.stack([weights[s] * pair.A.double() for s, (_, pair) in sites.items()]).sum(0)
            B = torch.stack([weights[s] * pair.B.double() for s, (_, pair) in sites.items()]).sum(0)
            for site, (scaling, pair) in sites.items():
                slopes[site][module] = scaling * (B @ pair.A.double() + pair.B.double() @ A)
                merged[module] = scaling * B @ A
        errors = self._errors(merged)
        outer = errors / np.sqrt(1 + errors**2) / len(self.notes)
        return {site: float(outer @ self._asked(slopes[site])) for site in adapters}

    def labels_of(self, site: str, task: Task) -> frozenset[str] | None:  # noqa: ARG002
        """As `support` says."""
        return dict(self.support).get(site)

    def asking(self, task: Task, labels: Set[str]) -> ProbeScorer:  # noqa: ARG002  # no difference
        """The scorer itself."""
        return self

    def half(self, which: int) -> ProbeScorer:
        """Every second note."""
        return replace(self, notes=self.notes[which::2])

    def drawn(self, num_notes: int, seed: int) -> ProbeScorer:
        """So many notes."""
        if num_notes >= len(self.notes):
            return self
        chosen = numpy_rng(seed, "drawn").choice(len(self.notes), num_notes, replace=False)
        return replace(self, notes=tuple(self.notes[index] for index in sorted(chosen)))

    def _errors(self, products: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        return self._asked(products) - _targets(self.seed, self.notes)

    def _asked(self, products: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """What every note's probe sees of the products."""
        seen = np.zeros(len(self.notes))
        for module, product in products.items():
            probes = _probes(self.seed, self.notes, module, tuple(product.shape))
            seen += (probes * product).sum((1, 2)).numpy() / len(products)
        return seen


@lru_cache(maxsize=64)
def _targets(seed: int, notes: tuple[int, ...]) -> NDArray[np.float64]:
    return np.array([numpy_rng(seed, "target", note).normal() for note in notes])


@lru_cache(maxsize=256)
def _probes(seed: int, notes: tuple[int, ...], module: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One probe of the product's shape for every note."""
    return torch.stack(
        [
            torch.randn(
                shape,
                generator=torch.Generator().manual_seed(
                    derive_seed(seed, "probe", note, module) % 2**31
                ),
                dtype=torch.float64,
            )
            for note in notes
        ]
    )
