"""Products of adapters against the dense computation in numpy, which is the oracle here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.products import delta_gram, mean_of_products
from fedmedlora.adapters.ranks import change_rank, regauge
from fedmedlora.adapters.state import AdapterSpec, AdapterState, DTypeName, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError, AggregationError
from fedmedlora.testing.adapters import random_adapter

Dense = dict[str, NDArray[np.float64]]
law = settings(max_examples=30, deadline=None)


def dense(adapter: AdapterState) -> Dense:
    """What the adapter adds to each weight, formed in full."""
    scale = adapter.spec.alpha / adapter.spec.rank ** (0.5 if adapter.spec.rslora else 1)
    return {
        module: scale * (pair.B.double().numpy() @ pair.A.double().numpy())
        for module, pair in adapter.pairs.items()
    }


def best(matrix: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """The best approximation of a rank."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def dense_mean(
    before: AdapterState, adapters: dict[str, AdapterState], weights: dict[str, float]
) -> Dense:
    """G + sum w (DW - P(G)), written down as it stands."""
    found = {}
    products = {site: dense(adapter) for site, adapter in adapters.items()}
    for module, start in dense(before).items():
        total = start.copy()
        for site, weight in weights.items():
            total += weight * (products[site][module] - best(start, adapters[site].spec.rank))
        found[module] = total
    return found


def distance(a: Dense, b: Dense) -> float:
    return math.sqrt(sum(float(((a[m] - b[m]) ** 2).sum()) for m in a))


def norm(a: Dense) -> float:
    return math.sqrt(sum(float((matrix**2).sum()) for matrix in a.values()))


@dataclass(frozen=True)
class Case:
    before: AdapterState
    adapters: dict[str, AdapterState]
    weights: dict[str, float]


@st.composite
def cases(
    draw: st.DrawFn, *, mixed: bool = True, dtypes: tuple[DTypeName, ...] = ("float32",)
) -> Case:
    """Sites that drifted from one adapter, or have little to do with it.

    No layer is square; rank 1 and ranks above both sides occur.
    """
    shapes = {}
    for name in ("layers.0.q_proj", "layers.1.up_proj")[: draw(st.integers(1, 2))]:
        d_out, d_in = draw(
            st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda pair: pair[0] != pair[1])
        )
        shapes[name] = (d_out, d_in)
    rank, seed = draw(st.sampled_from([1, 2, 3, 8, 12])), draw(st.integers(0, 10**6))
    dtype = draw(st.sampled_from(dtypes))

    def adapter(offset: int, own_rank: int, alpha: float, rslora: bool) -> AdapterState:
        return random_adapter(
            seed + offset, rank=own_rank, shapes=shapes, alpha=alpha, rslora=rslora, dtype=dtype
        )

    before = adapter(0, rank, 4.0, False)
    adapters = {}
    for i in range(1, draw(st.integers(1, 4)) + 1):
        own_rank = draw(st.integers(1, rank)) if mixed else rank
        alpha = draw(st.sampled_from([1.0, 4.0, 7.0])) if mixed else 4.0
        adapters[f"site-{i}"] = adapter(i, own_rank, alpha, mixed and draw(st.booleans()))
    shares = [draw(st.floats(0.05, 1)) for _ in adapters]
    total = math.fsum(shares) / draw(st.sampled_from([1.0, 0.6]))
    return Case(before, adapters, {s: n / total for s, n in zip(adapters, shares, strict=True)})


@law
@given(case=cases())
def test_the_merge_equals_the_dense_mean_cut_to_its_rank(case: Case) -> None:
    merged, energy = mean_of_products(case.before, case.adapters, case.weights)
    wanted = dense_mean(case.before, case.adapters, case.weights)
    cut = {module: best(matrix, case.before.spec.rank) for module, matrix in wanted.items()}

    # Against the whole mean, not the kept part: singular values may be equal at the cut.
    assert distance(dense(merged), wanted) <= distance(cut, wanted) + 1e-5 * norm(wanted)
    assert energy == pytest.approx(norm(cut) ** 2 / norm(wanted) ** 2, abs=1e-9)


