"""Merging many sites' adapters of a large model: ours, file to file, and other ways to do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.files import save_adapter
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.aggregation.screening import screen_products
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.aggregation.weighting import equal
from fedmedlora.testing.adapters import site_update

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama's linear layers."""

    hidden: int = 4096
    kv: int = 1024
    mlp: int = 14336

    def kinds(self) -> dict[str, tuple[int, int]]:
        """`(d_out, d_in)` by module, those of one layer."""
        hidden, kv, mlp = self.hidden, self.kv, self.mlp
        return {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
        }


def make_folders(folder: Path, shape: ModelShape, layers: int, sites: int, rank: int) -> list[Path]:
    """Folders of the adapter before a round, and of what each site made of it, in bfloat16.

    Drift is a third of the adapter before; numbers are normal and random by place.
    """
    kinds = shape.kinds()
    names = [f"model.layers.{layer}.{kind}" for layer in range(layers) for kind in kinds]
    targets = tuple(kind.rpartition(".")[2] for kind in kinds)
    spec = AdapterSpec("made-up", "", rank, 64.0, targets, dtype="bfloat16")
    made = []
    for index in range(sites + 1):
        pairs = {}
        for place, name in enumerate(names):
            d_out, d_in = kinds[name.split(".", 3)[3]]
            common, own = (torch.Generator().manual_seed(2 * place), torch.Generator())
            own.manual_seed(10**6 * index + place)
            A, B = (_drifted(size, rank, common, own, index) for size in (d_in, d_out))
            pairs[name] = LoRAPair(A=(0.5 * A / d_in**0.5).bfloat16(), B=(0.02 * B.T).bfloat16())
        made.append(folder / ("before" if index == 0 else f"site-{index:02d}"))
        save_adapter(made[-1], AdapterState(spec, pairs))
    return made


def _drifted(
    size: int, rank: int, common: torch.Generator, own: torch.Generator, index: int
) -> torch.Tensor:
    start = torch.randn(rank, size, generator=common)
    return start + 0.3 * torch.randn(rank, size, generator=own) if index else start


class Merger:
    """Our merge, as a server does it after a round."""

    def __init__(self, folders: Sequence[Path], threads: int) -> None:
        torch.set_num_threads(threads)
        self._before, *self._sites = folders

    def file_to_file(self, out: Path) -> dict[str, float]:
        """Seconds of each part; the merged adapter then lies in `out`."""
        marks = [time.perf_counter()]
        before = open_adapter(self._before)
        updates = [site_update(site.name, open_adapter(site)) for site in self._sites]
        marks.append(time.perf_counter())
        found = screen_products(updates, AggregationContext(1, before))
        marks.append(time.perf_counter())
        adapters = {site: update.adapter for site, update in found.updates.items()}
        merged, _ = mean_of_products(before, adapters, found.clip(equal(adapters)))
        marks.append(time.perf_counter())
        save_adapter(out, merged)
        marks.append(time.perf_counter())
        parts = ("opening", "screening", "merging", "writing")
        return {part: marks[i + 1] - marks[i] for i, part in enumerate(parts)}

    def memory_to_memory(self) -> float:
        """Seconds of the merge alone, with all adapters in memory before."""
        before, *adapters = [
            AdapterState(adapter.spec, dict(adapter.pairs))
            for adapter in map(open_adapter, (self._before, *self._sites))
        ]
        by_site = {f"{i:02d}": adapter for i, adapter in enumerate(adapters)}
        started = time.perf_counter()
        mean_of_products(before, by_site, equal(by_site))
        return time.perf_counter() - started


