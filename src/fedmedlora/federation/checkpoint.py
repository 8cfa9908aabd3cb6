"""Rounds on disk: one folder a round, written whole or not at all, loadable with peft."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from fedmedlora.core.errors import AggregationError, FedMedLoRAError, RunStoreError, cause
from fedmedlora.core.records import RoundRecord
from fedmedlora.runs import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Memory

ROUND_FILE = "round.json"
MEMORY_FILE = "memory.safetensors"

_FORMAT = 1
_ROUND_FOLDER = re.compile(r"round-(\d{3,})")


@dataclass(frozen=True, slots=True)
class SavedRound:
    """All that the next round needs, and what the round wrote down."""

    record: RoundRecord
    adapter: AdapterState
    memory: Memory


class Checkpoint:
    """The rounds of one arm below one folder, as `round-001` and so on.

    Each is a peft folder with `round.json` (record, memory, checksums of all files) and, if the
    strategy remembers tensors, `memory.safetensors`. One process writes at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def round_folder(self, round_index: int) -> Path:
        """Where a round is, or will be."""
        return self.folder / f"round-{round_index:03d}"

    def save(self, record: RoundRecord, adapter: AdapterState, memory: Memory) -> None:
        """Nothing; the round is then on disk, whole, whatever happens next.

        Raises:
            RunStoreError: The folder cannot be written; earlier rounds are as they were.
            AggregationError: The memory holds something that cannot be saved exactly.
        """
        plain, tensors = _split_memory(memory)

        def fill(folder: Path) -> None:
            save_adapter(folder, adapter)
            if tensors:
                (folder / MEMORY_FILE).write_bytes(save_tensors(tensors))
            saved = {
                "format": _FORMAT,
                "record": record.to_json(),
                "memory": plain,
                "files": {
                    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                    for path in sorted(folder.iterdir())
                },
            }
            text = json.dumps(saved | {"sha256": _fingerprint(saved)}, indent=2) + "\n"
            (folder / ROUND_FILE).write_text(text, encoding="utf-8")

        if self.folder.exists():
            atomic.clear_leftovers(self.folder)
        atomic.write_folder(self.round_folder(record.round_index), fill)

    def rounds(self) -> list[int]:
        """The rounds that are there, in order.

        Raises:
            RunStoreError: One in between is missing, or the folder cannot be read.
        """
        if not self.folder.exists():
            return []
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except OSError as error:
            raise atomic.store_error(self.folder, error) from error
        found = sorted(int(m[1]) for name in names if (m := _ROUND_FOLDER.fullmatch(name)))
        if found != list(range(1, len(found) + 1)):
            missing = sorted(set(range(1, found[-1])) - set(found))
            raise RunStoreError(
                f"{self.folder}: expected rounds without a gap, got rounds {found}"
                f" (missing {missing}). Restore what is missing from a backup, or delete the "
                "rounds after the gap and resume."
            )
        return found

    def load(self, round_index: int) -> SavedRound:
        """A saved round, with all checksums verified.

        Raises:
            RunStoreError: The round is missing or damaged.
        """
        folder = self.round_folder(round_index)
        record, plain, files = _read_round(folder / ROUND_FILE)
        if record.round_index != round_index:
            raise RunStoreError(
                f"{folder}: expected round {round_index}, got round {record.round_index}. "
                "Folders were renamed; restore them from a backup."
            )
        if not {WEIGHTS_FILE, CONFIG_FILE} <= files.keys():
            raise RunStoreError(f"{folder / ROUND_FILE}: damaged; expected checksums of all files.")
        for name, expected in files.items():
            try:
                got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            except OSError as error:
                raise RunStoreError(
                    f"{folder / name}: cannot be read ({error.strerror})."
                ) from error
            if got != expected:
                raise RunStoreError(
                    f"{folder / name}: damaged or altered; expected sha256 {expected}, got {got}."
                )
        tensors: dict[str, torch.Tensor] = {}
        if MEMORY_FILE in files:
            tensors = load_tensors((folder / MEMORY_FILE).read_bytes())
        return SavedRound(record, load_adapter(folder), plain | tensors)

    def latest(self) -> SavedRound | None:
        """The last saved round, verified; None before the first.

        Raises:
            RunStoreError: It is damaged; the message says what is intact and how to go on.
        """
        rounds = self.rounds()
        if not rounds:
            return None
        try:
            return self.load(rounds[-1])
        except FedMedLoRAError as error:
            raise RunStoreError(f"{error} {self._way_on(rounds)}") from error

    def records(self) -> list[RoundRecord]:
        """The records of all saved rounds, in order.

        Raises:
            RunStoreError: A round is missing or its record is damaged; the message says what is
                intact and how to go on.
        """
        rounds = self.rounds()
        try:
            return [_read_round(self.round_folder(r) / ROUND_FILE)[0] for r in rounds]
        except RunStoreError as error:
            raise RunStoreError(f"{error} {self._way_on(rounds)}") from error

    def _way_on(self, rounds: list[int]) -> str:
        """What to do about the damaged last round, after a look at the earlier ones."""
        intact = 0
        for round_index in rounds[:-1]:
            try:
                self.load(round_index)
            except FedMedLoRAError:
                break
            intact = round_index
        damaged = [str(self.round_folder(r)) for r in rounds if r > intact]
        state = f"Rounds 1 to {intact} are intact" if intact else "No earlier round is intact"
        return (
            f"{state}: delete {', '.join(damaged)} and resume; what was deleted is computed anew."
        )


def _read_round(path: Path) -> tuple[RoundRecord, dict[str, Any], dict[str, str]]:
    """Record, plain memory and checksums."""
    try:
        saved = json.loads(path.read_bytes().decode("utf-8"))
        fingerprint = saved.pop("sha256")
        if saved["format"] != _FORMAT:
            raise RunStoreError(
                f"{path}: expected format {_FORMAT}, got {saved['format']}. "
                "Resume with the version that wrote it."
            )
        if fingerprint != _fingerprint(saved):
            raise RunStoreError(f"{path}: damaged or altered; its checksum does not match.")
        return RoundRecord.from_json(saved["record"]), saved["memory"], saved["files"]
    except OSError as error:
        raise RunStoreError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunStoreError(f"{path}: damaged ({cause(error)}).") from error


def _fingerprint(saved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(saved, sort_keys=True).encode()).hexdigest()


def _split_memory(memory: Memory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What JSON holds, and what safetensors holds."""
    plain: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, value in memory.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            continue
        try:
            exact = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            exact = False
        if not exact:
            raise AggregationError(
                f"strategy memory {name!r}: expected a tensor or what JSON gives back unchanged "
                f"(no tuples, no NaN), got {type(value).__name__}."
            )
        plain[name] = value
    return plain, tensors