@law
@given(case=cases())
def test_nothing_is_lost_where_the_rank_suffices(case: Case) -> None:
    spec = replace(case.before.spec, rank=9, alpha=5.0, rslora=True)  # no layer has a side above 9
    merged, energy = mean_of_products(case.before, case.adapters, case.weights, spec)
    wanted = dense_mean(case.before, case.adapters, case.weights)
    assert merged.spec == spec
    assert distance(dense(merged), wanted) <= 1e-5 * norm(wanted)
    assert energy == pytest.approx(1)


@law
@given(case=cases(mixed=False))
def test_with_equal_ranks_it_is_the_plain_mean_whatever_was_before(case: Case) -> None:
    total = math.fsum(case.weights.values())
    weights = {site: weight / total for site, weight in case.weights.items()}
    products = {site: dense(adapter) for site, adapter in case.adapters.items()}
    plain = {
        module: sum(weights[site] * products[site][module] for site in weights)
        for module in case.before.pairs
    }
    wide = replace(case.before.spec, rank=9)
    merged, _ = mean_of_products(case.before, case.adapters, weights, wide)
    assert distance(dense(merged), plain) <= 1e-5 * max(norm(plain), norm(dense(case.before)))


@law
@given(case=cases(dtypes=("float32", "bfloat16")))
def test_identical_sites_give_their_own_product(case: Case) -> None:
    """peft's linear merge multiplies it by the number of sites."""
    total = math.fsum(case.weights.values())
    weights = {site: weight / total for site, weight in case.weights.items()}
    own = case.before.spec
    first = change_rank(case.adapters["site-1"], own.rank)
    merged, energy = mean_of_products(case.before, dict.fromkeys(weights, first), weights)
    close = 1e-5 if own.dtype == "float32" else 2e-2
    assert distance(dense(merged), dense(first)) <= close * norm(dense(first))
    assert energy == pytest.approx(1)


