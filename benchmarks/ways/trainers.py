"""Ways to train: ours, and a plain loop over padded batches with peft as people write it.

All begin with the same base weights and the same adapter, take the same optimiser steps over the
same examples in the same order with the same rates, and tell the loss of every step.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.adapters.files import save_adapter
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.kernels import use_kernel
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.training.local import LocalSettings, schedule, train_locally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.ways.lessons import Lessons
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.models.kernels import Kernel
    from fedmedlora.training.batches import EncodedExample

Precision = Literal["float32", "bfloat16", "autocast"]
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Setup:
    """What all ways have in common.

    `kernel` is ours alone: peers multiply as torch does. `shape` is hidden size and layers of a
    random model.
    """

    model: str
    device: str
    threads: int
    rank: int
    alpha: float
    learning_rate: float
    seed: int
    kernel: Kernel = "torch"
    shape: tuple[int, int] | None = None

    @property
    def settings(self) -> LocalSettings:
        """Ours, for one pass; `batch_tokens` comes with the lessons."""
        return LocalSettings(self.learning_rate, epochs=1.0, batch_tokens=1)


@dataclass(frozen=True, slots=True)
class Setting:
    """How a way runs. Only the peers have a choice.

    Attributes:
        precision: Number type of the frozen weights; adapters and optimiser are float32 in all.
            `autocast` is bfloat16 with PyTorch's automatic casts.
        padding_free: The examples of a batch lie behind each other in one row.
        parts: An optimiser step is computed in so many passes, with accumulated gradients.
    """

    precision: Precision
    padding_free: bool = False
    parts: int = 1

    def __str__(self) -> str:
        free = ", padding-free" if self.padding_free else ""
        parts = f", {self.parts} passes a step" if self.parts > 1 else ""
        return f"{self.precision}{free}{parts}"


class Trainer(Protocol):
    """A base model with an adapter."""

    def prepare(self, lessons: Lessons, setting: Setting) -> None:
        """Whatever is done once and is not training; not timed."""

    def train(self, lessons: Lessons, setting: Setting) -> list[float]:
        """The loss of every step, a mean over its answer tokens, from the first adapter on."""


class Ours:
    """`train_locally`, as a site runs it."""

    def __init__(self, setup: Setup, precision: Precision) -> None:
        base = base_model(setup, precision, setup.kernel)
        self._setup = setup
        self._precision = precision
        self._adapter = first_adapter(base, setup)
        self._model = LoRAModel(base, self._adapter.spec)

    @property
    def layers(self) -> list[torch.nn.Module]:
        """The decoder layers that train."""
        return list(self._model.backbone.layers)  # type: ignore[arg-type]

    def prepare(self, lessons: Lessons, setting: Setting) -> None:
        """Nothing: all that a site does is timed."""

    def train(self, lessons: Lessons, setting: Setting) -> list[float]:
        """The loss of every step.

        Raises:
            ConfigError: Our planner made other steps than the lessons say.
        """
        if setting.precision != self._precision:
            raise ConfigError(f"ours: made for {self._precision}, asked for {setting.precision}.")
        setup = self._setup
        told = _Steps()
        train_locally(
            self._model,
            self._adapter,
            lessons.examples,
            LocalPlan(1, seed=lessons.seed),
            LocalSettings(setup.learning_rate, epochs=1.0, batch_tokens=lessons.batch_tokens),
            told,
        )
        planned = [sum(len(e.token_ids) for e in batch) for batch in lessons.batches]
        if told.num_tokens != planned:
            raise ConfigError("ours: the steps that were taken are not the ones that were planned.")
        return told.losses


class PlainPeft:
    """Padded batches, logits of all positions, the loss that transformers computes."""

    def __init__(self, setup: Setup, precision: Precision) -> None:
        self._setup = setup
        self._precision = precision
        self.model, self.base = peft_model(setup, precision)
        self._first = trainable_copy(self.model)

    def prepare(self, lessons: Lessons, setting: Setting) -> None:  # noqa: ARG002  # as all ways
        """The adapter has its first values."""
        restore(self.model, self._first)

    def train(self, lessons: Lessons, setting: Setting) -> list[float]:
        """The loss of every step.

        Raises:
            ConfigError: The setting is not the one that there is.
        """
        if setting != Setting(self._precision):
            raise ConfigError(f"plain peft: runs as {Setting(self._precision)} only.")
        settings = self._setup.settings
        self.model.train()
        optimiser = new_optimiser(self.model, settings)
        losses = []
        for step, batch in enumerate(lessons.batches):
            for group in optimiser.param_groups:
                share = schedule(step, len(lessons.steps), settings.warmup_fraction)
                group["lr"] = settings.learning_rate * share
            inputs = padded(batch, self.base.tokenizer.end_id, self._setup.device)
            loss = self.model(**inputs, use_cache=False).loss
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable(self.model), settings.max_gradient_norm)
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses


def base_model(setup: Setup, precision: Precision, kernel: Kernel = "torch") -> BaseModel:
    """The frozen model of a setup, or a random one of its shape with the same tokenizer."""
    torch.set_num_threads(setup.threads)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    if setup.model == "tiny":
        from fedmedlora.testing.tiny import tiny_base

        with tempfile.TemporaryDirectory() as folder:
            base = tiny_base(Path(folder) / "tiny", dtype=dtype)
    else:
        base = load_base(setup.model, dtype=dtype)
    if setup.shape is not None:
        base = _random(base, *setup.shape, dtype=dtype, seed=setup.seed)
    base.model.to(setup.device)
    use_kernel(base.model, kernel)
    return base


def _random(
    base: BaseModel, hidden_size: int, num_layers: int, dtype: torch.dtype, seed: int
) -> BaseModel:
    """Random weights in the same architecture; heads of 64, a third of them for keys."""
    from transformers import AutoModelForCausalLM

    config = type(base.model.config)(
        **base.model.config.to_dict()
        | {
            "hidden_size": hidden_size,
            "intermediate_size": hidden_size * 8 // 3,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // 64,
            "num_key_value_heads": hidden_size // 192,
            "head_dim": 64,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    model.eval()
    name = f"random-{hidden_size}x{num_layers}"
    return BaseModel(name, "", f"{name}-{seed}", model, base.tokenizer)


def first_adapter(base: BaseModel, setup: Setup) -> AdapterState:
    """What every way begins with."""
    return initial_adapter(
        base, rank=setup.rank, alpha=setup.alpha, target_modules=ALL_LINEAR, seed=setup.seed
    )


def peft_model(setup: Setup, precision: Precision) -> tuple[Any, BaseModel]:
    """The same adapter, read by peft from the folder that we write."""
    from peft import PeftModel

    base = base_model(setup, precision)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        save_adapter(Path(folder), first_adapter(base, setup))
        model: Any = PeftModel.from_pretrained(base.model, folder, is_trainable=True)
    for weight in trainable(model):
        weight.data = weight.data.float()
    return model, base


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """The adapter's parameters."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def trainable_copy(model: Any) -> list[torch.Tensor]:
    """The adapter's values."""
    return [weight.detach().clone() for weight in trainable(model)]


