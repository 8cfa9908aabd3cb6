import math
from dataclasses import replace

import pytest
import torch

from fedmedlora.adapters.algebra import change_norm
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError
from fedmedlora.testing.adapters import SHAPES, random_adapter

Q0 = "model.layers.0.self_attn.q_proj"


def test_scaling_is_alpha_over_rank_and_with_rslora_alpha_over_its_root() -> None:
    spec = AdapterSpec("m", "r", rank=16, alpha=64, target_modules=("q_proj",))
    assert spec.scaling == 4.0
    assert replace(spec, rslora=True).scaling == 16.0


def test_parameters_and_bytes_are_those_of_the_matrices() -> None:
    adapter = random_adapter(0, rank=2, shapes={"a.q_proj": (6, 5)}, dtype="bfloat16")
    assert adapter.num_parameters == 2 * 5 + 6 * 2
    assert adapter.num_bytes == 2 * 22


def test_target_modules_have_no_order() -> None:
    first = AdapterSpec("m", "r", 1, 1, ("v_proj", "q_proj"))
    assert first == AdapterSpec("m", "r", 1, 1.0, ("q_proj", "v_proj", "q_proj"))


def test_a_target_names_whole_parts_of_a_module_name_only() -> None:
    spec = AdapterSpec("m", "r", 1, 1, ("proj", "layers.1.up"))
    assert spec.targets("layers.0.proj")
    assert spec.targets("model.layers.1.up")
    assert not spec.targets("layers.0.q_proj")
    assert not spec.targets("model.layers.11.up")


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"target_modules": ()},
        {"dtype": "int8"},
    ],
)
def test_an_impossible_spec_is_refused(change: dict) -> None:
    with pytest.raises(AdapterMismatchError):
        replace(AdapterSpec("m", "r", 1, 1.0, ("q",)), **change)


def test_a_pair_of_two_ranks_two_dtypes_or_with_gradients_is_refused() -> None:
    A, B = torch.zeros(2, 3), torch.zeros(4, 2)
    with pytest.raises(AdapterMismatchError, match=r"A \(2, 3\) and B \(4, 3\)"):
        LoRAPair(A, torch.zeros(4, 3))
    with pytest.raises(AdapterMismatchError, match="one dtype"):
        LoRAPair(A, B.bfloat16())
    with pytest.raises(AdapterMismatchError, match="require gradients"):
        LoRAPair(torch.nn.Parameter(A), B)


def test_a_pair_that_contradicts_the_spec_is_refused() -> None:
    adapter = random_adapter(0, rank=2)
    with pytest.raises(AdapterMismatchError, match="expected rank 3"):
        AdapterState(replace(adapter.spec, rank=3), adapter.pairs)
    with pytest.raises(AdapterMismatchError, match="bfloat16"):
        AdapterState(adapter.spec.with_dtype("bfloat16"), adapter.pairs)
    with pytest.raises(AdapterMismatchError, match="not among the spec's target modules"):
        AdapterState(replace(adapter.spec, target_modules=("down_proj",)), adapter.pairs)
    with pytest.raises(AdapterMismatchError, match="at least one module"):
        AdapterState(adapter.spec, {})


def test_adapters_are_equal_if_every_bit_is() -> None:
    adapter = random_adapter(0)
    assert adapter == random_adapter(0)
    assert adapter != random_adapter(1)
    other = AdapterState(
        adapter.spec,
        adapter.pairs
        | {Q0: LoRAPair(adapter.pairs[Q0].A, adapter.pairs[Q0].B.nextafter(torch.ones(1)))},
    )
    assert adapter != other
    assert adapter != replace(adapter, spec=replace(adapter.spec, alpha=5.0))


def test_the_digest_ignores_the_order_of_modules_and_the_layout_in_memory() -> None:
    adapter = random_adapter(0)
    strided = {
        name: LoRAPair(pair.A.t().contiguous().t(), pair.B)
        for name, pair in reversed(adapter.pairs.items())
    }
    assert AdapterState(adapter.spec, strided).digest() == adapter.digest()


def test_the_digest_tells_a_from_b_and_one_shape_from_another_of_the_same_bytes() -> None:
    def filled(rank: int, d: int, A: float, B: float) -> str:
        spec = AdapterSpec("m", "r", rank, 1.0, ("q",))
        pair = LoRAPair(torch.full((rank, d), A), torch.full((d, rank), B))
        return AdapterState(spec, {"q": pair}).digest()

    assert filled(1, 4, 1.0, 0.0) != filled(1, 4, 0.0, 1.0)
    assert filled(1, 4, 1.0, 0.0) != filled(2, 2, 1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found(value: float) -> None:
    adapter = random_adapter(0)
    assert adapter.is_finite()
    adapter.pairs[Q0].B[3, 1] = value
    assert not adapter.is_finite()


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": "other"},
        {"revision": "r2"},
        {"rank": 3},
        {"alpha": 5.0},
        {"rslora": True},
        {"dtype": "bfloat16"},
    ],
)
def test_adapters_of_another_kind_are_incompatible_and_the_error_says_why(change: dict) -> None:
    with pytest.raises(AdapterMismatchError, match=f"^site north: {next(iter(change))} differs"):
        random_adapter(0).check_compatible(random_adapter(0, **change), "site north")


def test_missing_modules_and_other_shapes_are_incompatible() -> None:
    adapter = random_adapter(0)
    fewer = AdapterState(adapter.spec, {m: p for m, p in adapter.pairs.items() if m != Q0})
    with pytest.raises(AdapterMismatchError, match=f"1 missing \\({Q0}\\)"):
        adapter.check_compatible(fewer, "x")
    with pytest.raises(AdapterMismatchError, match=r"0 missing .* 1 unexpected"):
        fewer.check_compatible(adapter, "x")
    transposed = random_adapter(0, shapes={m: (d, o) for m, (o, d) in SHAPES.items()})
    with pytest.raises(AdapterMismatchError, match="another shape"):
        adapter.check_compatible(transposed, "x")


def test_what_is_not_shared_is_not_there_and_can_be_filled_in_again() -> None:
    adapter, old = random_adapter(0), random_adapter(1)
    sent = adapter.only({"B"})
    assert sent.factors == {"B"}
    assert sent.num_parameters == sum(2 * d_out for d_out, _ in SHAPES.values())
    filled = sent.filled_from(old)
    assert torch.equal(filled.pairs[Q0].A, old.pairs[Q0].A)
    assert torch.equal(filled.pairs[Q0].B, adapter.pairs[Q0].B)
    with pytest.raises(AdapterMismatchError):
        old.check_compatible(sent, "an adapter that lacks a factor")
    with pytest.raises(AdapterMismatchError):
        sent.filled_from(random_adapter(0, shapes={"q_proj": (6, 5)}))


def test_the_norm_of_a_change_counts_both_factors() -> None:
    spec = AdapterSpec("m", "r", 1, 1.0, ("q",))
    before = AdapterState(spec, {"q": LoRAPair(torch.zeros(1, 2), torch.zeros(3, 1))})
    after = AdapterState(
        spec,
        {"q": LoRAPair(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0], [0.0], [4.0]]))},
    )
    assert change_norm(before, after) == 5.0  # sqrt(1 + 4 + 4 + 16)
    assert change_norm(before, after.only({"A"})) == pytest.approx(math.sqrt(5))
