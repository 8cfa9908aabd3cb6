"""The adapter that a study's arms begin from: the shipped starter, or one of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.core.errors import AdapterMismatchError, ConfigError, FedMedLoRAError
from fedmedlora.models.catalog import PRESETS
from fedmedlora.models.load import is_path
from fedmedlora.models.starter import STARTER, adapter_folder
from fedmedlora.study.trained_adapter import find_adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmedlora.models.load import BaseModel
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.trained_adapter import Trained


@dataclass(frozen=True, slots=True)
class Start:
    """The adapter, and what is known of its training."""

    trained: Trained
    adapter: AdapterState


def resolved_place(name: str, folder: Path) -> str:
    """What a study file says, from the folder that it lies in; `starter` is no folder."""
    return name if name == STARTER else str((folder / Path(name).expanduser()).resolve())


def find_start(name: str) -> Start:
    """The adapter that a study names; its numbers are read as they are asked for.

    Raises:
        RunStoreError: It is not there, or damaged.
        AdapterMismatchError: It is of a kind that we would compute wrongly.
    """
    trained = find_adapter(adapter_folder(name))
    return Start(trained, open_adapter(trained.folder))


def faults_of_start(config: StudyConfig) -> list[str]:
    """What is wrong with the study's start, or with settings beside it; all that can be told now.

    Nothing else of the study need be sound.
    """
    if config.start is None:
        return []
    try:
        start = find_start(config.start)
    except FedMedLoRAError as error:
        return [f"start: {line}" for line in str(error).splitlines()]
    spec = start.adapter.spec
    stated = config.lora.model_fields_set
    faults = [
        f"lora.{key}: {_shown(getattr(config.lora, key))}, but the start has {_shown(value)}; "
        "training goes on with the adapter as it is. Leave the key out, or begin without a start."
        for key, value in (
            ("rank", spec.rank),
            ("alpha", spec.alpha),
            ("target_modules", spec.target_modules),
        )
        if key in stated and not _same(getattr(config.lora, key), value)
    ]
    base = config.model.base
    known = base in PRESETS and spec.base_model in PRESETS
    if known and not is_path(base) and base != spec.base_model:
        faults.append(
            f"start: was trained on {spec.base_model}; expected an adapter of model.base, "
            f"{base}. Choose another start, or set model.base."
        )
    return faults


def with_start(config: StudyConfig, say: Callable[[str], None] = lambda _: None) -> StudyConfig:
    """The study with what its start decides filled in: the adapter's shape and the prompt.

    Where the start is a run, so is the round: the run may get another one before this study ends.
    `say` is told what a user should know of the start.

    Raises:
        ConfigError: The start, or what the study says beside it, has faults.
        RunStoreError: It is not there any more.
    """
    if config.start is None:
        return config
    if faults := faults_of_start(config):
        raise ConfigError("\n".join(faults))
    start = find_start(config.start)
    spec, prompt = start.adapter.spec, start.trained.prompt
    lora = config.lora.model_copy(
        update={"rank": spec.rank, "alpha": spec.alpha, "target_modules": spec.target_modules}
    )
    stated = {key: getattr(config.prompt, key) for key in config.prompt.model_fields_set}
    filled: dict[str, object] = {"lora": lora, "prompt": prompt.model_copy(update=stated)}
    if config.start != STARTER:
        filled["start"] = str(start.trained.folder.resolve())
    if start.trained.doubt:
        say(f"start: {start.trained.doubt}")
    return config.model_copy(update=filled)


def started_from(name: str, base: BaseModel) -> AdapterState:
    """The start as the adapter of a study with this base model, in float32.

    Raises:
        RunStoreError: It is not there, or damaged.
        AdapterMismatchError: It was trained on another base model.
    """
    start = find_start(name)
    spec, trained = start.adapter.spec, start.trained
    if not trained.fits(spec, base):
        raise AdapterMismatchError(
            f"start: {trained.folder} was trained on another base model than {base.name}; expected "
            f"an adapter of revision {base.revision}, got {spec.revision or 'another fingerprint'}."
            " Choose another start, or the base model that it was trained on."
        )
    ours = AdapterSpec(
        base.name, base.revision, spec.rank, spec.alpha, spec.target_modules, spec.rslora
    )
    pairs = {
        module: LoRAPair(A=pair.A.float(), B=pair.B.float())
        for module, pair in start.adapter.pairs.items()
    }
    return AdapterState(ours, pairs)


def _same(stated: object, found: object) -> bool:
    if isinstance(stated, tuple) and isinstance(found, tuple):
        return set(stated) == set(found)
    return stated is None or stated == found


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, sorted(value)))
    return f"{value:g}" if isinstance(value, int | float) else str(value)
