"""Adapters as folders that peft reads too: `adapter_model.safetensors` and `adapter_config.json`.

Written by hand; peft is not needed to save, load or merge adapters.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fedmedlora.adapters.int8 import PACKED_FILE, packed_bytes, unpacked
from fedmedlora.adapters.manifest import MANIFEST_FILE, read_manifest
from fedmedlora.adapters.state import TORCH_DTYPES, AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError, RunStoreError, cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Set
    from pathlib import Path

    import torch

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": "A", ".lora_B.weight": "B"}

# Settings of peft's LoRA that do not change what a saved adapter computes. Any other setting that
# is switched on makes the folder something we would compute wrongly, so it is refused.
_NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "bias",  # checked on its own: "none" is a string
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",  # checked on its own: some change the base model
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_HARMLESS_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


def save_adapter(folder: Path, adapter: AdapterState) -> None:
    """Nothing; the folder then holds the adapter, in `spec.dtype`, and is loadable with peft.

    Not atomic: a round's folder becomes so through `federation/checkpoint.py`.

    Raises:
        AdapterMismatchError: The adapter lacks a factor.
        RunStoreError: The folder cannot be written.
    """
    if any(tensor.numel() == 0 for _, _, tensor in adapter.tensors()):
        raise AdapterMismatchError(
            f"{folder}: expected an adapter with both factors, got one that lacks some. "
            "Fill it first (AdapterState.filled_from)."
        )
    tensors = {
        f"{_PREFIX}{module}.lora_{factor}.weight": tensor.to("cpu", copy=True).contiguous()
        for module, factor, tensor in adapter.tensors()
    }
    _write(folder, WEIGHTS_FILE, save_tensors(tensors, metadata={"format": "pt"}), adapter.spec)


def save_packed_adapter(folder: Path, adapter: AdapterState) -> None:
    """As `save_adapter`, in a quarter of the bytes; peft cannot load it, `load_adapter` can.

    Raises:
        RunStoreError: The folder cannot be written.
    """
    _write(folder, PACKED_FILE, packed_bytes(adapter), adapter.spec)


def weights_file(folder: Path) -> Path:
    """Where the adapter's numbers are, packed or not."""
    packed = folder / PACKED_FILE
    return packed if packed.is_file() else folder / WEIGHTS_FILE


