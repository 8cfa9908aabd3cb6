"""A study prepared for this machine: what is left to choose is settled by measurement.

Worker processes come last: they take memory, and not every arm can use them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.runs.store import ENVIRONMENT
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.devices import worker_threads
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.memory_plan import plan_memory
from fedmedlora.study.plan import training_tokens
from fedmedlora.study.prepare import prepare, resolve_here

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.core.records import Observer
    from fedmedlora.runs.store import RunStore
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.prepare import Prepared

_LEAST_SECONDS = 30.0
"""To be gained, or else starting them is not worth it."""


def prepare_here(config: StudyConfig, observer: Observer) -> tuple[Prepared, dict[str, Any]]:
    """A study that is about to begin, and what was measured for it, for `environment.json`.

    Raises:
        ConfigError: The study has faults; carries all.
        ModelError: The base model cannot be loaded, or not with the attention that is set.
        AdapterMismatchError: The base model has none of the target modules.
    """
    config, measured = resolve_here(config, observer)
    speed = MachineSpeed.from_json(measured["speed"]) if "speed" in measured else None
    prepared = with_paying_workers(prepare(config, observer), speed, observer)
    if prepared.config.federation.processes:
        measured["worker_threads"] = worker_threads(prepared.config)
    return prepared, measured


def with_paying_workers(
    prepared: Prepared, speed: MachineSpeed | None, observer: Observer
) -> Prepared:
    """The study with the workers that were measured to be faster, if they save time and fit.

    Arms of a single site have work for one worker at a time, which has fewer threads than this
    process. What was set, not measured, stays.
    """
    if speed is None or not speed.workers or not prepared.config.federation.processes:
        return prepared
    gained = seconds_gained(prepared, speed)
    if gained >= _LEAST_SECONDS and _fits(prepared):
        faster = speed.factor(len(prepared.config.sites))
        observer.message(
            f"{speed.workers} sites train side by side, each in a process of its own: "
            f"{faster:.1f} times as fast here as one after another"
        )
        return prepared
    federation = prepared.config.federation.model_copy(update={"processes": 0})
    return replace(prepared, config=prepared.config.model_copy(update={"federation": federation}))


def seconds_gained(prepared: Prepared, speed: MachineSpeed) -> float:
    """Of the whole study's training, by workers; less than 0 where they lose time."""
    arms = arms_of(prepared.config)
    gained = 0.0
    tokens = training_tokens(prepared, arms)
    for arm in arms:
        usual = sum(tokens[arm.name]) / speed.tokens_per_second
        gained += usual - usual / speed.factor(len(arm.sites))
    return gained


def _fits(prepared: Prepared) -> bool:
    try:
        plan = plan_memory(prepared)
    except (FedMedLoRAError, RuntimeError, TypeError, ValueError):
        return False
    # Where nothing tells what is free, copies of the model are not risked unasked.
    return plan.limit is not None and plan.needed <= plan.limit


def speed_of_run(store: RunStore) -> MachineSpeed | None:
    """What was measured when the run was started, for the time that is left."""
    measured = store.read_json(ENVIRONMENT) if store.has(ENVIRONMENT) else {}
    return measured_for(store.config["federation"]["processes"], measured)


def measured_for(processes: int, measured: Mapping[str, Any]) -> MachineSpeed | None:
    """The speed among what was measured; without workers where a study settled on none."""
    if not measured.get("speed"):
        return None
    speed = MachineSpeed.from_json(measured["speed"])
    return speed if processes else replace(speed, workers=0)
