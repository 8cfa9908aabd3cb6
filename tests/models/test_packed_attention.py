"""Packed rows: attention as a dense masked one gives it, states as each sequence gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from fedmedlora.core.errors import ModelError
from fedmedlora.models import packed_attention
from fedmedlora.models.packed_attention import (
    Segment,
    allow_packed_rows,
    lay_out,
    read_packed,
)
from fedmedlora.testing.tiny import SHAPES, Shape, tiny_base

SEGMENTS = st.lists(
    st.builds(
        Segment,
        prefix_length=st.integers(0, 9),
        lengths=st.lists(st.integers(1, 25), max_size=5).map(tuple),
    ),
    min_size=1,
    max_size=3,
).filter(lambda segments: any(s.lengths for s in segments))


def owners(segments: list[Segment]) -> list[tuple[int, int]]:
    """For each token its segment and its sequence in it, -1 for the prefix."""
    found = []
    for number, segment in enumerate(segments):
        found += [(number, -1)] * segment.prefix_length
        for index, length in enumerate(segment.lengths):
            found += [(number, index)] * length
    return found


def visible(segments: list[Segment]) -> torch.Tensor:
    """Which token sees which, by the definition, one by one."""
    of = owners(segments)
    return torch.tensor(
        [
            [
                asked <= asking
                and of[asked][0] == of[asking][0]
                and of[asked][1] in (-1, of[asking][1])
                for asked in range(len(of))
            ]
            for asking in range(len(of))
        ]
    )


def attend(
    segments: list[Segment], tensors: list[torch.Tensor], scale: float | None
) -> torch.Tensor:
    class Module:
        layer_idx = 0

    layout = lay_out(segments)
    out, weights = packed_attention._attention(
        Module, *tensors, None, scaling=scale, packed_row=layout
    )
    assert weights is None
    assert layout.seen_layers == {0}
    return out


@settings(deadline=None, max_examples=40)
@given(
    SEGMENTS,
    st.sampled_from([(4, 4), (6, 2), (3, 1)]),
    st.sampled_from([None, 0.7]),
    st.integers(0, 9),
)
def test_attention_and_its_gradients_are_those_of_dense_masked_attention(
    segments: list[Segment], heads: tuple[int, int], scale: float | None, seed: int
) -> None:
    mask = visible(segments)
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(1, number, len(mask), width, generator=generator, dtype=torch.float64)
        for number, width in ((heads[0], 8), (heads[1], 8), (heads[1], 6))
    ]
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    dense = [tensor.clone().requires_grad_() for tensor in tensors]
    found = attend(segments, ours, scale)
    repeated = [x.repeat_interleave(heads[0] // heads[1], 1) for x in dense[1:]]
    expected = torch.nn.functional.scaled_dot_product_attention(
        dense[0], *repeated, attn_mask=mask, scale=scale
    ).transpose(1, 2)
    outgoing = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    found.backward(outgoing)
    expected.backward(outgoing)

    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(ours, dense, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_positions_and_predecessors_continue_the_prefix() -> None:
    layout = lay_out([Segment(3, (2, 3)), Segment(0, (2,)), Segment(1, (1,))])

    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 0, 1]]
    assert layout.predecessors.tolist() == [[0, 0, 1, 2, 3, 2, 5, 6, 8, 8, 10, 10]]


def test_sequences_of_very_different_length_are_not_padded_to_one_width() -> None:
    groups = lay_out([Segment(5, (100, 3, 90, 4, 3))]).groups

    assert [(group.size, group.width) for group in groups] == [(1, 32), (2, 128), (3, 32)]


def plain_network(folder: Path, shape: Shape, seed: int = 0) -> Any:
    """A float64 network whose weights take gradients; its own norms would round to float32."""
    backbone: Any = tiny_base(folder, shape, seed, torch.float64).backbone
    for name, module in list(backbone.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            exact = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon)
            exact.weight = module.weight
            backbone.set_submodule(name, exact)
    return backbone.requires_grad_(True)


@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_weight_gradients_are_those_of_each_sequence_alone(
    tmp_path: Path, shape: Shape
) -> None:
    backbone = plain_network(tmp_path, shape)
    assert allow_packed_rows(backbone)
    segments = [Segment(7, (5, 1, 30)), Segment(2, (4,)), Segment(0, (6,))]
    ids = torch.randint(
        2, 300, (1, len(owners(segments))), generator=torch.Generator().manual_seed(1)
    )
    weight = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    states = read_packed(backbone, ids, lay_out(segments))
    (states @ weight).sin().sum().backward()
    packed = [p.grad.clone() for p in backbone.parameters()]
    backbone.zero_grad()
    of = owners(segments)
    for number, segment in enumerate(segments):
        for index in range(len(segment.lengths)):
            own = [at for at, owner in enumerate(of) if owner == (number, index)]
            whole = [at for at, owner in enumerate(of) if owner == (number, -1)] + own
            alone = backbone(input_ids=ids[:, whole], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(states[whole], alone, rtol=1e-9, atol=1e-9)
            # The prefix counts once in a packed row.
            counted = alone if index == 0 else alone[-len(own) :]
            (counted @ weight).sin().sum().backward()

    for found, parameter in zip(packed, backbone.parameters(), strict=True):
        assert parameter.grad is not None
        assert (found - parameter.grad).norm() <= 1e-9 * parameter.grad.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_that_may_read_packed_rows_reads_all_else_as_before(
    tmp_path: Path, shape: Shape
) -> None:
    base = tiny_base(tmp_path, shape)
    ids = torch.arange(2, 26).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.inference_mode():
        before = [base.model(ids).logits, base.model(ids, attention_mask=mask).logits]
        generated = base.model.generate(ids[:1], max_new_tokens=5, do_sample=False)
        assert allow_packed_rows(base.backbone)
        after = [base.model(ids).logits, base.model(ids, attention_mask=mask).logits]

        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
        assert not torch.equal(*after)
        assert torch.equal(
            base.model.generate(ids[:1], max_new_tokens=5, do_sample=False), generated
        )


SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT2 = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def drawn(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval().base_model


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZE),
        Qwen2Config(**SIZE),
        MistralConfig(**SIZE, sliding_window=None),
        GPT2Config(**GPT2),
    ],
    ids=lambda config: config.model_type,
)
def test_other_networks_with_plain_causal_attention_can_read_packed_rows(config: Any) -> None:
    assert allow_packed_rows(drawn(config))


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZE, sliding_window=4),
        Lfm2Config(**SIZE, layer_types=["conv", "full_attention"]),
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
    ],
    ids=lambda config: config.model_type,
)
def test_networks_in_which_tokens_meet_otherwise_are_left_as_they_were(config: Any) -> None:
    backbone = drawn(config)
    before = backbone.config._attn_implementation

    assert not allow_packed_rows(backbone)
    assert backbone.config._attn_implementation == before


def test_a_network_whose_tokens_meet_outside_the_attention_is_found_out() -> None:
    backbone = drawn(LlamaConfig(**SIZE))

    def mix(_: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + 1e-3 * output.roll(1, dims=1).cumsum(dim=1)

    hook = backbone.layers[0].mlp.register_forward_hook(mix)
    assert not allow_packed_rows(backbone)
    hook.remove()
    assert allow_packed_rows(backbone)


def test_a_network_that_was_not_asked_reads_no_packed_rows() -> None:
    layout = lay_out([Segment(1, (1, 1))])

    with pytest.raises(ModelError, match="does not read them"):
        read_packed(drawn(LlamaConfig(**SIZE)), torch.tensor([[3, 4, 5]]), layout)


def test_a_layer_that_does_not_ask_for_this_attention_is_an_error() -> None:
    backbone = drawn(LlamaConfig(**SIZE))
    assert allow_packed_rows(backbone)
    backbone.layers = backbone.layers[:1]

    with pytest.raises(ModelError, match=r"expected 2 layers to ask for it, got 1"):
        read_packed(backbone, torch.tensor([[3, 4, 5]]), lay_out([Segment(1, (1, 1))]))
