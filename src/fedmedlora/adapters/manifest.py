"""What must be known to use an adapter outside the run that it was trained in: a file beside it.

peft does not look at the file, so a folder with it stays one that peft can load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping  # noqa: TC003  # pydantic reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedmedlora.core.errors import RunStoreError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_FILE = "fedmedlora_adapter.json"
_NameInFolder = Annotated[str, StringConstraints(pattern=r"^[^/\\:]+$")]


class PromptOfAdapter(BaseModel):
    """How the notes were put to the model in training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["compact", "html"]
    window_tokens: int = Field(ge=32)


class Manifest(BaseModel):
    """How an adapter is used.

    Attributes:
        version: Of this file's format.
        base: Name of the base model: of a local one, the last part of its path.
        base_fingerprint: Of the base model; None if it is not known.
        prompt: What the model read in training.
        dtype: The base model's number type; `auto`: what is fastest on the machine at hand.
        tasks: What the adapter was trained for.
        modifiers: Labels of modifiers that it was trained to mark.
        linked: Whether it was trained to say what modifiers belong to.
        opening: By task, how readily its tags open.
        files: SHA-256 of the files that the adapter is, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    base: str
    base_fingerprint: str | None
    prompt: PromptOfAdapter
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tasks: tuple[Literal["entities", "relations"], ...]
    modifiers: tuple[str, ...] = ()
    linked: bool = False
    opening: Mapping[Literal["entities", "relations"], float] = {}
    files: Mapping[_NameInFolder, str] = {}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Nothing; the folder then holds the manifest, with checksums of all that is not for people."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST_FILE and path.suffix != ".md"
    }
    whole = manifest.model_copy(update={"files": files})
    text = whole.model_dump_json(indent=2) + "\n"
    (folder / MANIFEST_FILE).write_text(text, "utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in an adapter folder, if there is one; the files that it names are as it says.

    Raises:
        RunStoreError: It is damaged, or the folder's files are not those it was written with.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RunStoreError(
            f"{path}: damaged, or written by another version, at {place}: {first['msg']}. Use an "
            "intact copy of the folder."
        ) from error
    for name, expected in manifest.files.items():
        try:
            got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise RunStoreError(
                f"{folder / name}: cannot be read ({error.strerror}). Use an intact copy of the "
                "folder."
            ) from error
        if got != expected:
            raise RunStoreError(
                f"{folder / name}: is not the file that {MANIFEST_FILE} was written for; expected "
                f"sha256 {expected[:12]}…, got {got[:12]}…. Use an intact copy of the folder; if "
                f"the adapter was replaced on purpose, delete {MANIFEST_FILE}."
            )
    return manifest
