"""What a study will cost, before hours are spent: time, memory, disk and traffic."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmedlora.core.records import SilentObserver
from fedmedlora.core.words import counted
from fedmedlora.runs.environment import describe_environment
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.memory_limit import fitting_plan, refuse_weights_that_cannot_fit
from fedmedlora.study.memory_plan import MemoryPlan
from fedmedlora.study.plan import extraction_characters, planned_work, training_tokens
from fedmedlora.study.settled import measured_for, prepare_here
from fedmedlora.study.shared_notes import shared_notes, shared_notes_warning
from fedmedlora.study.speed_probe import extraction_rate, training_rate
from fedmedlora.study.study_warnings import study_warnings

if TYPE_CHECKING:
    from fedmedlora.core.records import Observer
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.prepare import Prepared

_CODEC_BYTES = {"fp32": 4, "bf16": 2}


def check_study(config: StudyConfig, observer: Observer) -> dict[str, Any]:
    """The plan of a study, as plain values; nothing is written.

    Time is measured on a few of the study's own notes, within seconds: it is a rough figure.

    Raises:
        ConfigError: The study has faults, all of which are told, or cannot fit in memory.
        ModelError: The base model cannot be loaded.
    """
    refuse_weights_that_cannot_fit(config)
    observer.message("reading the notes")
    prepared, measured = prepare_here(config, observer)
    config = prepared.config
    observer.message("planning memory")
    memory = fitting_plan(prepared, SilentObserver())
    arms = arms_of(config)
    tokens = sum(sum(rounds) for rounds in training_tokens(prepared, arms).values())
    characters = extraction_characters(config, prepared.notes, arms)
    observer.message("measuring the speed of training and extraction, a few seconds each")
    speed = measured_for(int(config.federation.processes), measured)
    seconds = _seconds(prepared, speed)
    sites = [site.name for site in prepared.notes.sites]
    payload = prepared.initial.num_parameters * _CODEC_BYTES[config.federation.codec]
    federated = sum(arm.condition == "federated" for arm in arms)
    trained = sum(arm.strategy is not None for arm in arms)
    adapter_bytes = prepared.initial.num_bytes
    return {
        "study": config.name,
        "arms": [arm.name for arm in arms],
        "sites": {
            site.name: {
                "labels": list(site.labels),
                "train_documents": len(site.train),
                "modifiers": list(site.modifiers) if "relations" in site.tasks else [],
                "train_examples": sum(len(d.train) for d in prepared.data[site.name].values()),
                "train_tokens": sum(d.num_tokens for d in prepared.data[site.name].values()),
                "test_documents": len(site.test),
            }
            for site in prepared.notes.sites
        },
        "cohorts": {
            cohort.name: {
                "setting": cohort.setting,
                "documents": len(cohort.documents),
                "characters": cohort.num_characters,
                "labels": list(cohort.labels),
            }
            for cohort in prepared.notes.cohorts
        },
        "shared_notes": shared_notes(prepared.notes),
        "warnings": study_warnings(prepared),
        "training_tokens": round(tokens),
        "extraction_characters": characters,
        "seconds": {kind: round(taken) for kind, taken in seconds.items()},
        "bytes": {
            "up_and_down_per_round": 2 * payload * len(sites),
            "federated_in_all": 2 * payload * len(sites) * config.federation.rounds * federated,
            "disk": adapter_bytes * (trained * config.federation.rounds + 2 * len(sites)),
            "disk_free": shutil.disk_usage(Path.cwd()).free,
            "memory": memory and memory.peak,
            "memory_of_machine": describe_environment().get("memory_bytes"),
        },
        "memory": memory and memory.to_json(),
    }


def _seconds(prepared: Prepared, speed: MachineSpeed | None) -> dict[str, float]:
    """How long a study takes, as it tells itself while it runs, but by its own notes' speed."""
    rate = training_rate(prepared)
    speed = replace(speed, tokens_per_second=rate) if speed else MachineSpeed(1, 0, rate)
    work = planned_work(prepared, arms_of(prepared.config), speed)
    found = work.seconds(speed)
    # What is tried is the model without training, which reads faster than a trained one.
    extraction = work.characters / (work.untrained_weight * extraction_rate(prepared))
    return {"training": found["training"], "extraction": extraction, "other": found["between"]}


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan for people."""
    seconds, size = plan["seconds"], plan["bytes"]
    lines = [f"study {plan['study']}: no faults; {counted(len(plan['arms']), 'arm')}"]
    lines += [
        f"  site {name}: {counted(site['train_documents'], 'training note')}, "
        f"{counted(site['train_examples'], 'example')}, {site['train_tokens']:,} tokens; labels "
        f"{', '.join(site['labels'])}"
        for name, site in plan["sites"].items()
    ]
    lines += [
        f"  cohort {name} ({cohort['setting']}): {counted(cohort['documents'], 'note')}, "
        f"{cohort['characters']:,} characters"
        for name, cohort in plan["cohorts"].items()
    ]
    total = sum(seconds.values())
    lines += [
        f"time: about {_minutes(total)} (training {_minutes(seconds['training'])}, extraction "
        f"{_minutes(seconds['extraction'])}, all else {_minutes(seconds['other'])})",
        f"traffic: {size['up_and_down_per_round'] / 1e6:,.1f} MB a round, "
        f"{size['federated_in_all'] / 1e6:,.1f} MB in all federated arms",
        f"disk: {size['disk'] / 1e6:,.0f} MB of {size['disk_free'] / 1e9:,.1f} GB free",
        _memory_line(plan["memory"]),
    ]
    if size["disk"] > size["disk_free"]:
        lines.append("WARNING: the disk is too small. Free some space or choose another folder.")
    lines += plan["warnings"]
    lines += shared_notes_warning(plan["shared_notes"])
    return lines


def _memory_line(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "memory: cannot be estimated in advance for this model"
    return MemoryPlan.from_json(memory).summary


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"
