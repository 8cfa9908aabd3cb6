"""Every strategy against every law; and the laws against strategies that are broken on purpose."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch

from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate, Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation import StrategyConfig
from fedmedlora.aggregation.fedadam import FedAdam
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.flexlora import FlexLoRA
from fedmedlora.aggregation.geometric_median import GeometricMedian
from fedmedlora.aggregation.multi_krum import MultiKrum
from fedmedlora.aggregation.screening import screen, screen_products
from fedmedlora.aggregation.strategy import Aggregate, AggregationContext, Memory
from fedmedlora.aggregation.uniform import Uniform
from fedmedlora.aggregation.weighting import by_size, equal, size_of
from fedmedlora.testing.declared import DECLARED
from fedmedlora.testing.laws import LAWS, BrokenLawError, check_law, check_strategy


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", DECLARED)
def test_every_strategy_keeps_the_laws_or_breaks_them_as_declared(name: str, law: str) -> None:
    declared = DECLARED[name]
    check_law(
        declared.config.build(),
        law,
        exceptions=declared.exceptions,
        min_sites=declared.min_sites,
    )


def test_no_strategy_is_left_out() -> None:
    union, *_ = get_args(StrategyConfig)
    names = {config.model_fields["name"].default for config in get_args(union)}
    assert {declared.config.name for declared in DECLARED.values()} == names


def test_no_exception_is_of_a_law_that_is_not_there() -> None:
    assert {law for declared in DECLARED.values() for law in declared.exceptions} <= set(LAWS)


# Strategies that are wrong in ways that were found in public code, or are easy to make.


class Mutant(Uniform):
    """`uniform`, with a merge of its own."""

    def merge(self, adapters: Mapping[str, AdapterState], context: AggregationContext):
        raise NotImplementedError

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        sound, refused = screen(updates, context)
        adapters = {site: update.adapter for site, update in sound.items()}
        return Aggregate(self.merge(adapters, context), equal(sound), refused=refused)


def of_means(adapters: Mapping[str, AdapterState], A: Callable, B: Callable) -> AdapterState:
    """An adapter whose factors are functions of the stacked factors of all sites."""
    first = next(iter(adapters.values()))
    stacks = {
        m: [torch.stack([getattr(a.pairs[m], f).double() for a in adapters.values()]) for f in "AB"]
        for m in first.pairs
    }
    return AdapterState(
        first.spec,
        {
            m: LoRAPair(A(a).to(first.spec.torch_dtype), B(b).to(first.spec.torch_dtype))
            for m, (a, b) in stacks.items()
        },
    )


class DividesByOneMore(Mutant):
    def merge(self, adapters, context):
        count = len(adapters) + 1
        return of_means(adapters, lambda a: a.sum(0) / count, lambda b: b.sum(0) / count)


class PeftLinear(Mutant):
    """`add_weighted_adapter(..., "linear")`: both factors times the root of weight and scale."""

    def merge(self, adapters, context):
        scaling = context.adapter.spec.scaling
        root = (scaling / len(adapters)) ** 0.5
        unscaled = of_means(adapters, lambda a: (root * a).sum(0), lambda b: (root * b).sum(0))
        pairs = {m: LoRAPair(p.A, p.B / scaling) for m, p in unscaled.pairs.items()}
        return AdapterState(unscaled.spec, pairs)


class ForgetsToDivideByTheScale(Mutant):
    """The mean of scaled products, split into factors as if the scaling were 1."""

    def merge(self, adapters, context):
        pairs = {}
        for module, old in context.adapter.pairs.items():
            mean = sum(
                a.spec.scaling * a.pairs[module].B.double() @ a.pairs[module].A.double()
                for a in adapters.values()
            ) / len(adapters)
            U, S, Vh = torch.linalg.svd(mean)
            rank, full = old.rank, min(mean.shape)
            A, B = torch.randn(rank, mean.shape[1]), torch.zeros(mean.shape[0], rank)
            A[: min(rank, full)] = Vh[: min(rank, full)]
            B[:, : min(rank, full)] = (U[:, :full] * S)[:, :rank]
            pairs[module] = LoRAPair(A.to(old.A.dtype), B.to(old.B.dtype))
        return AdapterState(context.adapter.spec, pairs)


class FirstCountsTwice(Mutant):
    """Reports equal weights and uses others: the first to arrive counts twice."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        arrived = list(updates)
        sound, refused = screen(arrived, context)
        ordered = {u.site: u.adapter for u in arrived if u.site in sound}

        def mean(factors: torch.Tensor) -> torch.Tensor:
            return torch.cat([factors[:1], factors]).mean(0)

        return Aggregate(of_means(ordered, mean, mean), equal(sound), refused=refused)


class WorksInPlace(Mutant):
    def merge(self, adapters, context):
        first, *others = adapters.values()
        for module, pair in first.pairs.items():
            for other in others:
                pair.A.add_(other.pairs[module].A)
                pair.B.add_(other.pairs[module].B)
        return of_means({"": first}, lambda a: a.sum(0), lambda b: b.sum(0))


