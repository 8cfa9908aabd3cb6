"""An adapter as it lies on disk, and what else must be as in its training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Literal

from fedmedlora.adapters.files import CONFIG_FILE, weights_file
from fedmedlora.adapters.manifest import Manifest, PromptOfAdapter, read_manifest
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.core.errors import RunStoreError
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.models.fetch import file_sha256
from fedmedlora.runs.store import RunStore
from fedmedlora.study.config import PromptConfig
from fedmedlora.study.opening import OPENING
from fedmedlora.study.sites import ADAPTERS, INPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterSpec
    from fedmedlora.core.example import Task
    from fedmedlora.models.load import BaseModel


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter folder, what the model read and ran in when it was trained, and which it was.

    `modifiers` are those that it was trained to mark, `linked` says whether with what they belong
    to; none where it was not trained for relations. `opening` says by task how readily its tags
    open, as the run found. `doubt` is what a user should be told before the adapter is used.
    """

    folder: Path
    prompt: PromptConfig
    dtype: str
    base: str | None
    base_fingerprint: str | None
    tasks: tuple[Task, ...] = ("entities",)
    modifiers: tuple[str, ...] = ()
    linked: bool = False
    opening: Mapping[Task, float] = field(default_factory=dict)
    doubt: str = ""

    def asked_by(self, prompt: str | None, window_tokens: int | None) -> Trained:
        """The same, where a user says how it was trained."""
        said = {"format": prompt, "window_tokens": window_tokens}
        given = {name: value for name, value in said.items() if value is not None}
        return replace(self, prompt=self.prompt.model_copy(update=given))

    def fits(self, spec: AdapterSpec, base: BaseModel) -> bool:
        """Whether the base model is the one of the training, as far as that is known.

        `spec` is the adapter's own, which names the weights of a model that no hub keeps apart.
        """
        bound = spec.revision.startswith("sha256-") and spec.revision != base.revision
        return not bound and self.base_fingerprint in (None, base.fingerprint)

    def sha256(self) -> str:
        """Of the adapter's weights and configuration, wherever the folder lies."""
        files = map(file_sha256, (weights_file(self.folder), self.folder / CONFIG_FILE))
        return hashlib.sha256("".join(files).encode()).hexdigest()


def find_adapter(path: Path) -> Trained:
    """The adapter at `path`: a run's last global adapter, or an adapter folder.

    A folder outside a run tells by its manifest how it is used. One without was trained elsewhere:
    the default prompt, float32 and the task entities are assumed.

    Raises:
        RunStoreError: There is no adapter, or it is damaged.
    """
    if (path / CONFIG_FILE).is_file():
        manifest = read_manifest(path)
        if manifest is not None:
            return _of_manifest(path, manifest)
        for parent in path.resolve().parents:
            if (parent / "config.json").is_file() and (parent / "adapters").is_dir():
                return _of_run(RunStore.open(parent), path)
        prompt = PromptConfig()
        return Trained(
            path,
            prompt,
            "float32",
            None,
            None,
            doubt="the adapter is neither in a run directory nor beside a manifest: assuming that "
            f"it was trained for entities alone with the prompt {prompt.format} and "
            f"{prompt.window_tokens} tokens a window; say otherwise with --prompt and "
            "--window-tokens, or below [prompt] in a study file",
        )
    if (path / "config.json").is_file():
        checkpoint = Checkpoint(path / "adapters")
        rounds = checkpoint.rounds()
        if not rounds:
            raise RunStoreError(
                f"{path}: the run has no finished federated round. Resume it, or name one of the "
                "adapter folders below its adapters folder."
            )
        store = RunStore.open(path)
        found = _of_run(store, checkpoint.round_folder(rounds[-1]))
        return replace(found, doubt=_not_finished(store, rounds[-1], found))
    raise RunStoreError(
        f"{path}: neither a run directory nor a peft adapter folder; expected {CONFIG_FILE} or "
        "config.json in it."
    )


def _not_finished(store: RunStore, num_rounds: int, found: Trained) -> str:
    """What is missing from a run's adapter because the run is not finished; nothing if it is."""
    wanted = store.config.get("federation", {}).get("rounds", num_rounds)
    way_on = f"finish it with: fedmedlora study resume {store.path}"
    if num_rounds < wanted:
        which = f"using the adapter of round {num_rounds} of {wanted}"
        return f"the run is not finished: {which}; {way_on}"
    opens = store.config.get("evaluation", {}).get("open_bonus", 0)
    if opens != 0 and set(found.tasks) - set(found.opening):
        return (
            "the run is not finished: how readily its tags open has not been found for every task; "
            + way_on
        )
    return ""


def _of_manifest(folder: Path, manifest: Manifest) -> Trained:
    return Trained(
        folder,
        PromptConfig.model_validate(manifest.prompt.model_dump()),
        manifest.dtype,
        manifest.base,
        manifest.base_fingerprint,
        manifest.tasks,
        manifest.modifiers,
        manifest.linked,
        dict(manifest.opening),
    )


def manifest_of(trained: Trained) -> Manifest | None:
    """What a folder with this adapter needs beside it; None if too little is known.

    The folder may go anywhere: of a base model on this machine it has the name, not the place.

    Raises:
        RunStoreError: The adapter is damaged.
        AdapterMismatchError: It is of a kind that we would compute wrongly.
    """
    if trained.base is None:
        return None
    is_place = any(kind(trained.base).is_absolute() for kind in (PurePosixPath, PureWindowsPath))
    return Manifest(
        base=open_adapter(trained.folder).spec.base_model if is_place else trained.base,
        base_fingerprint=trained.base_fingerprint,
        prompt=PromptOfAdapter.model_validate(trained.prompt.model_dump()),
        dtype=_dtype(trained.dtype),
        tasks=trained.tasks,
        modifiers=trained.modifiers,
        linked=trained.linked,
        opening=dict(trained.opening),
    )


def _dtype(name: str) -> Literal["auto", "float32", "bfloat16"]:
    return "auto" if name == "auto" else "bfloat16" if name == "bfloat16" else "float32"


def _of_run(store: RunStore, folder: Path) -> Trained:
    prompt = PromptConfig.model_validate(store.config.get("prompt", {}))
    model = store.config["model"]
    inputs = store.read_json(INPUTS)
    place = folder.resolve().parent.relative_to(store.path.resolve()).as_posix()
    taught = inputs.get(ADAPTERS, {}).get(place, {"tasks": ["entities"]})
    return Trained(
        folder,
        prompt,
        model["dtype"],
        model["base"],
        inputs["base_fingerprint"],
        tuple(taught["tasks"]),
        tuple(taught.get("modifiers", ())),
        taught.get("linked", False),
        store.read_json(OPENING).get(place, {}) if store.has(OPENING) else {},
    )