def restore(model: Any, values: Sequence[torch.Tensor]) -> None:
    """The adapter has these values again."""
    with torch.no_grad():
        for weight, value in zip(trainable(model), values, strict=True):
            weight.copy_(value)
            weight.grad = None


def new_optimiser(model: Any, settings: LocalSettings) -> torch.optim.AdamW:
    """Ours: AdamW as PyTorch has it, no decay, one fused update."""
    return torch.optim.AdamW(
        trainable(model), lr=settings.learning_rate, weight_decay=0.0, fused=True
    )


def padded(batch: Sequence[EncodedExample], pad_id: int, device: str) -> dict[str, torch.Tensor]:
    """Ids, mask and labels of a batch, padded on the right."""
    shape = (len(batch), max(len(example.token_ids) for example in batch))
    ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(batch):
        size = len(example.token_ids)
        ids[row, :size] = torch.tensor(example.token_ids)
        mask[row, :size] = 1
        labels[row, example.num_prompt_tokens : size] = ids[row, example.num_prompt_tokens : size]
    found = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in found.items()}


class _Steps(SilentObserver):
    """Loss and tokens of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.num_tokens: list[int] = []

    def advance(self, amount: float, **figures: float) -> None:
        self.num_tokens.append(int(amount))
        self.losses.append(figures["loss"])
