"""LoRA on a base model: attach once, swap adapters, merge."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.core.errors import AdapterMismatchError
from fedmedlora.core.seeds import derive_seed
from fedmedlora.models.lora_linear import LoRALinear, attach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from fedmedlora.models.load import BaseModel


def initial_adapter(
    base: BaseModel, *, rank: int, alpha: float, target_modules: tuple[str, ...], seed: int
) -> AdapterState:
    """A fresh adapter: `A` drawn as peft draws it (Kaiming uniform), `B` zero.

    Every matrix has its own seed by address, so the start is the same whatever else was drawn.

    Raises:
        AdapterMismatchError: No module of the base model has one of these names.
    """
    spec = AdapterSpec(base.name, base.revision, rank, alpha, target_modules)
    pairs = {}
    for name, module in _targets(base.model, spec).items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora-init", name))
        A = torch.empty(rank, module.in_features)
        torch.nn.init.kaiming_uniform_(A, a=5**0.5, generator=generator)
        pairs[name] = LoRAPair(A=A, B=torch.zeros(module.out_features, rank))
    return AdapterState(spec, pairs)


def _targets(model: Any, spec: AdapterSpec) -> dict[str, nn.Linear]:
    """The linear layers that the spec names, by full name."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and spec.targets(name)
    }
    if not found:
        raise AdapterMismatchError(
            f"{spec.base_model}: no linear module is named {', '.join(spec.target_modules)}. "
            "Set lora.target_modules to names that the model has."
        )
    return found


