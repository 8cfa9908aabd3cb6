"""The record of a run: what was measured, with what, on what; never where or by whom."""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.settings import plain
from benchmarks.harness.targets import Measured, judge
from fedmedlora.runs.environment import describe_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def measure(
    name: str,
    run: Callable[[Any, Callable[[str], None]], Mapping[str, Any]],
    config: Any,
    *,
    quick: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run a benchmark and return its record as plain values.

    `run` gives its figures under any keys but `targets`, which holds a `Measured` by target id.
    """
    environment = describe_environment()
    started = time.perf_counter()
    results = dict(run(config, say))
    seconds = time.perf_counter() - started
    measured: Mapping[str, Measured] = results.pop("targets", {})
    commit, _, dirty = (environment["git_commit"] or "unknown").partition("-")
    return {
        "benchmark": name,
        "quick": quick,
        "date_utc": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "dirty": bool(dirty),
        "config": plain(config),
        "hardware": _hardware(environment),
        "threads": torch.get_num_threads(),
        "thread_variables": environment["thread_variables"],
        "python": environment["python"],
        "packages": environment["packages"],
        "seconds": round(seconds, 1),
        "peak_memory_bytes": _peak_memory_bytes(),
        "targets": judge(measured),
        "results": results,
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record, one value a line, numbers without digits that mean nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(record), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def _hardware(environment: Mapping[str, Any]) -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = environment["memory_bytes"]
    return {
        "cpu": environment["cpu"],
        "machine": environment["machine"],
        "num_usable_cores": environment["num_usable_cores"],
        "memory_gib": None if memory is None else round(memory / 2**30),
        "gpus": gpus,
    }


def _peak_memory_bytes() -> int:
    """Of this process since its start, adapters trained in it included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
