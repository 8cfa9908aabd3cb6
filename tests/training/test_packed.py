"""Packed rows against the plain computation: the same losses, the same gradients, no leaks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.adapters.state import AdapterState
from fedmedlora.core.document import Document
from fedmedlora.core.errors import ModelError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel
from fedmedlora.models.packed_attention import allow_packed_rows
from fedmedlora.prompts.registry import get_format
from fedmedlora.testing.generators import LABELS
from fedmedlora.testing.tiny import SHAPES
from fedmedlora.training import local
from fedmedlora.training.batches import EncodedExample, collate, encode_example, render_documents
from fedmedlora.training.checkpointing import recomputed_layers
from fedmedlora.training.local import LocalSettings, example_losses, train_locally
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import pack

BaseOf = Callable[..., BaseModel]
LoRAOf = Callable[[BaseModel], LoRAModel]
AdapterOf = Callable[..., AdapterState]
BOTH = frozenset({"A", "B"})
QUIET = SilentObserver()


@pytest.fixture(scope="session")
def mixed(
    tiny: BaseOf, notes: list[Document], examples: list[EncodedExample]
) -> list[EncodedExample]:
    """Examples of three instructions, in no order; one has none, as other readers' may."""
    tokenizer = tiny("llama").tokenizer
    html = render_documents(notes, get_format("html"), tokenizer, LABELS[:1], window_tokens=60)
    bare = replace(examples[1], num_shared_tokens=0)
    made = [*examples, *(encode_example(example, tokenizer) for example in html), bare]
    random.Random(3).shuffle(made)
    return made


def ready(base: BaseModel, lora_of: LoRAOf, adapter: AdapterState) -> LoRAModel:
    model = lora_of(base)
    model.load(adapter)
    model.parameters(BOTH)
    assert allow_packed_rows(model.backbone)
    return model


def by_example(
    model: LoRAModel, examples: Sequence[EncodedExample], *, packed: bool, whole: bool = False
) -> list[torch.Tensor]:
    batch = pack(examples, whole=whole) if packed else collate(examples, 1, whole=whole)
    losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
    return batch.by_example(losses)


def gradient(model: LoRAModel, loss: torch.Tensor) -> torch.Tensor:
    model.peft.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = [weight.grad for weight in model.parameters(BOTH)]
    return torch.cat([g.flatten() for g in found if g is not None])


CASES: dict[str, Callable[[list[EncodedExample], list[EncodedExample]], list[EncodedExample]]] = {
    "one instruction": lambda examples, _: examples,
    "three instructions": lambda _, mixed: mixed,
    "one example": lambda examples, _: examples[:1],
    "one without instruction": lambda examples, _: [replace(examples[0], num_shared_tokens=0)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_all_gradients_are_those_of_the_padded_batch(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    mixed: list[EncodedExample],
    shape: str,
    case: str,
) -> None:
    base = tiny(shape)
    model = ready(base, lora_of, adapter_of(base, 1, 0.2))
    chosen = CASES[case](examples, mixed)
    packed, padded = (by_example(model, chosen, packed=packed) for packed in (True, False))

    assert [len(part) for part in packed] == [e.num_completion_tokens for e in chosen]
    torch.testing.assert_close(torch.cat(packed), torch.cat(padded), rtol=1e-5, atol=1e-5)
    found, expected = (gradient(model, torch.cat(parts).mean()) for parts in (packed, padded))
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_they_agree_as_far_as_it_rounds(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    mixed: list[EncodedExample],
    shape: str,
) -> None:
    exact_base, base = tiny(shape), tiny(shape, 0, torch.bfloat16)
    model = ready(base, lora_of, adapter_of(base, 1, 0.02))
    exact_model = ready(exact_base, lora_of, adapter_of(exact_base, 1, 0.02))
    losses = {
        name: torch.cat(by_example(m, mixed, packed=packed)).mean()
        for name, m, packed in (
            ("packed", model, True),
            ("padded", model, False),
            ("exact", exact_model, False),
        )
    }
    assert float(losses["packed"].detach()) == pytest.approx(
        float(losses["exact"].detach()), rel=3e-2
    )
    gradients = {
        name: gradient(exact_model if name == "exact" else model, loss)
        for name, loss in losses.items()
    }
    errors = {
        name: float((gradients[name] - gradients["exact"]).norm() / gradients["exact"].norm())
        for name in ("packed", "padded")
    }

    assert errors["packed"] <= 1.2 * errors["padded"] + 3e-2


@pytest.mark.parametrize("whole", [False, True])
def test_prompts_count_for_each_example_that_has_them(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, mixed: list[EncodedExample], whole: bool
) -> None:
    base = tiny("llama")
    model = ready(base, lora_of, adapter_of(base, 2, 0.2))
    with torch.inference_mode():
        packed, padded = (
            by_example(model, mixed, packed=packed, whole=whole) for packed in (True, False)
        )

    assert [len(part) for part in packed] == [len(part) for part in padded]
    for found, expected in zip(packed, padded, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="session")
def exact(tiny: BaseOf, adapter_of: AdapterOf) -> LoRAModel:
    """A model that computes in float64 throughout."""
    base = tiny("llama", 1, torch.float64)
    model = LoRAModel(base, adapter_of(base).spec)
    model.load(adapter_of(base, 3, 0.2))
    model.peft.double()
    assert allow_packed_rows(model.backbone)
    return model


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_the_order_and_company_of_examples_change_no_loss(
    exact: LoRAModel, mixed: list[EncodedExample], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(mixed))), min_size=1, unique=True))
    with torch.inference_mode():
        everyone = by_example(exact, mixed, packed=True)
        some = by_example(exact, [mixed[index] for index in chosen], packed=True)

    for index, found in zip(chosen, some, strict=True):
        torch.testing.assert_close(found, everyone[index], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("changed", range(4))
def test_no_example_sees_another(
    exact: LoRAModel, mixed: list[EncodedExample], changed: int
) -> None:
    victim = mixed[changed]
    own = victim.token_ids[victim.num_shared_tokens :]
    others = (*victim.token_ids[: victim.num_shared_tokens], *own[::-1])
    with torch.inference_mode():
        before = by_example(exact, mixed, packed=True)
        swapped = [*mixed[:changed], replace(victim, token_ids=others), *mixed[changed + 1 :]]
        after = by_example(exact, swapped, packed=True)

    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, other) == (index != changed)


