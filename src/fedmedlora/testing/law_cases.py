"""Made-up rounds to hold a strategy's laws against: small, and with all that is easy to get wrong.

Layers that are not square, rank 1 and a rank above both sides, float32 and bfloat16, rsLoRA, a
scaling that is not 1, one site and many, odd and even rounds, a last one, and a round that follows
another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.exchange import LocalPlan, Score, SiteFailure, SiteScores, SiteUpdate
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses
from fedmedlora.core.seeds import derive_seed
from fedmedlora.testing.adapters import random_adapter, site_update
from fedmedlora.testing.scorers import ProbeScorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedmedlora.adapters.exchange import Reply, Request, Train
    from fedmedlora.adapters.state import DTypeName
    from fedmedlora.aggregation.strategy import Aggregate, Memory, Strategy

# Relative to what is compared: rounding of factors, of products formed of them, and of the root of
# a Gram matrix.
_TOLERANCE: Mapping[DTypeName, float] = {"float32": 2e-5, "bfloat16": 3e-2, "float16": 1e-2}

TALL_AND_WIDE = {"layers.0.q_proj": (5, 3), "layers.1.up_proj": (2, 6)}


class BrokenLawError(AssertionError):
    """A strategy does not keep a law, or keeps one that it was declared to break."""


def require(holds: bool, otherwise: str) -> None:
    """Nothing, if it holds.

    Raises:
        BrokenLawError: It does not.
    """
    if not holds:
        raise BrokenLawError(otherwise)


@dataclass(frozen=True, slots=True)
class HopefulScorer(ProbeScorer):
    """Notes on which the adapter before the round does badly, so that no guard goes back to it.

    `before` is its digest.
    """

    before: str = ""

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The loss on every note, both kinds alike."""
        found = ProbeScorer.loss(self, adapter).completion[self.task]
        losses = found + 100.0 if adapter.digest() == self.before else found
        return NoteLosses({self.task: losses}, {self.task: losses})


@dataclass(frozen=True, slots=True)
class Setting:
    """What differs between the made-up rounds."""

    num_sites: int
    rank: int = 2
    alpha: float = 6.0
    rslora: bool = False
    dtype: DTypeName = "float32"
    round_index: int = 1
    num_rounds: int | None = None
    follows_another: bool = False


