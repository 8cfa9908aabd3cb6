"""Laws of arithmetic: what the merged adapter computes. See `laws.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.seeds import derive_seed
from fedmedlora.testing.law_cases import (
    Case,
    Round,
    case_from,
    cut,
    distance,
    make_case,
    mapped,
    norm,
    products,
    require,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmedlora.adapters.exchange import SiteUpdate


def one_site_is_its_own(made: Round) -> None:
    """The result of one site's update computes what that site's adapter computes."""
    case = made.case()
    alone = replace(case, updates=case.updates[:1])
    got = products(alone.aggregate().adapter)
    expected = alone.sent_products()[case.updates[0].site]
    require(made.near(got, expected), "one site's result is not its own product")


def alike_sites_are_their_own(made: Round) -> None:
    """Sites that send the same give what they sent; peft's linear merge gives N times that."""
    case = made.case()
    common = max(case.updates, key=lambda update: (update.adapter.spec.rank, update.site))

    def same(update: SiteUpdate) -> SiteUpdate:
        spec = update.adapter.spec
        if spec == common.adapter.spec:
            return replace(update, adapter=common.adapter)
        return replace(update, adapter=change_rank(common.adapter, spec.rank, spec.alpha))

    got = products(case.with_updates(same).aggregate().adapter)
    expected = case.sent_products()[common.site]
    require(made.near(got, expected), "sites that agree do not get what they sent")


def factors_are_their_mean(made: Round) -> None:
    """`A` and `B` are the means of the sent factors, by the weights that were told."""
    case = made.case()
    result = case.aggregate()
    sent = {
        update.site: update.adapter.filled_from(case.requests[update.site].adapter)
        for update in case.updates
    }
    for module, factor, tensor in result.adapter.tensors():
        terms = [
            weight * sent[site].pairs[module].factor(factor).double()
            for site, weight in result.weights.items()
        ]
        expected = torch.stack(terms).sum(0)
        gap = float((tensor.double() - expected).abs().max())
        rounding = torch.finfo(tensor.dtype).eps * float(expected.abs().max())
        require(gap <= rounding, f"{factor} is not the weighted mean of what was sent")


def products_are_their_mean(made: Round) -> None:
    """The result's product is the best of its rank for `G + sum_i w_i (DW_i - P_i(G))`.

    `G` is the global product, `P_i(G)` what site i received of it. With equal ranks this is the
    plain mean of the products.
    """
    case = made.case()
    result = case.aggregate()
    mean = products(case.context.adapter)
    largest = norm(mean)
    for site, sent in case.sent_products().items():
        received = products(case.requests[site].adapter)
        largest = max(largest, norm(sent))
        weight = result.weights[site]
        mean = {m: mean[m] + weight * (sent[m] - received[m]) for m in mean}
    best = {module: cut(product, made.setting.rank) for module, product in mean.items()}
    excess = distance(products(result.adapter), mean) - distance(best, mean)
    require(
        excess <= made.tolerance * largest,
        "the product is not the weighted mean of the products, nor the best of its rank",
    )


def scale_and_factor_cancel(made: Round) -> None:
    """Twice the alpha and half the `B` everywhere give the same product."""

    def rescaled(adapter: AdapterState) -> AdapterState:
        halved = mapped(adapter, lambda _, pair: (pair.A, pair.B / 2))
        spec = replace(adapter.spec, alpha=2 * adapter.spec.alpha)
        return AdapterState(spec, halved.pairs)

    case = first_round(made)
    got = products(everywhere(case, rescaled).aggregate().adapter)
    require(made.near(got, products(case.aggregate().adapter)), "alpha and B do not cancel")


def a_common_gauge_cancels(made: Round) -> None:
    """`B Q` and `Q^-1 A` everywhere, with one `Q`, give the same product."""
    case = first_round(made)
    got = products(everywhere(case, lambda a: turned(a, made.seed)).aggregate().adapter)
    require(made.near(got, products(case.aggregate().adapter)), "the common gauge matters")


def sites_own_gauges_cancel(made: Round) -> None:
    """`B Q_i` and `Q_i^-1 A`, with another `Q_i` at every site, give the same product."""
    case = made.case()

    def turn(update: SiteUpdate) -> SiteUpdate:
        return replace(update, adapter=turned(update.adapter, derive_seed(made.seed, update.site)))

    got = products(case.with_updates(turn).aggregate().adapter)
    require(made.near(got, products(case.aggregate().adapter)), "a site's gauge matters")


