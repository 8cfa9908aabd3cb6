"""Validation notes of a server that has no language model: exact losses, exact gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        support: Labels by site, if somebody said. Labels change no loss here.
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

    def labels_of(self, site: str) -> frozenset[str] | None:
        """As `support` says."""
        return dict(self.support).get(site)

    def asking(self, labels: Set[str]) -> ProbeScorer:  # noqa: ARG002  # they change nothing
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
        targets = np.array([numpy_rng(self.seed, "target", n).normal() for n in self.notes])
        errors: NDArray[np.float64] = self._asked(products) - targets
        return errors

    def _asked(self, products: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """What every note's probe sees of the products."""
        seen = np.zeros(len(self.notes))
        for module, product in products.items():
            for index, note in enumerate(self.notes):
                address = derive_seed(self.seed, "probe", note, module) % 2**31
                probe = torch.randn(
                    product.shape,
                    generator=torch.Generator().manual_seed(address),
                    dtype=torch.float64,
                )
                seen[index] += float((probe * product).sum()) / len(products)
        return seen