@law
@given(case=cases())
def test_a_no_op_round_keeps_everything_whatever_the_ranks(case: Case) -> None:
    sent = {
        site: change_rank(case.before, a.spec.rank, a.spec.alpha, a.spec.rslora)
        for site, a in case.adapters.items()
    }
    merged, energy = mean_of_products(case.before, sent, case.weights)
    assert distance(dense(merged), dense(case.before)) <= 1e-5 * norm(dense(case.before))
    assert energy == pytest.approx(1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_ranks_do_not_collapse_over_rounds_of_nothing(seed: int) -> None:
    """Averaging what the sites hold, as FlexLoRA does, loses a third of the tail a round."""
    start = adapter = random_adapter(seed, rank=6, shapes={"q_proj": (20, 15)})
    weights = {"a": 0.3, "b": 0.3, "c": 0.4}
    collapsed = dense(start)["q_proj"]
    for _ in range(5):
        sent = {"a": change_rank(adapter, 1), "b": change_rank(adapter, 3), "c": adapter}
        adapter, _ = mean_of_products(adapter, sent, weights)
        collapsed = 0.3 * best(collapsed, 1) + 0.3 * best(collapsed, 3) + 0.4 * collapsed
    whole = norm(dense(start))
    assert distance(dense(adapter), dense(start)) < 1e-5 * whole
    assert float(np.linalg.norm(collapsed - dense(start)["q_proj"])) > 0.1 * whole


@law
@given(case=cases(), seed=st.integers(0, 1000))
def test_how_a_product_is_split_into_factors_does_not_matter(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def turned(adapter: AdapterState) -> AdapterState:
        rank = adapter.spec.rank
        turn, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
        turn *= 10.0 ** rng.uniform(-2, 2, size=rank)  # and lengths from one factor to the other
        there, back = torch.tensor(turn), torch.tensor(np.linalg.inv(turn))
        return AdapterState(
            adapter.spec,
            {
                m: LoRAPair((back @ p.A.double()).float(), (p.B.double() @ there).float())
                for m, p in adapter.pairs.items()
            },
        )

    plain, _ = mean_of_products(case.before, case.adapters, case.weights)
    others = {site: turned(adapter) for site, adapter in case.adapters.items()}
    wanted = dense_mean(case.before, others, case.weights)
    merged, _ = mean_of_products(case.before, others, case.weights)
    # Rounding of turned factors may change which of two near-equal components is kept.
    assert distance(dense(merged), wanted) == pytest.approx(
        distance(dense(plain), wanted), abs=1e-4 * norm(wanted)
    )


@law
@given(case=cases())
def test_alpha_and_rank_scale_the_product_and_nothing_else(case: Case) -> None:
    """Alpha doubled with `B` halved is the same adapter."""

    def rewritten(adapter: AdapterState) -> AdapterState:
        spec = replace(adapter.spec, alpha=2 * adapter.spec.alpha)
        halved = {m: LoRAPair(p.A, p.B / 2) for m, p in adapter.pairs.items()}
        return AdapterState(spec, halved)

    plain, _ = mean_of_products(case.before, case.adapters, case.weights)
    others = {site: rewritten(adapter) for site, adapter in case.adapters.items()}
    merged, _ = mean_of_products(case.before, others, case.weights)
    assert merged == plain


@law
@given(case=cases(mixed=False))
def test_a_site_that_is_padded_with_zeros_is_the_same_site(case: Case) -> None:
    plain, _ = mean_of_products(case.before, case.adapters, case.weights)
    padded = {site: change_rank(a, a.spec.rank + 2) for site, a in case.adapters.items()}
    merged, _ = mean_of_products(case.before, padded, case.weights)
    wanted = dense_mean(case.before, case.adapters, case.weights)
    assert distance(dense(merged), wanted) == pytest.approx(
        distance(dense(plain), wanted), abs=1e-5 * norm(wanted)
    )


@law
@given(case=cases(dtypes=("float32", "bfloat16")))
def test_no_pair_is_dead_and_rows_keep_their_length(case: Case) -> None:
    """A column of `B` and a row of `A` that are both zero can never be trained again."""
    merged, _ = mean_of_products(case.before, case.adapters, case.weights)
    for module, pair in merged.pairs.items():
        lengths = pair.A.double().norm(dim=1)
        wanted = float(case.before.pairs[module].A.double().norm(dim=1).mean())
        assert lengths.numpy() == pytest.approx(wanted, rel=2e-2)
    assert merged.is_finite()


@law
@given(case=cases(dtypes=("float32", "bfloat16")), order=st.randoms(use_true_random=False))
def test_order_is_ignored_and_inputs_stay_as_they_are(case: Case, order: object) -> None:
    digests = {site: a.digest() for site, a in case.adapters.items()} | {"": case.before.digest()}
    first, _ = mean_of_products(case.before, case.adapters, case.weights)
    shuffled = dict(order.sample(list(case.adapters.items()), k=len(case.adapters)))  # type: ignore[attr-defined]
    second, _ = mean_of_products(case.before, shuffled, dict(reversed(case.weights.items())))
    assert first == second
    assert first.spec == case.before.spec
    for _, _, tensor in first.tensors():
        tensor.fill_(7.0)  # a result that shares memory with an input would show
    after = {site: a.digest() for site, a in case.adapters.items()} | {"": case.before.digest()}
    assert after == digests


def test_a_site_may_be_split_in_two_and_one_without_weight_is_as_good_as_absent() -> None:
    before, a, b = (random_adapter(i, rank=3) for i in range(3))
    plain, _ = mean_of_products(before, {"a": a, "b": b}, {"a": 0.6, "b": 0.4})
    split, _ = mean_of_products(before, {"a": a, "b": b, "c": a}, {"a": 0.2, "b": 0.4, "c": 0.4})
    broken = AdapterState(b.spec, {m: LoRAPair(p.A * math.nan, p.B) for m, p in b.pairs.items()})
    ignored, _ = mean_of_products(
        before, {"a": a, "b": b, "c": broken}, {"a": 0.6, "b": 0.4, "c": 0.0}
    )
    assert distance(dense(plain), dense(split)) < 1e-5 * norm(dense(plain))
    assert ignored == plain


def test_what_the_weights_leave_stays_with_the_adapter_before() -> None:
    before, a = random_adapter(0, rank=2), random_adapter(1, rank=2)
    same, _ = mean_of_products(before, {"a": a}, {"a": 0.0})
    assert distance(dense(same), dense(before)) < 1e-6 * norm(dense(before))
    half, _ = mean_of_products(before, {"a": a}, {"a": 0.5}, replace(before.spec, rank=8))
    middle = {m: (dense(before)[m] + dense(a)[m]) / 2 for m in before.pairs}
    assert distance(dense(half), middle) < 1e-5 * norm(middle)


def test_a_component_that_lies_all_in_one_factor_does_not_drown_the_others() -> None:
    """Gram matrices square lengths; 1e6 against 1e-6 would leave nothing of the second site."""
    spec = AdapterSpec("m", "r", 1, 1.0, ("q",))

    def one(left: list[float], right: list[float]) -> AdapterState:
        return AdapterState(spec, {"q": LoRAPair(torch.tensor([right]), torch.tensor([left]).T)})

    loud = one([1e8, 0.0], [1e-8, 0.0, 0.0])
    quiet = one([0.0, 1e-8], [0.0, 1e8, 0.0])
    zero = one([0.0, 0.0], [1.0, 0.0, 0.0])
    merged, _ = mean_of_products(
        zero, {"a": loud, "b": quiet}, {"a": 0.5, "b": 0.5}, replace(spec, rank=2)
    )
    assert dense(merged)["q"] == pytest.approx(np.array([[0.5, 0, 0], [0, 0.5, 0]]), abs=1e-6)


@law
@given(case=cases(dtypes=("float32", "bfloat16")))
def test_inner_products_of_round_deltas_equal_the_dense_ones(case: Case) -> None:
    sites, gram = delta_gram(case.before, case.adapters)
    start = dense(case.before)
    deltas = [
        np.concatenate(
            [
                (matrix - best(start[module], case.adapters[site].spec.rank)).ravel()
                for module, matrix in dense(case.adapters[site]).items()
            ]
        )
        for site in sites
    ]
    wanted = np.array([[float(a @ b) for b in deltas] for a in deltas])
    assert sites == tuple(sorted(case.adapters))
    assert gram == pytest.approx(wanted, abs=1e-7 * max(1.0, float(wanted.max())))
    assert (gram == gram.T).all()


def test_norm_and_distance_are_of_products() -> None:
    a, b = random_adapter(1, rank=3, alpha=5), random_adapter(2, rank=2, rslora=True)
    assert product_norm(a) == pytest.approx(norm(dense(a)), rel=1e-12)
    assert product_distance(a, b) == pytest.approx(distance(dense(a), dense(b)), rel=1e-12)
    assert product_distance(a, a) == 0.0
    near = AdapterState(a.spec, {m: LoRAPair(p.A, p.B * (1 + 2**-20)) for m, p in a.pairs.items()})
    assert product_distance(a, near) == pytest.approx(distance(dense(a), dense(near)), rel=1e-6)
    assert product_distance(a, near) < 1e-5 * norm(dense(a))


@law
@given(
    rank=st.integers(1, 10),
    new=st.integers(1, 12),
    alpha=st.sampled_from([None, 1.0, 8.0]),
    rslora=st.sampled_from([None, True, False]),
    seed=st.integers(0, 99),
)
def test_another_rank_is_the_same_product_or_the_nearest(
    rank: int, new: int, alpha: float | None, rslora: bool | None, seed: int
) -> None:
    adapter = random_adapter(seed, rank=rank)
    changed = change_rank(adapter, new, alpha, rslora)
    wanted = {m: best(matrix, min(rank, new)) for m, matrix in dense(adapter).items()}
    assert distance(dense(changed), wanted) < 1e-5 * norm(wanted)
    assert (changed.spec.rank, changed.spec.alpha) == (new, alpha or 4.0)
    assert changed.spec.rslora == bool(rslora)
    for pair in changed.pairs.values():
        assert bool((pair.A.norm(dim=1) > 1e-3).all())


def test_an_adapter_that_was_not_trained_yet_can_be_cut_and_trained() -> None:
    fresh = AdapterState(
        random_adapter(0, rank=4).spec,
        {m: LoRAPair(p.A, p.B * 0) for m, p in random_adapter(0, rank=4).pairs.items()},
    )
    small = change_rank(fresh, 2)
    for module, pair in small.pairs.items():
        assert not pair.B.any()
        gram = (pair.A @ pair.A.T).numpy()
        length = float(fresh.pairs[module].A.norm(dim=1).mean()) ** 2
        assert gram == pytest.approx(length * np.eye(2), abs=1e-5 * length)
    assert change_rank(fresh, 2) == small


def test_gauges_split_one_product_in_two_ways() -> None:
    adapter = random_adapter(3, rank=2, alpha=6)
    for gauge in ("scaled", "balanced"):
        again = regauge(adapter, gauge)
        assert distance(dense(again), dense(adapter)) < 1e-6 * norm(dense(adapter))
        for module, pair in again.pairs.items():
            rows, columns = pair.A.norm(dim=1), pair.B.norm(dim=0)
            wanted = float(adapter.pairs[module].A.norm(dim=1).mean())
            expected = columns if gauge == "balanced" else torch.full((2,), wanted)
            assert rows.numpy() == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.mark.parametrize(
    "weights", [{"a": 0.5, "c": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.5, "b": 0.6}, {"a": math.nan}]
)
def test_weights_that_are_no_shares_are_refused(weights: dict[str, float]) -> None:
    adapters = {"a": random_adapter(1), "b": random_adapter(2)}
    with pytest.raises(AggregationError, match="expected weights"):
        mean_of_products(random_adapter(0), adapters, weights)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (random_adapter(1, base_model="other"), "adapter of b: base_model differs"),
        (random_adapter(1, revision="r2"), "revision differs"),
        (random_adapter(1, shapes={"layers.0.q_proj": (6, 5)}), "modules differ; 3 missing, 1"),
        (
            random_adapter(
                1,
                shapes={
                    "model.layers.0.self_attn.q_proj": (6, 5),
                    "model.layers.0.mlp.down_proj": (8, 3),
                    "model.layers.1.self_attn.q_proj": (6, 5),
                },
            ),
            "down_proj: another shape; expected .3, 8., got .8, 3.",
        ),
        (random_adapter(1).only({"B"}), "a factor is missing"),
    ],
)
def test_products_that_cannot_be_added_are_refused_by_name(other: AdapterState, words: str) -> None:
    before, adapters = random_adapter(0), {"a": random_adapter(2), "b": other}
    with pytest.raises(AdapterMismatchError, match=words):
        mean_of_products(before, adapters, {"a": 0.5, "b": 0.5})
    with pytest.raises(AdapterMismatchError, match=words):
        delta_gram(before, adapters)
    with pytest.raises(AdapterMismatchError, match=words.replace("adapter of b: ", "")):
        product_distance(before, other)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_no_result(value: float) -> None:
    bad = random_adapter(1)
    bad.pairs["model.layers.0.mlp.down_proj"].B[0, 1] = value
    with pytest.raises(AggregationError, match="expected finite numbers"):
        mean_of_products(random_adapter(0), {"a": bad}, {"a": 0.5})
    with pytest.raises(AggregationError, match="expected finite numbers"):
        change_rank(bad, 1)