def settings_of(**fields: Any) -> LocalSettings:
    return LocalSettings(**{"learning_rate": 3e-3, "epochs": 1.0, "batch_tokens": 400, **fields})


def trained(model: LoRAModel, start: AdapterState, examples: Any, **fields: Any) -> Any:
    plan = LocalPlan(round_index=1, seed=11, epochs=3.0)
    return train_locally(model, start, examples, plan, settings_of(**fields), QUIET)


def distance(one: AdapterState, other: AdapterState) -> float:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return float(sum((a - b).double().square().sum() for (_, _, a), (_, _, b) in pairs)) ** 0.5


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bound", [1, 150])
def test_a_step_in_several_passes_is_the_same_step(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    mixed: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
    bound: int,
    packed: bool,
) -> None:
    base = tiny("llama")
    model, start = lora_of(base), adapter_of(base, 1, 0.1)
    if not packed:
        monkeypatch.setattr(local, "allow_packed_rows", lambda _: False)
    whole = trained(model, start, mixed)
    parts = trained(model, start, mixed, micro_batch_tokens=bound)

    assert parts.num_steps == whole.num_steps > 2
    assert (parts.num_tokens, parts.num_examples) == (whole.num_tokens, whole.num_examples)
    assert parts.train_losses == pytest.approx(whole.train_losses, rel=1e-4)
    moved = distance(whole.adapter, start)
    assert moved > 0.05
    assert 0 < distance(parts.adapter, whole.adapter) < 0.01 * moved


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_computed_again_give_the_same_bits(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, mixed: list[EncodedExample], shape: str
) -> None:
    base = tiny(shape)
    model, start = lora_of(base), adapter_of(base, 1, 0.1)
    kept = trained(model, start, mixed)
    again = trained(model, start, mixed, recompute_layers=True)

    assert again.adapter == kept.adapter
    assert again.train_losses == kept.train_losses


def test_layers_are_computed_twice_and_only_while_it_is_asked_for(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, examples: list[EncodedExample]
) -> None:
    base = tiny("llama")
    model = ready(base, lora_of, adapter_of(base, 1, 0.1))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model.backbone.layers[0].mlp.register_forward_pre_hook(count)  # type: ignore[union-attr, operator]
    try:
        with recomputed_layers(model.backbone):
            torch.cat(by_example(model, examples, packed=True)).mean().backward()  # type: ignore[no-untyped-call]
        assert calls == 2
        torch.cat(by_example(model, examples, packed=True)).mean().backward()  # type: ignore[no-untyped-call]
        assert calls == 3
    finally:
        hook.remove()


def test_a_network_without_such_layers_is_refused() -> None:
    with (
        pytest.raises(ModelError, match="Turn recompute_layers off"),
        recomputed_layers(torch.nn.Linear(2, 2)),
    ):
        pass


def test_a_model_that_cannot_read_packed_rows_is_trained_on_padded_ones(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    mixed: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny("qwen3")
    model, start = lora_of(base), adapter_of(base, 1, 0.1)
    fast = trained(model, start, mixed)
    judged = example_losses(model, mixed, batch_tokens=300, reading="sequence")
    monkeypatch.setattr(local, "allow_packed_rows", lambda _: False)
    plain = trained(model, start, mixed)
    plain_judged = example_losses(model, mixed, batch_tokens=300, reading="sequence")

    assert (plain.num_steps, plain.num_tokens) == (fast.num_steps, fast.num_tokens)
    assert plain.train_losses == pytest.approx(fast.train_losses, rel=1e-4)
    assert distance(plain.adapter, fast.adapter) < 0.01 * distance(fast.adapter, start)
    for (ours, count), (theirs, plain_count) in zip(judged, plain_judged, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert count == plain_count


def test_a_row_holds_each_instruction_once(mixed: list[EncodedExample]) -> None:
    batch = pack(mixed)
    instructions = {e.token_ids[: e.num_shared_tokens] for e in mixed}
    row = tuple(batch.token_ids[0].tolist())

    assert len(instructions) == 3
    num_tokens = sum(map(len, instructions)) + sum(e.num_own_tokens for e in mixed)
    assert num_tokens <= len(row) < num_tokens + 32
    assert len(row) % 32 == 0  # so that products have few shapes
    assert not batch.targets[0, num_tokens:].any()
    assert batch.num_tokens == sum(len(e.token_ids) for e in mixed)
    for example, (instruction, own) in zip(mixed, batch.places, strict=True):
        assert row[batch.instructions[instruction]] + row[own] == example.token_ids
    assert int(batch.targets.sum()) == sum(e.num_completion_tokens for e in mixed)
