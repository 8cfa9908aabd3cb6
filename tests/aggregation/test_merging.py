import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation.merging import mean_of_factors
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
