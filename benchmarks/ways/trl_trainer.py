"""The peer: TRL's SFTTrainer on ready-made ids and labels, without logging, saving or evaluation.

Gradient checkpointing, which it switches on by default, is off: it costs time and saves memory that
is not short here. Its output layer runs in chunks, so no step holds the logits of a whole batch.
"""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.ways.trainers import (
    IGNORED,
    new_optimiser,
    peft_model,
    restore,
    trainable_copy,
)
from fedmedlora.core.errors import ConfigError, MissingExtraError
from fedmedlora.training.local import schedule

if TYPE_CHECKING:
    from benchmarks.ways.lessons import Lessons
    from benchmarks.ways.trainers import Setting, Setup


class Trl:
    """SFTTrainer over a peft model. Making it is not part of training and not timed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._made: dict[str, tuple[Any, Any, list[torch.Tensor]]] = {}
        self._ready: tuple[Any, list[float]] | None = None

    def prepare(self, lessons: Lessons, setting: Setting) -> None:
        """Make the trainer that the next call of `train` runs.

        Raises:
            ConfigError: A step has fewer examples than passes.
            MissingExtraError: TRL is not installed.
        """
        model, tokenizer, first = self._model(setting)
        restore(model, first)
        losses: list[float] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of several libraries' older names
            trainer = _trainer(self._setup, model, tokenizer, lessons, setting, losses)
        self._ready = (trainer, losses)

    def train(self, lessons: Lessons, setting: Setting) -> list[float]:  # noqa: ARG002  # as all
        """The loss of every step; `lessons` and `setting` are those it was prepared for.

        Raises:
            ConfigError: It was not.
        """
        if self._ready is None:
            raise ConfigError("TRL: expected `prepare` before every `train`.")
        trainer, losses = self._ready
        self._ready = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        parts = setting.parts
        return [sum(losses[at : at + parts]) for at in range(0, len(losses), parts)]

    def _model(self, setting: Setting) -> tuple[Any, Any, list[torch.Tensor]]:
        """One model for each number type; both of bfloat16 share one."""
        kind = "float32" if setting.precision == "float32" else "bfloat16"
        if kind not in self._made:
            model, base = peft_model(self._setup, "float32" if kind == "float32" else "bfloat16")
            self._made[kind] = (model, base.tokenizer.tokenizer, trainable_copy(model))
        return self._made[kind]


def _trainer(
    setup: Setup,
    model: Any,
    tokenizer: Any,
    lessons: Lessons,
    setting: Setting,
    losses: list[float],
) -> Any:
    try:
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError as error:
        raise MissingExtraError("This benchmark needs: pip install 'fedmedlora[bench]'.") from error
    from torch.utils.data import DataLoader

    lengths = [len(example.token_ids) for example in lessons.examples]
    steps = [
        part
        for step in lessons.steps
        for part in _parts(sorted(step, key=lambda index: -lengths[index]), setting.parts)
    ]

    class GivenSteps(SFTTrainer):  # type: ignore[misc]  # untyped
        """Takes the steps that it is given, and keeps what their losses were."""

        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(
                DataLoader(self.train_dataset, batch_sampler=steps, collate_fn=self.data_collator)
            )

        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*arguments, **named)
            losses.append(float(loss))
            return loss

    rows = [
        {
            "input_ids": list(example.token_ids),
            "labels": [IGNORED] * example.num_prompt_tokens
            + list(example.token_ids[example.num_prompt_tokens :]),
        }
        for example in lessons.examples
    ]
    settings = setup.settings
    optimiser = new_optimiser(model, settings)
    share = partial(
        schedule, num_steps=len(lessons.steps), warmup_fraction=settings.warmup_fraction
    )
    trainer = GivenSteps(
        model=model,
        args=SFTConfig(
            output_dir=tempfile.gettempdir(),  # nothing is saved
            max_steps=len(lessons.steps),
            per_device_train_batch_size=max(map(len, steps)),
            gradient_accumulation_steps=setting.parts,
            max_grad_norm=settings.max_gradient_norm,
            bf16=setting.precision == "autocast",
            padding_free=setting.padding_free,
            max_length=None,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no",
            logging_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=setup.device == "cpu",
            seed=setup.seed,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        optimizers=(optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, share)),
    )
    trainer.remove_callback(PrinterCallback)  # else it prints where progress bars are off
    return trainer


def _parts(step: list[int], count: int) -> list[list[int]]:
    """The examples of a step, longest first, in `count` passes of nearly as many.

    Raises:
        ConfigError: There are too few.
    """
    if len(step) < count:
        raise ConfigError(f"TRL: a step of {len(step)} examples cannot be cut into {count}.")
    ends = [len(step) * part // count for part in range(count + 1)]
    return [step[a:b] for a, b in pairwise(ends)]
