"""The loss and its gradient equal the plain computation over whole logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from fedmedlora.adapters.state import AdapterState
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel
from fedmedlora.testing.tiny import SHAPES
from fedmedlora.training import objectives
from fedmedlora.training.batches import Batch, EncodedExample, collate
from fedmedlora.training.objectives import token_losses

BaseOf = Callable[..., BaseModel]
LoRAOf = Callable[[BaseModel], LoRAModel]
AdapterOf = Callable[..., AdapterState]
BOTH = frozenset({"A", "B"})


def plain_loss(model: LoRAModel, example: EncodedExample) -> torch.Tensor:
    """Mean loss of one example alone, by transformers itself: labels -100 on the prompt."""
    ids = torch.tensor([example.token_ids])
    labels = ids.clone()
    labels[:, : example.num_prompt_tokens] = -100
    loss: torch.Tensor = model.peft(input_ids=ids, labels=labels).loss
    return loss


def plain_total(model: LoRAModel, examples: Sequence[EncodedExample]) -> torch.Tensor:
    losses = [plain_loss(model, e) * e.num_completion_tokens for e in examples]
    return torch.stack(losses).sum()


def ready(base: BaseModel, lora_of: LoRAOf, adapter: AdapterState) -> LoRAModel:
    model = lora_of(base)
    model.load(adapter)
    model.parameters(BOTH)
    return model


def our_losses(model: LoRAModel, examples: Sequence[EncodedExample], pad_id: int) -> torch.Tensor:
    batch = collate(examples, pad_id)
    return token_losses(model.backbone, model.base.output_weight, batch, batch.targets)


def gradients(model: LoRAModel, loss: torch.Tensor) -> list[torch.Tensor]:
    model.peft.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters(BOTH) if p.grad is not None]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_padded_batch_has_the_loss_of_its_examples_alone(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    shape: str,
) -> None:
    base = tiny(shape)
    model = ready(base, lora_of, adapter_of(base, 1, 0.2))
    assert len({len(example.token_ids) for example in examples}) > 3
    with torch.no_grad():
        expected = plain_total(model, examples)
        found = our_losses(model, examples, base.tokenizer.end_id)

    assert len(found) == sum(e.num_completion_tokens for e in examples)
    torch.testing.assert_close(found.sum(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk", [3, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradients_of_a_and_b_are_those_of_plain_autograd(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    chunk: int,
) -> None:
    monkeypatch.setattr(objectives, "CHUNK_POSITIONS", chunk)
    base = tiny(shape)
    model = ready(base, lora_of, adapter_of(base, 2, 0.2))
    num_targets = sum(e.num_completion_tokens for e in examples)
    expected = gradients(model, plain_total(model, examples) / num_targets)
    losses = our_losses(model, examples, base.tokenizer.end_id)
    found = gradients(model, losses.mean())

    assert len(found) == len(expected) == 2 * len(adapter_of(base).pairs)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
        assert theirs.norm() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_in_the_padding_does_not_matter(
    tiny: BaseOf,
    lora_of: LoRAOf,
    adapter_of: AdapterOf,
    examples: list[EncodedExample],
    shape: str,
) -> None:
    base = tiny(shape)
    model = ready(base, lora_of, adapter_of(base, 3, 0.2))
    results = []
    for pad_id in (base.tokenizer.end_id, 77):
        losses = our_losses(model, examples, pad_id)
        results.append((losses.detach(), gradients(model, losses.mean())))

    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_unequal_weights_of_tokens_reach_the_gradient(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, examples: list[EncodedExample]
) -> None:
    base = tiny("llama")
    model = ready(base, lora_of, adapter_of(base, 4, 0.2))
    weights = [0.0, 1.0, 2.0, 0.5, 3.0, 0.25, 1.5, 1.0][: len(examples)]
    expected = gradients(
        model,
        torch.stack(
            [w * plain_loss(model, e) for w, e in zip(weights, examples, strict=True)]
        ).sum(),
    )
    losses = our_losses(model, examples, base.tokenizer.end_id)
    by_example = torch.split(losses, [e.num_completion_tokens for e in examples])
    found = gradients(
        model,
        torch.stack([w * part.mean() for w, part in zip(weights, by_example, strict=True)]).sum(),
    )

    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_training_and_judging_see_the_same_losses(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, examples: list[EncodedExample]
) -> None:
    base = tiny("qwen3")
    model = ready(base, lora_of, adapter_of(base, 5, 0.2))
    trained = our_losses(model, examples, base.tokenizer.end_id).detach()
    with torch.inference_mode():
        judged = our_losses(model, examples, base.tokenizer.end_id)

    torch.testing.assert_close(trained, judged, rtol=1e-5, atol=1e-6)


def test_a_batch_without_targets_has_no_losses(tiny: BaseOf, lora_of: LoRAOf) -> None:
    model = lora_of(tiny("llama"))
    batch = Batch(torch.tensor([[5, 6]]), torch.tensor([[False, False]]), 2)
    with torch.inference_mode():
        found = token_losses(model.backbone, model.base.output_weight, batch, batch.targets)

    assert found.shape == (0,)


def test_bfloat16_losses_are_float32_and_near_the_exact_ones(
    tiny: BaseOf, lora_of: LoRAOf, adapter_of: AdapterOf, examples: list[EncodedExample]
) -> None:
    exact_base, half_base = tiny("llama"), tiny("llama", 0, torch.bfloat16)
    adapter = adapter_of(exact_base, 6, 0.2)
    exact = our_losses(ready(exact_base, lora_of, adapter), examples, 1).detach()
    model = ready(half_base, lora_of, adapter_of(half_base, 6, 0.2))
    losses = our_losses(model, examples, 1)
    found = gradients(model, losses.mean())

    assert losses.dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in found)
    assert abs(losses.detach().mean() / exact.mean() - 1) < 0.03
