"""Laws of conduct: what a strategy may touch, must refuse and has to tell. See `laws.py`."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.state import FACTORS, AdapterState, LoRAPair
from fedmedlora.core.errors import AggregationError
from fedmedlora.testing.law_cases import Case, Round, cut, products, require
from fedmedlora.testing.law_runs import interrupted, uninterrupted

if TYPE_CHECKING:
    from fedmedlora.aggregation.strategy import Aggregate, Memory


def plans_are_the_studys(made: Round) -> None:
    """Every site is asked once, for the study's work, and receives what it can of the adapter."""
    case = made.case()
    require(len(case.requests) == made.setting.num_sites, "a site was asked not at all")
    whole = products(case.context.adapter)
    for site, request in case.requests.items():
        require(isinstance(request, Train), f"{site} was not asked to train")
        plan = request.plan
        require(
            (plan.round_index, plan.num_rounds, plan.epochs, plan.tasks)
            == (made.setting.round_index, made.setting.num_rounds, 1.5, ("entities",)),
            f"{site} was asked for another round, length or task than the study's",
        )
        rank = request.adapter.spec.rank
        expected = {module: cut(product, rank) for module, product in whole.items()}
        require(
            made.near(products(request.adapter), expected),
            f"{site} received another product than the global one, cut to its rank",
        )
    seeds = {request.plan.seed for request in case.requests.values()}
    require(len(seeds) == len(case.requests), "sites were given the same seed")


def order_is_ignored(made: Round) -> None:
    """The order in which updates arrive changes no bit."""
    case = made.case()
    shuffled = random.Random(made.seed).sample(case.updates, k=len(case.updates))
    for other in (shuffled, case.updates[::-1], case.updates):
        require_same(case.aggregate(), replace(case, updates=other).aggregate())


def inputs_stay(made: Round) -> None:
    """Updates, adapter and memory are not changed, nor does the result share storage with them.

    A strategy may give back the global adapter itself: adapters are values.
    """
    case = made.case()
    before = input_digests(case)
    result = case.aggregate()
    require(input_digests(case) == before, "an input was changed")
    kept = [value for value in result.memory.values() if isinstance(value, torch.Tensor)]
    if result.adapter is not case.context.adapter:
        kept += [tensor for _, _, tensor in result.adapter.tensors()]
    for tensor in kept:
        tensor.fill_(7.0)
    require(input_digests(case) == before, "the result shares memory with an input")


def weights_are_shares(made: Round) -> None:
    """Weights are told for the sound sites in name order, none is negative, and they sum to 1."""
    case = made.case()
    weights = case.aggregate().weights
    require(
        list(weights) == sorted(update.site for update in case.updates),
        f"expected a weight of every sound site in name order, got {list(weights)}",
    )
    require(all(weight >= 0 for weight in weights.values()), "a weight is negative")
    total = math.fsum(weights.values())
    require(abs(total - 1) <= 1e-9, f"the weights sum to {total}")


def result_fits(made: Round) -> None:
    """The result has the sent adapter's spec and shapes, and only finite numbers."""
    case = made.case()
    result = case.aggregate()
    case.context.adapter.check_compatible(result.adapter, "the result")
    require(result.adapter.is_finite(), "the result is not finite")


def a_broken_update_is_named(made: Round) -> None:
    """An update that cannot be right is refused by name, and the others go on without it."""
    case = made.case()
    expected = case.aggregate().adapter
    sent = {"broken": case.requests[case.updates[-1].site]}
    for kind, adapter in broken_updates(case.updates[-1].adapter, sent["broken"]).items():
        broken = replace(case.updates[-1], site="broken", adapter=adapter)
        result = replace(case, updates=[broken, *case.updates]).aggregate()
        require(set(result.refused) == {"broken"}, f"{kind}: refused are {dict(result.refused)}")
        require(result.adapter == expected, f"{kind}: the others' result changed")
        require_refusal(replace(case, updates=[broken]), "broken", kind)