class Sample:
    """Some modules of all sites in memory, to be merged in every way, one at a time.

    Every way starts from the same factors in bfloat16 and gives factors of rank `rank` in it.
    """

    def __init__(self, folders: Sequence[Path], layers: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._before, *sites = [_first_layers(open_adapter(f), layers) for f in folders]
        self._sites = {f"{i:02d}": adapter for i, adapter in enumerate(sites)}
        self._spec = self._before.spec

    def modules(self) -> list[str]:
        """Their names."""
        return list(self._before.pairs)

    def merge(self, way: str, module: str) -> tuple[float, float]:
        """Seconds, and how far the product is from ours, by our product's norm."""
        pairs = [adapter.pairs[module] for adapter in self._sites.values()]
        started = time.perf_counter()
        found = self._ours(module) if way == OURS else WAYS[way](pairs, self._spec)
        seconds = time.perf_counter() - started
        ours, theirs = (self._adapter(module, pair) for pair in (self._ours(module), found))
        return seconds, product_distance(ours, theirs) / product_norm(ours)

    def _ours(self, module: str) -> LoRAPair:
        before = self._adapter(module, self._before.pairs[module])
        adapters = {s: self._adapter(module, a.pairs[module]) for s, a in self._sites.items()}
        return mean_of_products(before, adapters, equal(adapters))[0].pairs[module]

    def _adapter(self, module: str, pair: LoRAPair) -> AdapterState:
        return AdapterState(self._spec, {module: pair})


def _first_layers(adapter: AdapterState, layers: int) -> AdapterState:
    names = [name for name in adapter.pairs if int(name.split(".")[2]) < layers]
    return AdapterState(adapter.spec, {name: adapter.pairs[name] for name in names})


def _dense_mean(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> torch.Tensor:
    total = torch.zeros(pairs[0].B.shape[0], pairs[0].A.shape[1])
    for pair in pairs:
        total.addmm_(pair.B.float(), pair.A.float(), alpha=spec.scaling / len(pairs))
    return total


def dense_svd(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> LoRAPair:
    """The mean as it stands, and all of its singular values: FlexLoRA as published."""
    u, s, vt = torch.linalg.svd(_dense_mean(pairs, spec), full_matrices=False)
    return _half_and_half(u, s, vt, spec)


def random_svd(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> LoRAPair:
    """The mean as it stands, and its largest singular values only, approximated."""
    torch.manual_seed(0)
    u, s, v = torch.svd_lowrank(_dense_mean(pairs, spec), q=2 * spec.rank, niter=2)
    return _half_and_half(u, s, v.T, spec)


def stacked_qr(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> LoRAPair:
    """Both stacks made orthogonal by QR in float32: what our Gram matrices stand in for."""
    u, s, vt = _core(*_stacks(pairs, spec))
    return _half_and_half(u, s, vt, spec)


def hlora(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> LoRAPair:
    """QR of both stacks, all singular values in `A`: as NVFlare's example of HLoRA merges."""
    left, right = _stacks(pairs, spec)
    u, s, vt = _core(left / spec.scaling, right)
    rank = spec.rank
    A = s[:rank, None] * vt[:rank]
    return LoRAPair(A=A.to(spec.torch_dtype), B=u[:, :rank].to(spec.torch_dtype).contiguous())


def factor_mean(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> LoRAPair:
    """The factors averaged apart: another result, as cheap as it gets."""
    A, B = (
        torch.stack([pair.factor(factor).float() for pair in pairs]).mean(0).to(spec.torch_dtype)
        for factor in ("A", "B")
    )
    return LoRAPair(A=A, B=B)


def _stacks(pairs: Sequence[LoRAPair], spec: AdapterSpec) -> tuple[torch.Tensor, torch.Tensor]:
    left = torch.cat([pair.B for pair in pairs], dim=1).float() * (spec.scaling / len(pairs))
    return left, torch.cat([pair.A for pair in pairs]).float()


def _core(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vt = torch.linalg.svd(r_left @ r_right.T)
    return q_left @ u, s, vt @ q_right.T


def _half_and_half(
    u: torch.Tensor, s: torch.Tensor, vt: torch.Tensor, spec: AdapterSpec
) -> LoRAPair:
    root = (s[: spec.rank] / spec.scaling).sqrt()
    B, A = u[:, : spec.rank] * root, root[:, None] * vt[: spec.rank]
    return LoRAPair(A=A.to(spec.torch_dtype), B=B.to(spec.torch_dtype).contiguous())


OURS = "ours: Gram matrices, float64"
DENSE = "dense mean, SVD"
WAYS: Mapping[str, Callable[[Sequence[LoRAPair], AdapterSpec], LoRAPair]] = {
    "stacked factors, QR, float32": stacked_qr,
    "HLoRA's way: the same, singular values in A": hlora,
    "dense mean, randomised SVD": random_svd,
    DENSE: dense_svd,
    "mean of factors": factor_mean,
}
