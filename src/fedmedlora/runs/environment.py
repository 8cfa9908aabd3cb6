"""What a run was made with: software and hardware, never who or where."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import fedmedlora
from fedmedlora.runs.machine_cores import usable_cores

_PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "gguf",
    "pydantic",
    "zstandard",
)
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MKL_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
    "GLIBC_TUNABLES",
)


def describe_environment() -> dict[str, Any]:
    """Plain values for `environment.json`: no host name, no user name, no path.

    Versions are read from package metadata; nothing heavy is imported.
    """
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "fedmedlora": fedmedlora.__version__,
        "git_commit": _git_commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "num_usable_cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "thread_variables": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _git_commit() -> str | None:
    """The commit of the package's own checkout, with `-dirty` where it was changed since.

    `None` where the package is installed: a repository that merely surrounds it is not its own.
    """
    here = Path(fedmedlora.__file__)
    try:
        for question in (
            ("ls-files", "--error-unmatch", here.name),
            ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"),
        ):
            answer = subprocess.run(
                ("git", *question),
                cwd=here.parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
