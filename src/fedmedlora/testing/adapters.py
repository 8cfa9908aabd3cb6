"""Small random adapters, updates made of them, and a site that pretends to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.exchange import Score, SiteScores, SiteUpdate, TaskMetrics
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.adapters.state import DTypeName

# (d_out, d_in) by module; no layer is square, so that a transposed matrix cannot pass unseen.
SHAPES: Mapping[str, tuple[int, int]] = {
    "model.layers.0.self_attn.q_proj": (6, 5),
    "model.layers.0.mlp.down_proj": (3, 8),
    "model.layers.1.self_attn.q_proj": (6, 5),
}


def random_adapter(
    seed: int,
    *,
    rank: int = 2,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    alpha: float = 4.0,
    rslora: bool = False,
    dtype: DTypeName = "float32",
    base_model: str = "tiny",
    revision: str = "r1",
) -> AdapterState:
    """An adapter of normal random numbers; `shapes` is `(d_out, d_in)` by module."""
    spec = AdapterSpec(
        base_model=base_model,
        revision=revision,
        rank=rank,
        alpha=alpha,
        target_modules=tuple(module.rpartition(".")[2] for module in shapes),
        rslora=rslora,
        dtype=dtype,
    )
    generator = torch.Generator().manual_seed(seed)
    return AdapterState(
        spec,
        {
            module: LoRAPair(
                A=torch.randn(rank, d_in, generator=generator).to(spec.torch_dtype),
                B=torch.randn(d_out, rank, generator=generator).to(spec.torch_dtype),
            )
            for module, (d_out, d_in) in shapes.items()
        },
    )


def moved(adapter: AdapterState, step: AdapterState, length: float) -> AdapterState:
    """The adapter moved so far along the step's factors, each by `length` of it."""
    return AdapterState(
        adapter.spec,
        {
            m: LoRAPair(p.A + length * step.pairs[m].A, p.B + length * step.pairs[m].B)
            for m, p in adapter.pairs.items()
        },
    )


def times(adapter: AdapterState, factor: float) -> AdapterState:
    """The adapter with a product that is so many times as large."""
    return AdapterState(
        adapter.spec, {m: LoRAPair(p.A, p.B * factor) for m, p in adapter.pairs.items()}
    )


def site_update(
    site: str,
    adapter: AdapterState,
    *,
    round_index: int = 1,
    num_documents: int = 1,
    num_examples: int = 1,
    num_completion_tokens: int = 1,
    num_entities: int = 1,
) -> SiteUpdate:
    """An update with the entity task only."""
    metrics = TaskMetrics(
        num_documents=num_documents,
        num_examples=num_examples,
        num_completion_tokens=num_completion_tokens,
        num_entities=num_entities,
        train_loss=0.5,
        validation_loss=0.75,
    )
    return SiteUpdate(site, round_index, adapter, {"entities": metrics}, num_steps=1)


@dataclass(frozen=True, slots=True)
class DriftingSite:
    """A site whose training halves the adapter and adds noise from the plan's seed.

    The result depends on every bit that was received, so a resumed run that differs anywhere shows.
    """

    name: str
    num_examples: int = 1

    def handle(self, request: Request) -> Reply:
        """An update, or zero losses for a `Score` request."""
        if isinstance(request, Score):
            zeros = {name: dict.fromkeys(request.tasks, 0.0) for name in request.adapters}
            return SiteScores(self.name, zeros, zeros)
        plan = request.plan
        trained = {}
        for module, pair in request.adapter.pairs.items():
            noise = torch.Generator().manual_seed(derive_seed(plan.seed, module) % 2**31)
            trained[module] = LoRAPair(
                A=pair.A / 2 + torch.randn(pair.A.shape, generator=noise),
                B=pair.B / 2 + torch.randn(pair.B.shape, generator=noise),
            )
        return site_update(
            self.name,
            AdapterState(request.adapter.spec, trained).only(plan.share_factors),
            round_index=plan.round_index,
            num_examples=self.num_examples,
            num_completion_tokens=10 * self.num_examples,
        )