SETTINGS = (
    Setting(num_sites=3),
    Setting(num_sites=1, rank=1, round_index=2, rslora=True),
    Setting(num_sites=2, rank=8, round_index=2),
    Setting(num_sites=5, rank=3, round_index=3, num_rounds=3, dtype="bfloat16", alpha=2.0),
    Setting(num_sites=4, rank=2, round_index=2, rslora=True, follows_another=True),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One round: what the strategy asked of whom, and what came back."""

    strategy: Strategy
    seed: int
    context: AggregationContext
    requests: Mapping[str, Train]
    updates: list[SiteUpdate]

    def aggregate(self) -> Aggregate:
        """What the strategy makes of the updates."""
        return self.strategy.aggregate(iter(self.updates), self.context)

    def with_updates(self, change: Callable[[SiteUpdate], SiteUpdate]) -> Case:
        """The same round with other updates."""
        return replace(self, updates=[change(update) for update in self.updates])

    def with_global(self, before: AdapterState) -> Case:
        """The same round from another global adapter; what the sites sent stays."""
        digest = before.digest()
        context = replace(
            self.context,
            adapter=before,
            scorer=HopefulScorer(self.seed, before=digest),
            call=partial(answer_scores, before=digest),
        )
        return replace(self, context=context)

    def sent_products(self) -> dict[str, dict[str, torch.Tensor]]:
        """By site, what its adapter computes, beside the factors that it was not asked for."""
        return {
            update.site: products(update.adapter.filled_from(self.requests[update.site].adapter))
            for update in self.updates
        }


@dataclass(frozen=True, slots=True)
class Round:
    """What a law is tried on: a strategy, the setting of a made-up round, and a seed.

    `min_sites` is how many updates the strategy needs.
    """

    strategy: Strategy
    setting: Setting
    seed: int
    min_sites: int = 1

    def case(self, *, drift: float = 0.5) -> Case:
        """The round, played."""
        return make_case(self.strategy, self.setting, self.seed, drift=drift)

    @property
    def tolerance(self) -> float:
        """Rounding of a product, relative to its norm."""
        return _TOLERANCE[self.setting.dtype]

    def near(self, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
        """Whether two products differ by no more than rounding."""
        return distance(a, b) <= self.tolerance * max(norm(a), norm(b), 1e-6)


def site_names(num_sites: int) -> list[str]:
    """`site-1` and so on, in name order."""
    return [f"site-{number}" for number in range(1, num_sites + 1)]


def make_case(strategy: Strategy, setting: Setting, seed: int, *, drift: float = 0.5) -> Case:
    """A round in which every site moved at random, so far as `drift` says."""
    before = random_adapter(
        derive_seed(seed, "before") % 2**31,
        rank=setting.rank,
        shapes=TALL_AND_WIDE,
        alpha=setting.alpha,
        rslora=setting.rslora,
        dtype=setting.dtype,
    )
    memory: Memory = {}
    if setting.follows_another:
        earlier = replace(setting, round_index=setting.round_index - 1, follows_another=False)
        result = make_case(strategy, earlier, seed + 1, drift=drift).aggregate()
        before, memory = result.adapter, result.memory
    return case_from(strategy, setting, seed, before, memory, drift=drift)


def case_from(
    strategy: Strategy,
    setting: Setting,
    seed: int,
    before: AdapterState,
    memory: Memory,
    *,
    drift: float = 0.5,
) -> Case:
    """A round that starts from this adapter."""
    plans = {
        site: LocalPlan(
            setting.round_index,
            num_rounds=setting.num_rounds,
            seed=derive_seed(seed, site),
            epochs=1.5,
        )
        for site in site_names(setting.num_sites)
    }
    requests = strategy.plan(plans, before, memory)
    updates = [
        update_from(site, request, derive_seed(seed, "trained", site) % 2**31, drift)
        for site, request in requests.items()
    ]
    context = AggregationContext(
        setting.round_index,
        before,
        memory,
        seed=derive_seed(seed, "aggregation"),
        scorer=HopefulScorer(seed, before=before.digest()),
        call=partial(answer_scores, before=before.digest()),
        num_rounds=setting.num_rounds,
    )
    return Case(strategy, seed, context, requests, updates)


def update_from(site: str, request: Train, seed: int, drift: float = 0.5) -> SiteUpdate:
    """The reply of a site whose training adds `drift` times normal noise; its sizes are even."""
    noise = torch.Generator().manual_seed(seed)
    trained = {}
    for module, pair in request.adapter.pairs.items():
        moved = {}
        for factor in ("A", "B"):
            tensor = pair.A if factor == "A" else pair.B
            moves = factor in request.plan.train_factors
            step = drift * torch.randn(tensor.shape, generator=noise)
            moved[factor] = (tensor.float() + step).to(tensor.dtype) if moves else tensor
        trained[module] = LoRAPair(**moved)
    counts = 2 * torch.randint(1, 500, (4,), generator=noise)
    return site_update(
        site,
        AdapterState(request.adapter.spec, trained).only(request.plan.share_factors),
        round_index=request.plan.round_index,
        num_documents=int(counts[0]),
        num_examples=int(counts[1]),
        num_completion_tokens=int(counts[2]),
        num_entities=int(counts[3]),
    )


def answer_scores(requests: Mapping[str, Request], *, before: str) -> Iterator[Reply]:
    """Sites' replies to `Score`: losses on notes of their own, as `HopefulScorer` judges."""
    for site, request in requests.items():
        if not isinstance(request, Score):
            yield SiteFailure(site, "bad-request")
            continue
        notes = HopefulScorer(derive_seed(site) % 2**31, before=before)
        losses = {
            name: dict.fromkeys(request.tasks, notes.loss(adapter).mean())
            for name, adapter in request.adapters.items()
        }
        errors = {name: dict.fromkeys(request.tasks, 0.01) for name in request.adapters}
        yield SiteScores(site, losses, errors)


def products(adapter: AdapterState) -> dict[str, torch.Tensor]:
    """`scaling * B @ A` of every module, dense, in float64: the oracle, for tiny layers only."""
    return {
        module: adapter.spec.scaling * pair.B.double() @ pair.A.double()
        for module, pair in adapter.pairs.items()
    }


def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Frobenius norm of the difference over all modules."""
    return float(sum(float((a[module] - b[module]).square().sum()) for module in a) ** 0.5)


def norm(a: Mapping[str, torch.Tensor]) -> float:
    """Frobenius norm over all modules."""
    return float(sum(float(product.square().sum()) for product in a.values()) ** 0.5)


def cut(product: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of this rank, by a dense SVD."""
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    found: torch.Tensor = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return found


def mapped(
    adapter: AdapterState, change: Callable[[str, LoRAPair], tuple[torch.Tensor, torch.Tensor]]
) -> AdapterState:
    """The adapter with other factors `(A, B)`, computed in float64 and cast back."""
    pairs = {}
    for module, pair in adapter.pairs.items():
        A, B = change(module, LoRAPair(pair.A.double(), pair.B.double()))
        pairs[module] = LoRAPair(A.to(pair.A.dtype), B.to(pair.B.dtype))
    return AdapterState(adapter.spec, pairs)


def turned(adapter: AdapterState, seed: int) -> AdapterState:
    """The same product in another gauge: `B Q` and `Q^-1 A`, with a random `Q` for each module."""

    def turn(module: str, pair: LoRAPair) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(seed, module) % 2**31)
        square = torch.randn(pair.rank, pair.rank, generator=generator, dtype=torch.float64)
        stretch = 0.5 + torch.rand(pair.rank, generator=generator, dtype=torch.float64)
        gauge = torch.linalg.qr(square).Q * stretch
        return torch.linalg.inv(gauge) @ pair.A, pair.B @ gauge

    return mapped(adapter, turn)
