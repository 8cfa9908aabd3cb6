import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation.merging import mean_of_factors, merge
from fedmedlora.core.errors import AdapterMismatchError, AggregationError
from fedmedlora.testing.adapters import random_adapter


def scalar(A: float, B: float) -> AdapterState:
    spec = AdapterSpec("m", "r", 1, 1.0, ("q",))
    return AdapterState(
        spec, {"q": LoRAPair(torch.tensor([[float(A)]]), torch.tensor([[float(B)]]))}
    )


def test_factors_are_averaged_separately() -> None:
    merged = mean_of_factors({"n": scalar(1, 0), "s": scalar(5, 4)}, {"n": 0.25, "s": 0.75})
    assert merged.pairs["q"].A.item() == 4.0  # 0.25 * 1 + 0.75 * 5
    assert merged.pairs["q"].B.item() == 3.0  # 0.75 * 4; the mean product would be 15, not 12


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99)
)
def test_the_mean_is_numpys_in_float64(
    num_sites: int, d_out: int, d_in: int, rank: int, seed: int
) -> None:
    adapters = {
        f"s{i}": random_adapter(seed + i, rank=rank, shapes={"q": (d_out, d_in)})
        for i in range(num_sites)
    }
    weights = np.random.default_rng(seed).dirichlet(np.ones(num_sites))
    merged = mean_of_factors(adapters, {f"s{i}": float(w) for i, w in enumerate(weights)})
    for factor in ("A", "B"):
        stack = np.stack([a.pairs["q"].factor(factor).double().numpy() for a in adapters.values()])
        expected = np.tensordot(weights, stack, axes=1)
        np.testing.assert_allclose(merged.pairs["q"].factor(factor), expected, rtol=1e-6, atol=1e-7)


def test_small_contributions_are_not_lost_to_the_dtype_of_the_adapter() -> None:
    """In bfloat16 sums 1 + 1/512 is 1; a hundred such sites must still move the mean."""
    spec = AdapterSpec("m", "r", 1, 1.0, ("q",), dtype="bfloat16")

    def one(value: float) -> AdapterState:
        tensor = torch.tensor([[value]], dtype=torch.bfloat16)
        return AdapterState(spec, {"q": LoRAPair(tensor, tensor)})

    adapters = {"a": one(1.0)} | {f"b{i}": one(1.0 / 64) for i in range(100)}
    merged = mean_of_factors(adapters, dict.fromkeys(adapters, 1 / 101))
    expected = torch.tensor((1 + 100 / 64) / 101).bfloat16()  # 0.02537
    assert merged.pairs["q"].A.item() == expected.item()


@pytest.mark.parametrize(
    "weights", [{}, {"a": 1.0}, {"a": 0.5, "c": 0.5}, {"a": 2.0, "b": -1.0}, {"a": 0.5, "b": 0.6}]
)
def test_weights_that_are_no_shares_of_these_adapters_are_refused(weights: dict) -> None:
    with pytest.raises(AggregationError):
        mean_of_factors({"a": scalar(1, 1), "b": scalar(1, 1)}, weights)


def test_adapters_of_two_kinds_are_not_averaged() -> None:
    adapters = {"a": random_adapter(0), "b": random_adapter(0, alpha=8.0)}
    with pytest.raises(AdapterMismatchError, match="b against a: alpha differs"):
        mean_of_factors(adapters, {"a": 0.5, "b": 0.5})


def test_a_merge_by_products_tells_how_much_of_the_mean_it_holds() -> None:
    before, a, b = (random_adapter(seed, rank=2) for seed in range(3))
    merged = merge("product", before, {"a": a, "b": b}, {"a": 0.5, "b": 0.5})
    whole = np.concatenate(
        [
            2 * ((a.pairs[m].B @ a.pairs[m].A + b.pairs[m].B @ b.pairs[m].A) / 2).numpy().ravel()
            for m in a.pairs
        ]
    )
    missed = product_distance(merged.adapter, merge("product", a, {"b": b}, {"b": 1.0}).adapter)
    assert missed > 0.1  # it is not one of the sites
    assert merged.energy_kept == pytest.approx(
        product_norm(merged.adapter) ** 2 / float(whole @ whole), rel=1e-5
    )


def test_a_merge_by_factors_leaves_the_rest_of_the_weights_to_the_adapter_before() -> None:
    adapters = {"a": scalar(1, 8), "b": scalar(5, 4)}
    merged = merge("factor", scalar(9, 0), adapters, {"a": 0.25, "b": 0.5})
    assert merged.adapter.pairs["q"].A.item() == 5.0  # 0.25 * 1 + 0.5 * 5 + 0.25 * 9
    assert merged.adapter.pairs["q"].B.item() == 4.0
    assert merged.energy_kept is None
    whole = {"a": 0.25, "b": 0.75}
    assert merge("factor", scalar(9, 9), adapters, whole).adapter == mean_of_factors(
        adapters, whole
    )


def test_only_products_of_several_ranks_can_be_merged() -> None:
    before, adapters = random_adapter(0), {"a": random_adapter(1), "b": random_adapter(2, rank=1)}
    weights = {"a": 0.5, "b": 0.5}
    assert merge("product", before, adapters, weights).adapter.spec == before.spec
    with pytest.raises(AdapterMismatchError, match="rank differs"):
        merge("factor", before, adapters, weights)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num_sites=st.integers(1, 5))
def test_the_error_of_averaging_factors_is_the_covariance_of_the_sites_factors(
    seed: int, num_sites: int
) -> None:
    """sum w B A - Bbar Abar = sum w (B - Bbar)(A - Abar); 0 where all have the same A, or B."""
    rng = np.random.default_rng(seed)
    shares = 0.5 + rng.random(num_sites)
    shares /= shares.sum()
    names = [f"site-{i}" for i in range(num_sites)]
    weights = dict(zip(names, shares.tolist(), strict=True))
    adapters = {name: random_adapter(seed + i) for i, name in enumerate(names)}

    def gap(sites: dict[str, AdapterState]) -> tuple[float, float]:
        """Between the mean product and the product of means; and to what the identity says."""
        mean = mean_of_factors(sites, weights)
        error = identity = 0.0
        for module, pair in mean.pairs.items():
            A, B = pair.A.double().numpy(), pair.B.double().numpy()
            parts = [
                (w, sites[n].pairs[module].A.double().numpy(), sites[n].pairs[module].B.double())
                for n, w in weights.items()
            ]
            wrong = sum(w * b.numpy() @ a for w, a, b in parts) - B @ A
            told = sum(w * (b.numpy() - B) @ (a - A) for w, a, b in parts)
            error += float(np.linalg.norm(wrong))
            identity += float(np.linalg.norm(wrong - told))
        return error, identity

    error, rest = gap(adapters)
    assert rest <= 1e-5 * (1 + error)
    assert error > 1e-3 or num_sites == 1
    for factor in ("A", "B"):
        first = adapters[names[0]]
        alike = {
            name: AdapterState(
                adapter.spec,
                {
                    m: LoRAPair(
                        A=first.pairs[m].A if factor == "A" else p.A,
                        B=first.pairs[m].B if factor == "B" else p.B,
                    )
                    for m, p in adapter.pairs.items()
                },
            )
            for name, adapter in adapters.items()
        }
        assert gap(alike)[0] <= 1e-5
