"""How many processors this process may really use, as far as the system tells."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cores(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Processors that this process may run on, within what a container or the user allows.

    At least 1. `OMP_NUM_THREADS` is taken as the user's word.
    """
    allowed = allowed_cores(cgroups, own_cgroup)
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(allowed, int(wanted)) if wanted.isdigit() and int(wanted) else allowed


def allowed_cores(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """The same without the user's word: what the system gives to all processes like this one."""
    quota = _quota(cgroups, own_cgroup)
    seen = len(_allowed())
    return max(1, seen if quota is None else min(seen, math.ceil(quota)))


def physical_cores(topology: Path = _TOPOLOGY) -> int:
    """Cores behind the processors that this process may run on; two of them may be one core."""
    return max(1, len({_siblings(topology, number) for number in _allowed()}))


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(topology: Path, number: int) -> str:
    """The processors of one core; where nothing tells, each is taken to be one."""
    try:
        return (topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_text("ascii")
    except (OSError, ValueError):
        return f"{number}"


def _quota(cgroups: Path, own_cgroup: Path) -> float | None:
    """Processors' worth of time that the control groups around this process leave it."""
    found = []
    for folder in _folders(cgroups, own_cgroup):
        numbers = _numbers(folder / "cpu.max") or (
            _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        )
        if len(numbers) == 2 and min(numbers) > 0:
            found.append(numbers[0] / numbers[1])
    return min(found, default=None)


def _folders(cgroups: Path, own_cgroup: Path) -> list[Path]:
    """Of this process's group and of those around it, in both versions of control groups."""
    try:
        lines = own_cgroup.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    folders = [cgroups, cgroups / "cpu"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = cgroups / "cpu" if controllers else cgroups
        for part in Path(place).parts[1:]:
            folder /= part
            folders.append(folder)
    return folders


def _numbers(path: Path) -> list[int]:
    try:
        words = path.read_text("ascii").split()
    except (OSError, ValueError):
        return []
    # "max" stands for no limit, as -1 does.
    return [int(word) for word in words] if all(w.lstrip("-").isdigit() for w in words) else []