def same_weights(model: nn.Module) -> Any:
    """A copy of the module tree that shares every weight, so that wrapping it leaves the original.

    One set of base weights serves training and extraction.
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})


class LoRAModel:
    """One base model with one set of LoRA matrices, whose values are swapped, never the model.

    The base stays frozen in its dtype; the LoRA matrices are float32 masters. It computes what peft
    computes, faster; adapters are saved and loaded as peft's. Adapters of other ranks than `spec`'s
    are taken over, too; their scaling must be the same.

    Raises:
        AdapterMismatchError: The spec targets the output layer, or nothing that the model has.
    """

    def __init__(self, base: BaseModel, spec: AdapterSpec) -> None:
        targets = _targets(base.model, spec)
        if base.model.get_output_embeddings() in targets.values():
            raise AdapterMismatchError(
                f"{base.name}: LoRA on the output layer is not supported, because losses and "
                "choices read its frozen weight. Take it out of lora.target_modules."
            )
        self.spec = spec.with_dtype("float32")
        self._loaded = self.spec
        self.base = base
        self.network: Any = same_weights(base.model)
        """The whole network with LoRA, as transformers has it."""
        attach(self.network, tuple(targets), rank=spec.rank, scaling=spec.scaling)
        self._layers: dict[str, LoRALinear] = {
            name: self.network.get_submodule(name) for name in targets
        }

    @property
    def peft(self) -> Any:
        """`network`, by the name that it had while peft wrapped it."""
        return self.network

    @property
    def backbone(self) -> nn.Module:
        """The network with LoRA, without its output layer."""
        module: nn.Module = self.network.base_model
        return module

    def parameters(self, factors: frozenset[str]) -> list[nn.Parameter]:
        """The trainable matrices of these factors (`A`, `B`); all others are frozen."""
        chosen = []
        for layer in self._layers.values():
            for factor, weight in (("A", layer.lora_A), ("B", layer.lora_B)):
                weight.requires_grad_(factor in factors)
                if factor in factors:
                    chosen.append(weight)
        return chosen

    def gradients(self) -> Iterator[tuple[str, LoRAPair]]:
        """By module, the slopes that a backward pass left on its factors; zeros where none did.

        They are dropped as they are read.
        """
        for name, layer in self._layers.items():
            found = []
            for weight in (layer.lora_A, layer.lora_B):
                slope = torch.zeros_like(weight) if weight.grad is None else weight.grad
                found.append(slope.detach().cpu())
                weight.grad = None
            yield name, LoRAPair(A=found[0], B=found[1])

    def load(self, adapter: AdapterState) -> None:
        """Take over an adapter's values.

        Raises:
            AdapterMismatchError: Its scaling, modules or shapes are not this model's.
        """
        if not math.isclose(adapter.spec.scaling, self.spec.scaling, rel_tol=1e-12):
            raise AdapterMismatchError(
                f"adapter for {adapter.spec.base_model}: expected the scaling "
                f"{self.spec.scaling:g}, got {adapter.spec.scaling:g}."
            )
        if set(adapter.pairs) != set(self._layers):
            raise AdapterMismatchError(
                f"adapter for {adapter.spec.base_model}: its modules are not those of "
                f"{self.base.name} ({len(adapter.pairs)} against {len(self._layers)})."
            )
        self._set_rank(adapter.spec)
        with torch.no_grad():
            for name, pair in adapter.pairs.items():
                layer = self._layers[name]
                for weight, value in (
                    (layer.lora_A, pair.A),
                    (layer.lora_B, pair.B),
                ):
                    if weight.shape != value.shape:
                        raise AdapterMismatchError(
                            f"adapter module {name}: expected shape {tuple(weight.shape)}, "
                            f"got {tuple(value.shape)}."
                        )
                    weight.copy_(value)

    def _set_rank(self, spec: AdapterSpec) -> None:
        """Room for an adapter of this rank; what is there is lost if it had another one."""
        if spec.rank != self._loaded.rank:
            for layer in self._layers.values():
                d_out, d_in = len(layer.lora_B), layer.lora_A.shape[1]
                layer.lora_A = torch.nn.Parameter(layer.lora_A.new_zeros(spec.rank, d_in))
                layer.lora_B = torch.nn.Parameter(layer.lora_B.new_zeros(d_out, spec.rank))
        self._loaded = replace(self.spec, rank=spec.rank, alpha=spec.alpha, rslora=spec.rslora)

    def state(self) -> AdapterState:
        """A copy of the present values, float32, on the CPU."""
        pairs = {
            name: LoRAPair(
                A=layer.lora_A.detach().to("cpu", copy=True),
                B=layer.lora_B.detach().to("cpu", copy=True),
            )
            for name, layer in self._layers.items()
        }
        return AdapterState(self._loaded, pairs)


def merged(base: BaseModel, adapter: AdapterState | None) -> BaseModel:
    """A copy of the base model with `W + scaling * B @ A` in place of each adapted weight.

    The sum runs in float32 and is cast to the base model's dtype; the base model is not changed,
    and weights without an adapter are shared with it.
    A weight that is held in 4 bits has no room for the sum: it stays, and the adapter is computed
    beside it. For dense weights merge into `dequantised(base)`.
    Without an adapter the base model itself is returned.

    Raises:
        AdapterMismatchError: The adapter names modules or shapes that the model does not have.
    """
    if adapter is None:
        return base
    model = same_weights(base.model)
    modules = dict(model.named_modules())
    beside = []
    with torch.no_grad():
        for name, pair in adapter.pairs.items():
            module = modules.get(name)
            if not isinstance(module, torch.nn.Linear):
                raise AdapterMismatchError(f"{base.name}: there is no linear module {name}.")
            expected = module.out_features, module.in_features
            if (pair.B.shape[0], pair.A.shape[1]) != expected:
                raise AdapterMismatchError(
                    f"adapter module {name}: expected shape {expected}, "
                    f"got {(pair.B.shape[0], pair.A.shape[1])}."
                )
            if "weight" not in module._parameters:
                beside.append(name)
                continue
            A, B = (factor.to(module.weight.device).float() for factor in (pair.A, pair.B))
            # In place: what is freed between the weights that stay would leave holes in the heap.
            weight = (B @ A).mul_(adapter.spec.scaling).add_(module.weight)
            module.weight = torch.nn.Parameter(weight.to(module.weight.dtype), requires_grad=False)
        attach(model, beside, rank=adapter.spec.rank, scaling=adapter.spec.scaling)
        for name in beside:
            layer = model.get_submodule(name).requires_grad_(False)
            layer.lora_A.copy_(adapter.pairs[name].A)
            layer.lora_B.copy_(adapter.pairs[name].B)
    return replace(base, model=model)
