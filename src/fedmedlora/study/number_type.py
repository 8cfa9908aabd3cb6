"""Whether bfloat16 is exact enough for a base model, by measurement on a few artificial notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.schema import default_schema
from fedmedlora.core.seeds import derive_seed
from fedmedlora.corpora.synthetic.notes import generate_site
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.models.quantised import FourBitLinear
from fedmedlora.training.batches import Batch, collate, encode_example, render_documents
from fedmedlora.training.objectives import token_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat

# A model that computes well in bfloat16 shows up to 0.007 and 0.08 (SmolLM2-135M); one whose
# activations overflow or cancel is off by orders of magnitude.
MAX_LOSS_ERROR = 0.02
MAX_GRADIENT_ERROR = 0.1
_MAX_TOKENS = 400


@dataclass(frozen=True, slots=True)
class RoundingError:
    """How far bfloat16 is from float32 on the same batch with the same adapter; all relative.

    Attributes:
        loss: Of the mean loss in training.
        gradient: The norm of the difference of all LoRA gradients.
        merged_loss: Of the mean loss once the adapter is merged, as extraction uses it.
    """

    loss: float
    gradient: float
    merged_loss: float

    @property
    def name(self) -> str:
        """The type to run in: bfloat16 if the error is small, else (not a number, too) float32."""
        small = (
            self.loss <= MAX_LOSS_ERROR
            and self.merged_loss <= MAX_LOSS_ERROR
            and self.gradient <= MAX_GRADIENT_ERROR
        )
        return "bfloat16" if small else "float32"

    @property
    def reason(self) -> str:
        """One line for people."""
        return (
            f"bfloat16 changes the loss by {self.loss:.2%} (merged {self.merged_loss:.2%}) and its "
            f"gradient by {self.gradient:.1%}; at most {MAX_LOSS_ERROR:.0%} and "
            f"{MAX_GRADIENT_ERROR:.0%} are exact enough"
        )


def rounding_error(
    load: Callable[[torch.dtype], BaseModel],
    tags: TagFormat,
    *,
    rank: int,
    alpha: float,
    target_modules: tuple[str, ...],
) -> RoundingError:
    """The error of bfloat16, on artificial notes and a drawn adapter whose effect is not zero.

    Args:
        load: Gives the base model in a number type. It is loaded in float32
            and converted, or loaded a second time if it is held in 4 bits.
        tags: The study's prompt format.
        rank: Of the study's adapters.
        alpha: Of the study's adapters.
        target_modules: Of the study's adapters.
    """
    base = load(torch.float32)
    adapter, batch = _drawn(base, rank, alpha, target_modules), _batch(base, tags)
    exact, exact_gradient = _measure(base, adapter, batch)
    if any(isinstance(module, FourBitLinear) for module in base.model.modules()):
        del base
        base = load(torch.bfloat16)
    else:
        _halve(base)
    half, half_gradient = _measure(base, adapter, batch)
    with torch.inference_mode():
        whole = merged(base, adapter)
        after = token_losses(whole.backbone, whole.output_weight, batch, batch.targets).mean()
    difference = float((half_gradient - exact_gradient).norm() / exact_gradient.norm())
    return RoundingError(abs(half / exact - 1), difference, abs(float(after) / exact - 1))


def _halve(base: BaseModel) -> None:
    """As if loaded in bfloat16: its weights are converted, its buffers stay."""
    for weight in base.model.parameters():
        weight.data = weight.data.to(torch.bfloat16)


def _drawn(
    base: BaseModel, rank: int, alpha: float, target_modules: tuple[str, ...]
) -> AdapterState:
    """A fresh adapter whose `B` is drawn too: from a zero `B` no gradient reaches `A`."""
    fresh = initial_adapter(base, rank=rank, alpha=alpha, target_modules=target_modules, seed=0)
    pairs = {}
    for name, pair in fresh.pairs.items():
        generator = torch.Generator().manual_seed(derive_seed(0, "rounding-error", name))
        # About the size that a few hundred steps give it.
        pairs[name] = LoRAPair(A=pair.A, B=torch.randn(pair.B.shape, generator=generator) * 1e-3)
    return AdapterState(fresh.spec, pairs)


def _batch(base: BaseModel, tags: TagFormat) -> Batch:
    labels = tuple(default_schema().entity_labels)
    notes = generate_site(0, 4, 0)
    rendered = render_documents(notes, tags, base.tokenizer, labels, window_tokens=64)
    examples = [encode_example(example, base.tokenizer) for example in rendered]
    chosen = [
        example
        for number, example in enumerate(examples, start=1)
        if sum(len(e.token_ids) for e in examples[:number]) <= _MAX_TOKENS
    ]
    return collate(chosen or examples[:1], base.tokenizer.end_id, device=base.device)


def _measure(base: BaseModel, adapter: AdapterState, batch: Batch) -> tuple[float, torch.Tensor]:
    """Mean loss, and all LoRA gradients in one vector."""
    model = LoRAModel(base, adapter.spec)
    model.load(adapter)
    parameters = model.parameters(frozenset("AB"))
    loss = token_losses(model.backbone, base.output_weight, batch, batch.targets).mean()
    gradients = torch.autograd.grad(loss, parameters)
    return float(loss.detach()), torch.cat([g.reshape(-1) for g in gradients]).double()
