"""What a site keeps between rounds and never sends: a personal factor, an error-feedback buffer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedmedlora.core.errors import RunStoreError, cause
from fedmedlora.runs import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

_FILE = re.compile(r"round-(\d{3,})\.safetensors")


class SiteState:
    """Named tensors by round, in a folder of one site, one run and one strategy.

    A round starts from what an earlier round left, never from its own: a round that was killed and
    is repeated starts where it started before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, round_index: int) -> dict[str, torch.Tensor]:
        """What the last round before this one left; empty if none left anything.

        Raises:
            RunStoreError: The file is damaged.
        """
        earlier = [r for r in self._rounds() if r < round_index]
        if not earlier:
            return {}
        path = self._path(earlier[-1])
        try:
            found: dict[str, torch.Tensor] = load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise RunStoreError(
                f"{path}: the site's state is damaged ({cause(error)}). Restore it from a "
                "backup, or delete the run's rounds from this one on and resume."
            ) from error
        return found

    def keep(self, round_index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Leave these for later rounds; what rounds before the last one left is deleted.

        Raises:
            RunStoreError: The folder cannot be written.
        """
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        atomic.write_file(self._path(round_index), lambda path: _write(path, data))
        for old in self._rounds():
            if old < round_index - 1:
                self._path(old).unlink(missing_ok=True)

    def _path(self, round_index: int) -> Path:
        return self._folder / f"round-{round_index:03d}.safetensors"

    def _rounds(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        names = (_FILE.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in names if match)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