def changes_scale_along(made: Round) -> None:
    """Where the global product is zero, products that are three times as large give three times."""
    case = from_zero(made)
    larger = case.with_updates(
        lambda update: replace(
            update, adapter=mapped(update.adapter, lambda _, pair: (pair.A, 3 * pair.B))
        )
    )
    expected = {m: 3 * product for m, product in products(case.aggregate().adapter).items()}
    require(made.near(products(larger.aggregate().adapter), expected), "the result does not scale")


def a_site_in_two_halves_is_one(made: Round) -> None:
    """Two sites with the same adapter and half the size each count as one."""
    case = made.case()
    last = case.updates[-1]
    halves = []
    for name in (last.site, f"{last.site}-b"):
        metrics = {
            task: replace(
                told,
                num_documents=told.num_documents // 2,
                num_examples=told.num_examples // 2,
                num_completion_tokens=told.num_completion_tokens // 2,
                num_entities=told.num_entities // 2,
            )
            for task, told in last.metrics.items()
        }
        halves.append(replace(last, site=name, metrics=metrics))
    parted = replace(case, updates=[*case.updates[:-1], *halves])
    got = products(parted.aggregate().adapter)
    require(made.near(got, products(case.aggregate().adapter)), "a site in two halves counts more")


def no_pair_is_dead(made: Round) -> None:
    """No column of `B` and row of `A` are both zero: such a pair has no gradient, ever."""

    def first_only(_: str, pair: LoRAPair) -> tuple[torch.Tensor, torch.Tensor]:
        kept = torch.zeros_like(pair.B)
        kept[:, :1] = pair.B[:, :1]
        return pair.A, kept

    zero = from_zero(made)
    still = zero.with_updates(
        lambda u: replace(u, adapter=mapped(u.adapter, lambda _, pair: (pair.A, 0 * pair.B)))
    )
    narrow = zero.with_updates(lambda u: replace(u, adapter=mapped(u.adapter, first_only)))
    for case in (made.case(), still, narrow):
        for pair in case.aggregate().adapter.pairs.values():
            alive = pair.A.abs().sum(1) + pair.B.abs().sum(0)
            require(bool((alive > 0).all()), "a pair is zero on both sides")


def nothing_learned_changes_nothing(made: Round) -> None:
    """Sites that send back what they received leave the global product as it is, twice."""
    case = first_round(made, drift=0.0)
    expected = products(case.context.adapter)
    result = case.aggregate()
    require(made.near(products(result.adapter), expected), "a round without learning moved")
    again = case_from(
        made.strategy,
        replace(made.setting, round_index=made.setting.round_index + 1, num_rounds=None),
        made.seed,
        result.adapter,
        result.memory,
        drift=0.0,
    )
    got = products(again.aggregate().adapter)
    require(made.near(got, expected), "a second round without learning moved")


def a_far_site_is_bounded(made: Round) -> None:
    """One site's change, however large, moves the result by a few times what honest sites do."""
    enough = replace(made, setting=replace(made.setting, num_sites=made.setting.num_sites + 4))
    case = first_round(enough, drift=0.1)
    last = case.updates[-1]
    honest = replace(case, updates=case.updates[:-1])

    def shoot(_: str, pair: LoRAPair) -> tuple[torch.Tensor, torch.Tensor]:
        return 1e3 * pair.A, 1e3 * pair.B

    far = replace(last, adapter=mapped(last.adapter, shoot))
    without = products(honest.aggregate().adapter)
    result = replace(case, updates=[*honest.updates, far]).aggregate()
    spread = max(distance(sent, without) for sent in honest.sent_products().values())
    moved = distance(products(result.adapter), without)
    require(moved <= 10 * spread, f"one site moved the result by {moved / spread:.3g} spreads")


def first_round(made: Round, *, drift: float = 0.5) -> Case:
    """The round without anything remembered, as memory cannot be changed along with adapters."""
    setting = replace(made.setting, follows_another=False)
    return make_case(made.strategy, setting, made.seed, drift=drift)


def from_zero(made: Round) -> Case:
    """The round from a global adapter that computes nothing: `B` is zero, as before training."""
    before = mapped(first_round(made).context.adapter, lambda _, pair: (pair.A, 0 * pair.B))
    return case_from(made.strategy, made.setting, made.seed, before, {})


def everywhere(case: Case, change: Callable[[AdapterState], AdapterState]) -> Case:
    """The round with all adapters changed, the global one, too."""
    changed = case.with_updates(lambda update: replace(update, adapter=change(update.adapter)))
    return changed.with_global(change(case.context.adapter))