def _write(folder: Path, name: str, blob: bytes, spec: AdapterSpec) -> None:
    config = json.dumps(_peft_config(spec), indent=2, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(blob)
        (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    except OSError as error:
        raise RunStoreError(
            f"{folder}: the adapter cannot be written ({error.strerror}). "
            "Choose a folder that you may write to, on a disk with space."
        ) from error


def load_adapter(folder: Path) -> AdapterState:
    """The adapter in a folder that we or peft wrote, with the dtype of its file.

    A packed one is given in float32, once its checksums are found to be right.

    Raises:
        RunStoreError: The folder is missing, incomplete or damaged.
        AdapterMismatchError: It holds an adapter of a kind that we would compute wrongly.
    """
    path = weights_file(folder)
    tensors = _read_tensors(path)
    if path.name == PACKED_FILE:
        manifest = read_manifest(folder)
        if manifest is None or not manifest.files.keys() >= {PACKED_FILE, CONFIG_FILE}:
            raise RunStoreError(
                f"{folder}: incomplete; expected {MANIFEST_FILE} with the checksums of "
                f"{PACKED_FILE} and {CONFIG_FILE}. Use an intact copy of the folder."
            )
        tensors = unpacked(tensors, path)
    spec = read_spec(folder, {tensor.dtype for tensor in tensors.values()})
    names = factor_names(tensors, path)
    return AdapterState(spec, {m: LoRAPair(tensors[a], tensors[b]) for m, (a, b) in names.items()})


def read_spec(folder: Path, dtypes: Set[torch.dtype]) -> AdapterSpec:
    """The spec of the adapter in a folder, whose tensors have these dtypes.

    Raises:
        RunStoreError: The configuration is missing or damaged.
        AdapterMismatchError: The adapter is not plain LoRA of one dtype that we know.
    """
    names = [name for name, dtype in TORCH_DTYPES.items() if dtypes == {dtype}]
    if not names:
        raise AdapterMismatchError(
            f"{folder / WEIGHTS_FILE}: expected one dtype of {sorted(TORCH_DTYPES)}, "
            f"got {sorted(map(str, dtypes))}."
        )
    path = folder / CONFIG_FILE
    return _spec_of(_read_config(path), path).with_dtype(names[0])


def factor_names(names: Iterable[str], path: Path) -> dict[str, tuple[str, str]]:
    """By module, in name order, the names under which peft keeps its `A` and its `B`.

    Raises:
        RunStoreError: A factor lacks its partner, or there is none.
        AdapterMismatchError: A name is not that of a LoRA factor of a linear module.
    """
    factors: dict[str, dict[str, str]] = {}
    for name in sorted(names):  # safetensors has no order of its own
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None or not name.startswith(_PREFIX):
            raise AdapterMismatchError(
                f"{path}: tensor {name!r} is not a LoRA factor of a linear "
                f"module; expected {_PREFIX}<module>.lora_A.weight or .lora_B.weight."
            )
        module = name.removeprefix(_PREFIX).removesuffix(suffix)
        factors.setdefault(module, {})[_SUFFIXES[suffix]] = name
    lonely = sum(len(pair) != 2 for pair in factors.values())
    if lonely or not factors:
        raise RunStoreError(
            f"{path}: expected A and B for every module, got "
            f"{lonely} modules with one factor and {len(factors)} in all."
        )
    return {module: (pair["A"], pair["B"]) for module, pair in sorted(factors.items())}


def _peft_config(spec: AdapterSpec) -> dict[str, Any]:
    alpha = int(spec.alpha) if spec.alpha.is_integer() else spec.alpha
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": spec.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": {},
        "revision": spec.revision or None,
        "target_modules": list(spec.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": spec.rslora,
    }


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunStoreError(
            f"{path}: cannot be read ({error.strerror}); expected a folder with {WEIGHTS_FILE} "
            f"and {CONFIG_FILE}."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read_bytes(path).decode("utf-8"))
    except ValueError as error:  # JSON and UTF-8 errors are both this
        raise RunStoreError(
            f"{path}: damaged, not JSON ({cause(error)}). Use an intact copy of the folder."
        ) from error
    if not isinstance(config, dict):
        raise RunStoreError(f"{path}: damaged; expected a JSON object.")
    return config


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    data = _read_bytes(path)
    try:
        tensors: dict[str, torch.Tensor] = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise RunStoreError(
            f"{path}: damaged or cut off ({len(data)} bytes); expected a safetensors file "
            f"({cause(error)}). Use an intact copy of the folder."
        ) from error
    return tensors


def _spec_of(config: dict[str, Any], path: Path) -> AdapterSpec:
    """The spec in peft's words, in float32.

    Raises:
        AdapterMismatchError: The adapter is not plain LoRA, or a value is not one.
    """
    faults = [
        f"{key} is set" for key, value in sorted(config.items()) if value and key not in _NEUTRAL
    ]
    if config.get("peft_type") != "LORA":
        faults.append("peft_type is not LORA")
    if config.get("bias", "none") != "none":
        faults.append("bias is trained")
    if config.get("init_lora_weights", True) not in _HARMLESS_INIT:
        faults.append("init_lora_weights is of a kind that changes the base model")
    if faults:
        raise AdapterMismatchError(
            f"{path}: expected plain LoRA with one rank and alpha; {'; '.join(faults)}. "
            "What it computes could not be told from its A and B alone. Train it without these."
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    targets = config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise AdapterMismatchError(
            f"{path}: expected numbers as r and lora_alpha. Save the adapter again with peft."
        )
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise AdapterMismatchError(
            f"{path}: expected target_modules as a list of module names, not a pattern. "
            "Name the modules in it."
        )
    return AdapterSpec(
        base_model=config.get("base_model_name_or_path") or "",
        revision=config.get("revision") or "",
        rank=rank,
        alpha=alpha,
        target_modules=tuple(targets),
        rslora=bool(config.get("use_rslora", False)),
    )