def stale_and_double_updates_are_named(made: Round) -> None:
    """An update of another round, and a site that answers twice, are refused by name."""
    case = made.case()
    expected = case.aggregate().adapter
    stale = replace(case.updates[-1], site="stale", round_index=case.updates[-1].round_index + 1)
    twice = [replace(update, site="twice") for update in (case.updates[-1], case.updates[0])]
    result = replace(case, updates=[stale, twice[0], *case.updates, *twice]).aggregate()
    require(set(result.refused) == {"stale", "twice"}, f"refused are {dict(result.refused)}")
    require(result.adapter == expected, "the others' result changed")


def too_few_are_refused(made: Round) -> None:
    """Fewer updates than the strategy needs, and none at all, are an `AggregationError`."""
    case = made.case()
    require_refusal(replace(case, updates=[]), "", "no update")
    if made.min_sites > 1:
        fewer = replace(case, updates=case.updates[: made.min_sites - 1])
        require_refusal(fewer, "", f"{len(fewer.updates)} updates")


def resuming_is_exact(made: Round) -> None:
    """A run that was killed after a round and resumed ends with the bits of one that was not."""
    if made.seed or made.setting.follows_another or made.setting.round_index > 1:
        return  # a run makes its own rounds, so once is enough
    num_sites = made.setting.num_sites
    whole, memory = uninterrupted(made.strategy, num_sites, made.seed)
    resumed, its_memory = interrupted(made.strategy, num_sites, made.seed)
    require(resumed.adapter == whole.adapter, "the resumed run ends with another adapter")
    require(
        [record.weights for record in resumed.records]
        == [record.weights for record in whole.records],
        "the resumed run has other weights",
    )
    require_same_memory(memory, its_memory)


def input_digests(case: Case) -> list[str]:
    """What the strategy was given, bit by bit."""
    memory = [
        f"{name}: {value.tolist() if isinstance(value, torch.Tensor) else value}"
        for name, value in case.context.memory.items()
    ]
    adapters = [case.context.adapter, *(update.adapter for update in case.updates)]
    return [adapter.digest() for adapter in adapters] + memory


def require_same(a: Aggregate, b: Aggregate) -> None:
    """Nothing, if two results have the same bits.

    Raises:
        BrokenLawError: They have not.
    """
    require(a.adapter == b.adapter, "another order gives another adapter")
    require(list(a.weights.items()) == list(b.weights.items()), "... other weights")
    require_same_memory(a.memory, b.memory)


def require_same_memory(a: Memory, b: Memory) -> None:
    """Nothing, if both hold the same.

    Raises:
        BrokenLawError: They do not.
    """
    require(a.keys() == b.keys(), "what is remembered has other names")
    for name, value in a.items():
        tensors = isinstance(value, torch.Tensor) and isinstance(b[name], torch.Tensor)
        same = torch.equal(value, b[name]) if tensors else value == b[name]
        require(same, f"another {name} is remembered")


def require_refusal(case: Case, named: str, what: str) -> None:
    """Nothing, if the strategy refuses the round with an `AggregationError` that names this site.

    Raises:
        BrokenLawError: It does not.
    """
    try:
        case.aggregate()
    except AggregationError as error:
        require(named in str(error), f"{what}: the error does not name {named}")
    else:
        require(False, f"{what}: was merged; expected an AggregationError")


def broken_updates(adapter: AdapterState, request: Train) -> dict[str, AdapterState]:
    """Adapters that cannot be right, by what is wrong with them."""
    module, pair = next(iter(adapter.pairs.items()))
    name = "A" if pair.A.numel() else "B"
    factor = pair.A if name == "A" else pair.B

    def with_factor(changed: torch.Tensor) -> AdapterState:
        other = replace(pair, A=changed) if name == "A" else replace(pair, B=changed)
        return AdapterState(adapter.spec, {**adapter.pairs, module: other})

    missing = FACTORS - adapter.factors or frozenset({"A"})
    spec = adapter.spec
    return {
        "not a number": with_factor(torch.full_like(factor, math.nan)),
        "infinite": with_factor(torch.full_like(factor, math.inf)),
        "another shape": with_factor(torch.cat([factor, factor], dim=1 if name == "A" else 0)),
        "another base model": AdapterState(replace(spec, base_model="another"), adapter.pairs),
        "another revision": AdapterState(replace(spec, revision="another"), adapter.pairs),
        "a module is missing": AdapterState(spec, {module: LoRAPair(pair.A, pair.B)}),
        "another factor": adapter.filled_from(request.adapter).only(missing),
    }
