"""FlexAttention over packed rows: the tokens that it shows each other, its states and gradients.

On a CPU torch computes FlexAttention uncompiled and refuses a gradient, though its formulas know
one; the fixture `uncompiled` lifts that check, so that mask, layout and gradients are tested
anywhere. That the kernels of a GPU agree with them, only the tests marked `gpu` tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torchs

from fedmedlora.core.errors import ModelError
from fedmedlora.models import attention_choice, flex_attention
from fedmedlora.models.attention_choice import choose_attention, flex_error
from fedmedlora.models.packed_attention import Segment, allow_packed_rows, lay_out, read_packed
from fedmedlora.testing.tiny import SHAPES, tiny_base
from fedmedlora.training.checkpointing import recomputed_layers

ROWS = {
    "several segments": [Segment(7, (5, 1, 30)), Segment(2, (4,)), Segment(0, (6,))],
    "one sequence": [Segment(9, (12,))],
    "no prefix": [Segment(0, (5, 8, 3))],
    "several blocks": [Segment(150, (40, 7, 160)), Segment(0, (27,))],
}
SEGMENTS = st.lists(
    st.builds(
        Segment,
        prefix_length=st.integers(0, 9),
        lengths=st.lists(st.integers(1, 25), max_size=5).map(tuple),
    ),
    min_size=1,
    max_size=4,
).filter(lambda segments: any(s.lengths for s in segments))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    # It would trace each call anew, and warn that it is slow.
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture
def on_a_cpu_too(monkeypatch: pytest.MonkeyPatch, uncompiled: None) -> None:
    monkeypatch.setattr(attention_choice, "_DEVICES", ("cpu",))


def visible(segments: list[Segment]) -> torch.Tensor:
    """Which token sees which, segment by segment and sequence by sequence."""
    size = sum(s.prefix_length + sum(s.lengths) for s in segments)
    seen = torch.zeros(size, size, dtype=torch.bool)
    at = 0
    for segment in segments:
        prefix = slice(at, at + segment.prefix_length)
        own = prefix
        for length in (None, *segment.lengths):
            if length is not None:
                own = slice(own.stop, own.stop + length)
                seen[own, prefix] = True
            seen[own, own] = torch.ones(own.stop - own.start, own.stop - own.start).tril().bool()
        at = own.stop
    return seen


@settings(deadline=None, max_examples=40)
@given(SEGMENTS)
def test_a_token_sees_its_prefix_and_what_stands_before_it_in_its_own_sequence(
    segments: list[Segment],
) -> None:
    mask = flex_attention.block_mask(lay_out(segments))
    size = mask.seq_lengths[0]
    found = torchs.create_mask(mask.mask_mod, None, None, size, size, "cpu")[0, 0]

    assert torch.equal(found, visible(segments))


def test_blocks_in_which_nothing_is_seen_are_left_out() -> None:
    mask = flex_attention.block_mask(lay_out([Segment(256, (128, 128)), Segment(0, (128,))]))

    assert mask.to_dense()[0, 0].tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks[0, 0].tolist() == [0, 1, 2, 2, 0]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_torch_as_it_is_computes_it_on_a_cpu_without_a_gradient() -> None:
    row = lay_out(ROWS["several segments"])
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(1, heads, row.position_ids.shape[1], 16, generator=generator)
        for heads in (4, 2, 2)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(2, 1),
        value.repeat_interleave(2, 1),
        attn_mask=visible(ROWS["several segments"]),
        scale=0.3,
    )
    found = flex_attention.attend(query, key, value, flex_attention.block_mask(row), 0.3)

    torch.testing.assert_close(found, expected.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(9, 3), (4, 4)])
def test_output_and_gradients_agree_with_the_plain_way(
    uncompiled: None, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    error = flex_error(heads, 16, dtype, "cpu")

    assert 0 < error <= (1e-5 if dtype == torch.float32 else 3e-2)


def network(folder: Path, shape: str, *, flex: bool) -> Any:
    """A float32 network whose weights take gradients, and which reads packed rows."""
    backbone: Any = tiny_base(folder, shape).backbone  # type: ignore[arg-type]
    assert allow_packed_rows(backbone, flex=flex)
    return backbone.requires_grad_(True)


def row_of(segments: list[Segment], device: str = "cpu") -> tuple[torch.Tensor, Any]:
    size = sum(s.prefix_length + sum(s.lengths) for s in segments)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 300, (1, size), generator=generator)
    return ids.to(device), lay_out(segments, device)


def loss(states: torch.Tensor) -> torch.Tensor:
    weight = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(2))
    return (states @ weight.to(states.device, states.dtype)).sin().sum()


def weight_gradients(backbone: Any) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
    backbone.zero_grad()
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_weight_gradients_are_those_of_the_plain_way(
    uncompiled: None, tmp_path: Path, shape: str, case: str, recompute: bool
) -> None:
    ids, row = row_of(ROWS[case])
    plain, flex = (network(tmp_path, shape, flex=flex) for flex in (False, True))
    expected = read_packed(plain, ids, row)
    loss(expected).backward()  # type: ignore[no-untyped-call]
    if recompute:
        with recomputed_layers(flex):
            found = read_packed(flex, ids, row)
            loss(found).backward()  # type: ignore[no-untyped-call]
    else:
        found = read_packed(flex, ids, row)
        loss(found).backward()  # type: ignore[no-untyped-call]

    assert (found - expected).norm() <= 1e-5 * expected.norm()
    exact = weight_gradients(plain)
    assert (weight_gradients(flex) - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_weight_gradients_are_those_of_a_padded_batch(
    uncompiled: None, tmp_path: Path, shape: str, case: str
) -> None:
    ids, row = row_of(ROWS[case])
    # In float64, as how far rounding takes two orders of one sum apart depends on the processor;
    # the norms of transformers stay in float32.
    backbone = network(tmp_path, shape, flex=True).double()
    wholes, firsts, at = [], [], 0
    for segment in ROWS[case]:
        prefix = list(range(at, at + segment.prefix_length))
        at += segment.prefix_length
        for index, length in enumerate(segment.lengths):
            wholes.append(prefix + list(range(at, at + length)))
            # The prefix counts once in a packed row.
            firsts.append(len(prefix) if index else 0)
            at += length
    padded = torch.zeros(len(wholes), max(map(len, wholes)), dtype=torch.long)
    for number, whole in enumerate(wholes):
        padded[number, : len(whole)] = ids[0, whole]

    states = read_packed(backbone, ids, row)
    loss(states).backward()  # type: ignore[no-untyped-call]
    found = weight_gradients(backbone)
    expected = backbone(input_ids=padded, use_cache=False).last_hidden_state
    counted = [expected[n, firsts[n] : len(whole)] for n, whole in enumerate(wholes)]
    loss(torch.cat(counted)).backward()  # type: ignore[no-untyped-call]

    for number, whole in enumerate(wholes):
        alone = expected[number, : len(whole)]
        assert (states[whole] - alone).norm() <= 1e-6 * alone.norm()
    exact = weight_gradients(backbone)
    assert (found - exact).norm() <= 1e-6 * exact.norm()


def test_a_network_that_uses_it_reads_all_else_as_before(uncompiled: None, tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    ids = torch.arange(2, 26).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.inference_mode():
        before = [base.model(ids).logits, base.model(ids, attention_mask=mask).logits]
        assert allow_packed_rows(base.backbone, flex=True)
        after = [base.model(ids).logits, base.model(ids, attention_mask=mask).logits]

    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_on_a_cpu_the_plain_way_is_chosen(tmp_path: Path) -> None:
    backbone = tiny_base(tmp_path).backbone

    assert choose_attention(backbone).to_json() == {
        "name": "plain", "reason": "FlexAttention is for GPUs", "error": None
    }  # fmt: skip
    assert choose_attention(backbone, "plain").reason == "as set"
    with pytest.raises(ModelError, match=r'"flex": FlexAttention is for GPUs\. Set .* "plain"'):
        choose_attention(backbone, "flex")


@pytest.mark.parametrize("wanted", ["auto", "flex"])
@pytest.mark.parametrize("allowed", [False, True])
def test_where_it_agrees_it_is_chosen_and_used(
    on_a_cpu_too: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wanted: Any,
    allowed: bool,
) -> None:
    backbone = tiny_base(tmp_path).backbone
    assert not allowed or allow_packed_rows(backbone)
    choice = choose_attention(backbone, wanted)
    calls = []
    attend = flex_attention.attend
    monkeypatch.setattr(
        "fedmedlora.models.packed_attention.attend",
        lambda *given: calls.append(1) or attend(*given),  # type: ignore[func-returns-value]
    )
    assert allow_packed_rows(backbone)
    with torch.inference_mode():
        read_packed(backbone, *row_of(ROWS["one sequence"]))

    assert choice.name == "flex"
    assert choice.error is not None
    assert choice.error <= 1e-5
    assert choice.reason == f"FlexAttention is off by {choice.error:.1e}; 1e-05 is exact enough"
    assert len(calls) == 2


REAL_MASK, REAL_ATTEND = flex_attention.block_mask, flex_attention.attend


def leaking(row: Any) -> Any:
    """As `block_mask`, but the last token sees the whole row."""
    mask = REAL_MASK(row)
    last = mask.seq_lengths[0] - 1
    return torchs.create_block_mask(
        lambda b, h, q, k: mask.mask_mod(b, h, q, k) | (q == last),
        None, None, *mask.seq_lengths, device="cpu",
    )  # fmt: skip


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel")


def not_a_number(*given: Any, **named: Any) -> torch.Tensor:
    return REAL_ATTEND(*given, **named) * torch.nan


@pytest.mark.parametrize(
    ("part", "fault", "reason"),
    [
        (
            "block_mask",
            leaking,
            r"FlexAttention is off by \d\.\de-0\d; at most 1e-05 is exact enough",
        ),
        ("attend", not_a_number, r"FlexAttention is off by nan; at most 1e-05 is exact enough"),
        ("attend", broken, r"FlexAttention does not run here \(RuntimeError: no kernel\)"),
    ],
)
def test_where_it_is_wrong_or_does_not_run_the_plain_way_is_chosen(
    on_a_cpu_too: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    part: str,
    fault: Callable[..., Any],
    reason: str,
) -> None:
    monkeypatch.setattr(attention_choice, part, fault)
    backbone = tiny_base(tmp_path).backbone
    choice = choose_attention(backbone)

    assert choice.name == "plain"
    assert re.fullmatch(reason, choice.reason)
    assert backbone.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=reason):
        choose_attention(backbone, "flex")


def test_a_network_that_cannot_use_it_keeps_the_plain_way(
    on_a_cpu_too: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = tiny_base(tmp_path).backbone
    assert allow_packed_rows(backbone)
    plain = backbone.config._attn_implementation  # type: ignore[union-attr]
    monkeypatch.setattr("fedmedlora.models.packed_attention.attend", broken)

    assert choose_attention(backbone).reason == "this model does not work with FlexAttention"
    assert backbone.config._attn_implementation == plain  # type: ignore[union-attr]


def test_a_number_type_without_a_tolerance_is_not_tried(on_a_cpu_too: None, tmp_path: Path) -> None:
    backbone = tiny_base(tmp_path, dtype=torch.float64).backbone

    assert choose_attention(backbone).reason == "FlexAttention is not tried in torch.float64"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_rows_of_many_lengths_are_compiled_a_few_times_only(uncompiled: None) -> None:
    """Beyond its limit torch would go back to computing it step by step."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(torchs.flex_attention, backend=counter)
    for training in (True, False):
        for length in (397, 413, 14, 9, 96, 160, 256, 320, 512, 32, 1024):
            with torch.inference_mode(not training):
                row = lay_out([Segment(5, (length - 7, 2))])
                query, key, value = (
                    torch.randn(1, length, heads, 16, requires_grad=training).transpose(1, 2)
                    for heads in (4, 2, 2)
                )
                mask = flex_attention.block_mask(row)
                compiled(query, key, value, block_mask=mask, scale=0.25, enable_gqa=True)

    assert counter.frame_count < torch._dynamo.config.recompile_limit


NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.filterwarnings("default")  # torch's compiler sets off some of its own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "width"),
    [((9, 3), 64), ((32, 8), 128), ((16, 8), 128), ((12, 2), 128)],
    ids=["smollm2-135m", "llama-8b and deepseek-distill", "qwen3-0.6b", "qwen2-1.5b-distill"],
)
def test_compiled_output_and_gradients_agree_with_the_plain_way(
    heads: tuple[int, int], width: int, dtype: torch.dtype
) -> None:
    assert flex_error(heads, width, dtype, "cuda") <= (1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.filterwarnings("default")  # torch's compiler sets off some of its own
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", ROWS)
def test_a_network_on_a_gpu_chooses_it_and_trains_the_same(
    tmp_path: Path, case: str, recompute: bool
) -> None:
    # The only shape whose heads are as wide as the kernels ask for.
    plain, flex = (tiny_base(tmp_path, "qwen3").backbone.to("cuda") for _ in range(2))
    assert allow_packed_rows(plain)
    choice = choose_attention(flex)
    assert choice.name == "flex", choice.reason
    ids, row = row_of(ROWS[case], "cuda")
    for backbone in (plain, flex):
        backbone.requires_grad_(True)
        if recompute:
            with recomputed_layers(backbone):
                loss(read_packed(backbone, ids, row)).backward()  # type: ignore[no-untyped-call]
        else:
            loss(read_packed(backbone, ids, row)).backward()  # type: ignore[no-untyped-call]
    exact = weight_gradients(plain)

    assert (weight_gradients(flex) - exact).norm() <= 1e-5 * exact.norm()
