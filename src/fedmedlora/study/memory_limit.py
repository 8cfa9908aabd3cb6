"""A study that cannot fit in memory is refused before it begins, and told what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.errors import ConfigError, FedMedLoRAError, ModelError, kind_and_place
from fedmedlora.models.catalog import PRESETS
from fedmedlora.runs.machine_memory import free_bytes
from fedmedlora.study.memory_plan import MemoryPlan, Planner, gigabytes, plan_memory

if TYPE_CHECKING:
    from fedmedlora.core.records import Observer
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.prepare import Prepared

# Bytes of a parameter: half, its block's scale, and the layers that stay as they are.
_FOUR_BITS = 0.6


def fitting_plan(prepared: Prepared, observer: Observer) -> MemoryPlan | None:
    """The plan of a study that fits in the memory that is free now; it is told, too.

    None for a model that asks for what cannot be done without numbers: the study goes on.

    Raises:
        ConfigError: It does not fit; says what would.
    """
    try:
        plan = plan_memory(prepared)
    except ModelError as error:
        observer.message(f"memory: {error}")
        return None
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, FedMedLoRAError):
            raise
        # Notes are in what is planned for, so the error's text is not shown.
        where = kind_and_place(error)
        observer.message(f"memory: no plan for this model ({where}); going on without one")
        return None
    refuse_what_cannot_fit(prepared, plan)
    observer.message(plan.summary)
    return plan


def refuse_weights_that_cannot_fit(config: StudyConfig) -> None:
    """Nothing, if the base model can be loaded, or nobody knows its size before that.

    Raises:
        ConfigError: Its weights alone are more than the memory that is free now.
    """
    model = config.model
    if model.device == "cuda" or (model.device == "auto" and torch.cuda.is_available()):
        return
    free, count = free_bytes(), _num_parameters(model.base)
    if free is None or count is None:
        return
    width = 4.0 if model.dtype == "float32" else 2.0
    quantised = model.quantisation == "4bit"
    needed = int(count * (_FOUR_BITS if quantised else width))
    if needed > free:
        changes = ['model.dtype = "bfloat16"'] if width == 4 and not quantised else []
        changes += [] if quantised else ['model.quantisation = "4bit"']
        told = " or ".join([*changes, "a smaller model.base"])
        raise ConfigError(
            f"memory: the weights of {model.base} take {gigabytes(needed)}; expected at most the "
            f"{gigabytes(free)} that are free. Set {told}, or free some memory."
        )


def _num_parameters(base: str) -> int | None:
    if base in PRESETS:
        return PRESETS[base].num_parameters
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in Path(base).expanduser().glob("*.safetensors"):
        try:
            with safe_open(str(path), framework="pt") as file:
                shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError):
            return None  # loading the model will say what is wrong with it
        total += sum(torch.Size(shape).numel() for shape in shapes)
    return total or None


def refuse_what_cannot_fit(prepared: Prepared, plan: MemoryPlan) -> None:
    """Nothing, if the plan fits.

    Raises:
        ConfigError: It does not; says which settings would make it fit, if any do.
    """
    if plan.limit is None or plan.needed <= plan.limit:
        return
    where = "the GPU" if plan.device == "cuda" else "this machine"
    training, extraction = plan.always + plan.training, plan.always + plan.extraction
    raise ConfigError(
        f"memory: the study needs about {gigabytes(plan.needed)} (training {gigabytes(training)}, "
        f"extraction {gigabytes(extraction)}, of both {gigabytes(plan.always)} for the base "
        f"model and libraries); expected at most the {gigabytes(plan.limit)} that {where} has for "
        f"it. {_advice(prepared, plan)}"
    )


def _advice(prepared: Prepared, plan: MemoryPlan) -> str:
    """The smallest change of settings that fits, with what it needs."""
    for changes, found in Planner(prepared).cheaper(plan):
        if found.limit is not None and found.needed <= found.limit:
            told = " and ".join(f"{key} = {value}" for key, value in changes.items())
            return f"Set {told}: then it needs {gigabytes(found.needed)}."
    model = prepared.config.model
    advice = []
    if model.dtype == "float32":
        advice.append('model.dtype = "bfloat16"')
    if model.quantisation == "none":
        advice.append('model.quantisation = "4bit"')
    return f"Set {', '.join([*advice, 'a smaller model.base'])}, or free some memory."
