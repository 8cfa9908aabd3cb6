"""A trained adapter in a quarter of its size, with all that is needed to use it, as one folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.files import load_adapter, save_packed_adapter
from fedmedlora.adapters.manifest import write_manifest
from fedmedlora.core.errors import ConfigError
from fedmedlora.models.starter import CARD_FILE
from fedmedlora.runs.atomic import write_folder
from fedmedlora.study.trained_adapter import find_adapter, manifest_of

if TYPE_CHECKING:
    from pathlib import Path


def pack_adapter(source: Path, out: Path, card: str) -> dict[str, Any]:
    """What was packed, as plain values; `out`, which is replaced, then holds it beside its card.

    Args:
        source: A run directory, or an adapter folder that tells how it is used.
        out: Folder of the packed adapter.
        card: What the adapter is, for people.

    Raises:
        ConfigError: It is not known how the adapter is used, or which base model it is bound to.
        RunStoreError: There is no adapter, or the folder cannot be written.
        AdapterMismatchError: The adapter is of a kind that we would compute wrongly.
    """
    trained = find_adapter(source)
    manifest = manifest_of(trained)
    adapter = load_adapter(trained.folder)
    if manifest is None or not adapter.spec.revision:
        raise ConfigError(
            f"{source}: it is not known how this adapter is used, or on which base model; expected "
            "an adapter of a run. Name a run directory."
        )

    def fill(folder: Path) -> None:
        save_packed_adapter(folder, adapter)
        (folder / CARD_FILE).write_text(card, "utf-8")
        # Whoever uses it has another machine than those that trained it.
        write_manifest(folder, manifest.model_copy(update={"dtype": "auto"}))

    write_folder(out, fill, replace=True)
    packed = load_adapter(out)
    return {
        "packed": str(out),
        "adapter": str(trained.folder),
        "num_bytes": sum(path.stat().st_size for path in out.iterdir()),
        "num_parameters": adapter.num_parameters,
        "relative_error": product_distance(adapter, packed) / product_norm(adapter),
    }
