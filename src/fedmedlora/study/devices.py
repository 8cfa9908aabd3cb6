"""Where a study computes: on which device, in how many processes, with how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.models.miniature import miniature
from fedmedlora.runs.machine_cores import physical_cores, usable_cores
from fedmedlora.study.machine_speed import best_speed, thread_counts
from fedmedlora.study.step_cost import StepTimer

if TYPE_CHECKING:
    from fedmedlora.core.records import Observer
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.machine_speed import MachineSpeed


# A study's own steps reach so much of the speed of equal steps: each has another shape.
_OWN_STEPS = 0.8


def num_processes(wanted: int | str, device: str, speed: MachineSpeed | None) -> int:
    """How many workers there are; `speed` is what was measured for `auto`, if anything was.

    Raises:
        ConfigError: One a GPU is wanted, but the model runs on the CPU.
    """
    if wanted == "auto":
        return speed.workers if speed else 0
    if wanted != "gpus":
        return int(wanted)
    if device != "cuda":
        raise ConfigError(
            'federation.processes: "gpus" is one worker a GPU, but the model runs on the CPU. '
            "Give a number, or set model.device to a GPU that is there."
        )
    return len(visible_gpus())


def visible_gpus() -> list[str]:
    """The GPUs that torch sees here, by the names that `CUDA_VISIBLE_DEVICES` knows them by."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in named if name][: len(numbers)] or numbers


def worker_threads(config: StudyConfig) -> int:
    """Threads of each worker process of a resolved study: its share of all."""
    threads = config.model.threads or usable_cores()
    return max(1, threads // max(1, int(config.federation.processes)))


def measured_speed(config: StudyConfig, observer: Observer) -> MachineSpeed | None:
    """How this machine trains best, with the number type and the kernel that the study has.

    A few seconds. None where there is nothing to choose, or no small model to try it on.

    Raises:
        ConfigError: Nothing that it could be tried with.
        ModelError: The base model cannot be fetched.
    """
    model, fixed = config.model, config.model.threads
    cores = fixed or usable_cores()
    if fixed == 1 or (fixed and config.federation.processes != "auto"):
        return None
    dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    found = miniature(
        model.base,
        revision=model.revision,
        dtype=dtype,
        kernel="onednn" if model.kernel == "onednn" else "torch",
        say=observer.message,
    )
    if found is None:
        return None
    small, num_layers = found
    training = config.training
    timer = StepTimer(
        small,
        rank=config.lora.rank,
        target_modules=config.lora.target_modules or (),
        batch_tokens=min(
            training.batch_tokens, training.micro_batch_tokens or training.batch_tokens
        ),
    )
    try:
        return best_speed(
            timer,
            threads=[fixed] if fixed else thread_counts(cores, physical_cores()),
            cores=cores,
            most_workers=len(config.sites) if config.federation.processes == "auto" else 0,
            layer_tokens=_OWN_STEPS * timer.num_tokens / num_layers,
        )
    except RuntimeError:  # torch has no memory, or no such kernel; training itself will say so
        return None


def how_computed(dtype: str, threads: str, *, typed: bool, by_speed: bool) -> str:
    """Number type and threads, and whether each was measured or set."""
    named = {True: "fastest here", False: "as set"}
    if not threads:
        return f"{dtype}: {named[typed]}"
    if typed == by_speed:
        return f"{dtype} with {threads}: {named[typed]}"
    return f"{dtype}, {named[typed]}, with {threads}, {named[by_speed]}"
