"""A pass that is only counted holds what the real one does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from fedmedlora.core.errors import ModelError
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.live_bytes import LiveBytes
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.models.packed_attention import allow_packed_rows
from fedmedlora.training.batches import EncodedExample
from fedmedlora.training.checkpointing import recomputed_layers
from fedmedlora.training.local import LocalSettings
from fedmedlora.training.objectives import token_losses
from fedmedlora.training.packed import pack
from fedmedlora.training.pass_memory import PassMeter

Tiny = Callable[..., BaseModel]


def held_for_real(model: LoRAModel, examples: list[EncodedExample], *, recompute: bool) -> int:
    """The most bytes of tensors in a pass with numbers."""
    assert allow_packed_rows(model.backbone)
    batch = pack(examples)
    model.parameters(frozenset("AB"))
    with LiveBytes() as counted, recomputed_layers(model.backbone) if recompute else nullcontext():
        losses = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)
        losses.sum().backward()  # type: ignore[no-untyped-call]
    return counted.peak


def a_model(base: BaseModel) -> LoRAModel:
    adapter = initial_adapter(base, rank=2, alpha=4, target_modules=ALL_LINEAR, seed=0)
    return LoRAModel(base, adapter.spec)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_a_pass_without_numbers_holds_what_one_with_numbers_does(
    tiny: Tiny, examples: list[EncodedExample], shape: str, recompute: bool
) -> None:
    model = a_model(tiny(shape))
    counted = PassMeter(model).training(examples, recompute=recompute)

    real = held_for_real(model, examples, recompute=recompute)

    assert counted.live_bytes == pytest.approx(real, rel=0.02)


def test_padded_batches_are_not_told_rather_than_told_wrongly(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmedlora.training.pass_memory.allow_packed_rows", lambda _: False)

    with pytest.raises(ModelError, match="padded batches cannot be told"):
        PassMeter(a_model(tiny("llama")))


def test_longer_passes_and_kept_layers_take_more(
    tiny: Tiny, examples: list[EncodedExample]
) -> None:
    meter = PassMeter(a_model(tiny("llama")))

    whole = meter.training(examples, recompute=False).live_bytes
    assert meter.training(examples[:2], recompute=False).live_bytes < whole
    assert meter.training(examples, recompute=True).live_bytes < whole
    assert meter.reading(examples).live_bytes < whole


def test_the_longest_pass_is_bounded_as_training_is(
    tiny: Tiny, examples: list[EncodedExample]
) -> None:
    meter = PassMeter(a_model(tiny("llama")))
    settings = LocalSettings(1e-3, epochs=1.0, batch_tokens=10_000)
    small = LocalSettings(1e-3, epochs=1.0, batch_tokens=10_000, micro_batch_tokens=1)

    whole = meter.largest_pass(examples, settings, [0])
    assert sorted(map(id, whole)) == sorted(map(id, examples))
    [alone] = meter.largest_pass(examples, small, [0])
    assert alone.num_own_tokens == max(example.num_own_tokens for example in examples)
