"""Memory of this process and of the machine it runs on, as far as the system tells."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

_STATUS, _MACHINE = Path("/proc/self/status"), Path("/proc/meminfo")
# Limit, use, and what of it is file cache that can be dropped: of both versions of cgroups.
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def resident_bytes() -> int:
    """What this process holds now; where the system does not tell, the most that it ever held."""
    return _table(_STATUS).get("VmRSS", 0) or _peak_told_by_python()


def peak_bytes() -> int:
    """The most that this process ever held."""
    return _table(_STATUS).get("VmHWM", 0) or _peak_told_by_python()


def free_bytes(cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What this process can still take, within the limit of a container; None if nothing tells."""
    found = [_table(_MACHINE).get("MemAvailable"), *(_left_in(cgroups, *c) for c in _CGROUPS)]
    return min((bytes_left for bytes_left in found if bytes_left is not None), default=None)


def unread_bytes_of(suffix: str) -> int:
    """Of files with such names that are mapped into memory, what has not been read so far."""
    unread, mine = 0, False
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines():
            key, _, rest = line.partition(" ")
            if not key.endswith(":"):
                mine = line.endswith(suffix)
            elif mine and key in ("Size:", "Rss:"):
                unread += int(rest.split()[0]) * (1024 if key == "Size:" else -1024)
    return unread


def release_free_memory() -> None:
    """Give the system back what was freed; the C library of Linux keeps it, full of holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file like `VmRSS: 12 kB`, in bytes."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    parts = [line.split() for line in lines if line.endswith(" kB")]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts}


def _left_in(cgroups: Path, limit: str, used: str, droppable: str) -> int | None:
    try:
        most = (cgroups / limit).read_text("ascii").strip()
        now = int((cgroups / used).read_text("ascii"))
        stat = (cgroups / used).with_name("memory.stat").read_text("ascii")
    except (OSError, ValueError):
        return None
    if not most.isdigit():  # "max"
        return None
    cache = [int(line.split()[1]) for line in stat.splitlines() if line.split()[0] == droppable]
    return max(0, int(most) - now + sum(cache))


def _peak_told_by_python() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
