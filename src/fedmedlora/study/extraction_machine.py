"""What an extraction runs on: threads, device, number type and kernel, asked for or measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from fedmedlora.models.device import device_of
from fedmedlora.models.dtype import choose_dtype
from fedmedlora.runs.machine_cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.core.records import Observer
    from fedmedlora.models.kernels import Kernel

DeviceWanted = Literal["auto", "cpu", "cuda"]
DtypeWanted = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """What a user asks for; `auto` and None leave the choice to us."""

    threads: int | None = None
    device: DeviceWanted = "auto"
    dtype: DtypeWanted = "auto"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the model runs on and in; scores depend on it in their last digits."""

    dtype: str
    kernel: Kernel
    device: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for the progress file."""
        return {"dtype": self.dtype, "kernel": self.kernel, "device": self.device}


def choose_machine(
    wanted: MachineRequest, trained: str, before: Mapping[str, Any] | None, observer: Observer
) -> Machine:
    """What is asked for, else what was used before, else what suits the adapter and this machine.

    The number of threads is set at once: by default as many as torch takes and may use.

    Args:
        wanted: What the user asks for.
        trained: The number type of the adapter's training; `auto`: whatever is fastest.
        before: Settings of the extraction that is gone on with.
        observer: Told if another type is taken than that of training.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    # torch knows the cores, but not that a container may have less of their time.
    torch.set_num_threads(wanted.threads or min(torch.get_num_threads(), usable_cores()))
    device = _device(wanted.device, before)
    if before is not None and wanted.dtype in ("auto", before.get("dtype")):
        return Machine(before["dtype"], before.get("kernel", "torch"), device)
    if wanted.dtype != "auto" or trained == "float32":
        return Machine(trained if wanted.dtype == "auto" else wanted.dtype, "torch", device)
    choice = choose_dtype(device)
    if trained == "bfloat16" and choice.name != "bfloat16":
        if choice.bfloat16_is_not_slower:
            return Machine("bfloat16", "torch", device)
        observer.message(
            "the adapter was trained in bfloat16, which is slow on this machine: using float32; "
            "--dtype bfloat16 keeps it"
        )
    return Machine(choice.name, choice.kernel if choice.name == "float32" else "torch", device)


def _device(wanted: DeviceWanted, before: Mapping[str, Any] | None) -> str:
    if wanted == "auto" and before is not None and "device" in before:
        wanted = before["device"]
    return device_of(wanted, asked_by=f"--device {wanted}")
