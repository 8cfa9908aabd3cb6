"""How a merged adapter is used, told from how its parts are."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from fedmedlora.adapters.manifest import Manifest
from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.core.schema import default_schema
from fedmedlora.study.trained_adapter import find_adapter, manifest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedmedlora.core.example import Task

_TASKS: tuple[Task, ...] = ("entities", "relations")


def manifest_of_merged(folders: Sequence[Path]) -> tuple[Manifest | None, str]:
    """The manifest of what these adapters become, or why there is none.

    The result marks whatever one of its parts was trained to mark; its tags open as readily as
    those of its parts on average.
    """
    found = []
    for folder in folders:
        try:
            manifest = manifest_of(find_adapter(folder))
        except FedMedLoRAError:  # the merge itself says what is wrong with a folder
            return None, ""
        if manifest is None:
            return None, _none(f"{folder} is neither of a run nor has a manifest")
        found.append(manifest)
    first = found[0]
    for folder, manifest in zip(folders, found, strict=True):
        if manifest.prompt != first.prompt:
            return None, _none(f"{folder} was trained with another prompt than {folders[0]}")
        if manifest.base_fingerprint != first.base_fingerprint:
            return None, _none(f"{folder} is for another base model than {folders[0]}")
    opening = {
        task: round(fmean(bonuses), 3)
        for task in _TASKS
        if (bonuses := [m.opening.get(task, 0.0) for m in found if task in m.tasks])
    }
    marked = {label for manifest in found for label in manifest.modifiers}
    dtypes = {manifest.dtype for manifest in found}
    return Manifest(
        base=first.base,
        base_fingerprint=first.base_fingerprint,
        prompt=first.prompt,
        dtype=dtypes.pop() if len(dtypes) == 1 else "auto",
        tasks=tuple(task for task in _TASKS if any(task in manifest.tasks for manifest in found)),
        modifiers=tuple(label for label in default_schema().modifier_labels if label in marked),
        linked=any(manifest.linked for manifest in found),
        opening=opening if any(opening.values()) else {},
    ), ""


def _none(reason: str) -> str:
    return (
        f"no manifest was written, as {reason}: `extract` will need --prompt and --window-tokens, "
        "and mark entities alone"
    )