class TrustsEverybody(Uniform):
    """Merges whatever comes, without a look at it."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        adapters = {u.site: u.adapter for u in sorted(updates, key=lambda u: u.site)}
        mean = of_means(adapters, lambda a: a.mean(0), lambda b: b.mean(0))
        return Aggregate(mean, equal(adapters))


class PadsWithZeros(Mutant):
    """A balanced split of the mean product: where a singular value is zero, both sides are."""

    def merge(self, adapters, context):
        pairs = {}
        for module, old in context.adapter.pairs.items():
            mean = sum(
                a.pairs[module].B.double() @ a.pairs[module].A.double() for a in adapters.values()
            ) / len(adapters)
            U, S, Vh = torch.linalg.svd(mean, full_matrices=False)
            kept = min(old.rank, len(S))
            A, B = torch.zeros(old.A.shape), torch.zeros(old.B.shape)
            A[:kept], B[:, :kept] = (S.sqrt()[:, None] * Vh)[:kept], (U * S.sqrt())[:, :kept]
            pairs[module] = LoRAPair(A.to(old.A.dtype), B.to(old.B.dtype))
        return AdapterState(context.adapter.spec, pairs)


class KeepsItsMemoryToItself(FedAdam):
    """Remembers in the object; after a crash it has forgotten, though every round is on disk."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        memory = getattr(self, "memory", {})
        result = super().aggregate(updates, replace(context, memory=memory))
        self.memory = result.memory
        return replace(result, memory={})


class AsksForAnotherLength(Uniform):
    def plan(self, plans: Mapping[str, LocalPlan], adapter: AdapterState, memory: Memory):
        return {s: Train(replace(p, epochs=3.0), adapter) for s, p in plans.items()}


class WeighsBySizeAfterAll(GeometricMedian):
    """Starts right, and is then as easy to move as a mean."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        found = screen_products(updates, context)
        weights = equal(found.updates)
        adapters = {s: u.adapter for s, u in found.updates.items()}
        mean = of_means(adapters, lambda a: a.mean(0), lambda b: b.mean(0))
        return Aggregate(mean, weights, refused=found.refused)


MUTANTS = {
    DividesByOneMore: {"one-site", "alike-sites", "mean-of-factors", "no-op"},
    PeftLinear: {"alike-sites", "mean-of-factors", "no-op"},
    ForgetsToDivideByTheScale: {"one-site", "alike-sites", "mean-of-products", "scaling", "no-op"},
    FirstCountsTwice: {"order", "mean-of-factors"},
    WorksInPlace: {"inputs", "order", "mean-of-factors"},
    TrustsEverybody: {"broken-update", "stale-or-double", "too-few"},
    PadsWithZeros: {"no-dead-pairs"},
    KeepsItsMemoryToItself: {"order", "resume"},
    AsksForAnotherLength: {"plan"},
    WeighsBySizeAfterAll: {"mean-of-products", "own-gauge", "far-site"},
}


@pytest.mark.parametrize(
    ("mutant", "law"),
    [(mutant, law) for mutant, laws in MUTANTS.items() for law in sorted(laws)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_strategy_that_is_broken_on_purpose_is_caught(mutant: type, law: str) -> None:
    with pytest.raises(BrokenLawError, match=f"{mutant.__name__} breaks the law {law}"):
        check_law(mutant(), law)


def test_a_wrong_declaration_is_noticed() -> None:
    with pytest.raises(BrokenLawError, match=r"keeps the law no-op, .*because I think so"):
        check_law(FedAvg(), "no-op", exceptions={"no-op": "because I think so"})
    with pytest.raises(BrokenLawError, match="fewer"):
        check_strategy(
            FedAvg(),
            exceptions=dict(DECLARED["fedavg"].exceptions) | {"fewer": "no such law"},
        )


def test_a_strategy_that_needs_five_sites_must_refuse_four() -> None:
    class Lenient(MultiKrum):
        @property
        def num_needed(self) -> int:
            return 3

    with pytest.raises(BrokenLawError, match="4 updates: was merged"):
        check_law(Lenient(), "too-few", min_sites=5)


@dataclass
class Outsiders:
    """A strategy that knows nothing of this package but its protocol."""

    needs_scorer: bool = False

    def plan(self, plans: Mapping[str, LocalPlan], adapter: AdapterState, memory: Memory):
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        return Uniform().aggregate(updates, context)


def test_an_outsider_checks_a_strategy_with_one_call() -> None:
    check_strategy(Outsiders(), exceptions=DECLARED["uniform"].exceptions)
    with pytest.raises(BrokenLawError) as told:
        check_strategy(Outsiders())
    broken = re.findall(r"Outsiders breaks the law ([\w-]+):", str(told.value))
    assert sorted(broken) == sorted(DECLARED["uniform"].exceptions)


class KeepsTheTail(FlexLoRA):
    """Ranks as in FlexLoRA, but what a site could not receive stays as it is."""

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        found = screen_products(updates, context)
        adapters = {site: update.adapter for site, update in found.updates.items()}
        weights = by_size({s: size_of(u, "tokens") for s, u in found.updates.items()})
        adapter, _ = mean_of_products(context.adapter, adapters, weights)
        return Aggregate(adapter, weights, refused=found.refused)


def test_with_mixed_ranks_a_round_without_learning_can_keep_everything() -> None:
    mixed = dict(DECLARED["flexlora, mixed ranks"].exceptions)
    assert {mixed.pop("no-op"), mixed.pop("mean-of-products")}
    alone = {"one-site": "beyond its rank the global adapter stays"}
    check_strategy(KeepsTheTail({"site-1": 1}), exceptions=mixed | alone)
