"""Aggregation as a tool of its own: adapters in folders, merged as a strategy would merge them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

import torch
from pydantic import TypeAdapter, ValidationError

from fedmedlora.adapters.algebra import check_modules
from fedmedlora.adapters.exchange import SiteUpdate, TaskMetrics
from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from fedmedlora.adapters.manifest import MANIFEST_FILE, write_manifest
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.adapters.streaming import open_adapter
from fedmedlora.aggregation import StrategyConfig
from fedmedlora.aggregation.merging import merge
from fedmedlora.aggregation.screening import screen, screen_products
from fedmedlora.aggregation.strategy import Aggregate, AggregationContext
from fedmedlora.aggregation.weighting import by_loss, by_size, by_size_and_loss, equal, size_of
from fedmedlora.core.errors import AdapterMismatchError, ConfigError
from fedmedlora.runs.atomic import write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedmedlora.adapters.manifest import Manifest
    from fedmedlora.aggregation.strategy import Merge

# Their weights need nothing but sizes and losses, so both merges are open to them.
_BY_RULE = ("fedavg", "uniform", "fedmedlora-plus")
_CONFIGS = get_args(StrategyConfig)[0]
_FILES = {CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE}


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What shall be merged, and how.

    Attributes:
        folders: Adapter folders that we or peft wrote.
        out: Folder of the result; replaced if it holds one.
        strategy: A name of `StrategyConfig`.
        weights: Sizes of the sites behind the folders, in any unit; None: all alike.
        losses: Their validation losses, which `fedmedlora-plus` weighs by.
        how: Merge of factors (the default) or of products; None where the strategy knows itself.
        rank: Rank of the result; None: the largest of the folders.
        before: Folder of the adapter that all started from. With it, a merge of products is one of
            round deltas, and each of them is clipped (see `screening`).
        manifest: What is written beside the result; None: nothing.
    """

    folders: Sequence[Path]
    out: Path
    strategy: str
    weights: Sequence[Decimal] | None = None
    losses: Sequence[Decimal] | None = None
    how: Merge | None = None
    rank: int | None = None
    before: Path | None = None
    manifest: Manifest | None = None


def merge_folders(request: MergeRequest) -> dict[str, Any]:
    """What was done, as JSON can hold it; the result then lies in `request.out`.

    Raises:
        ConfigError: The request contradicts itself, or the strategy needs what a folder has not.
        RunStoreError: A folder cannot be read or written.
        AdapterMismatchError: The adapters cannot be merged in this way.
        AggregationError: None of them can.
    """
    _check(request)
    folders = sorted(request.folders, key=str)
    adapters = {f"{i:04d}": open_adapter(folder) for i, folder in enumerate(folders)}
    names = {site: str(folder) for site, folder in zip(adapters, folders, strict=True)}
    before = _before(request, adapters)
    for site, adapter in adapters.items():
        check_modules(before, adapter, names[site])
    updates = _updates(request, adapters)
    context = AggregationContext(1, before)
    if request.strategy in _BY_RULE:
        result = _by_rule(request, updates, context)
    else:
        result = _config(request.strategy).build().aggregate(updates, context)
    foreign = [names[site] for site, code in result.refused.items() if code == "foreign-adapter"]
    if foreign:
        raise AdapterMismatchError(
            f"{', '.join(foreign)}: another rank, scale, dtype or shape than the others. "
            "Adapters of several ranks and scales are merged with --merge product."
        )
    adapter = result.adapter
    if request.rank is not None and request.rank != adapter.spec.rank:
        adapter = change_rank(adapter, request.rank)

    def fill(folder: Path) -> None:
        save_adapter(folder, adapter)
        if request.manifest is not None:
            write_manifest(folder, request.manifest)

    write_folder(request.out, fill, replace=True)
    return {
        "out": str(request.out),
        "strategy": request.strategy,
        "rank": adapter.spec.rank,
        "adapters": [
            {"adapter": name, "weight": result.weights.get(site, 0.0)}
            for site, name in names.items()
        ],
        "refused": {names[site]: code for site, code in result.refused.items()},
        "record": _renamed(result.record, names),
    }


def _by_rule(
    request: MergeRequest, updates: Sequence[SiteUpdate], context: AggregationContext
) -> Aggregate:
    if request.how != "product":
        sound, refused = screen(updates, context)
        weights = _weights(request, sound)
        merged = merge("factor", context.adapter, _adapters(sound), weights)
        return Aggregate(merged.adapter, weights, record={"merge": "factor"}, refused=refused)
    found = screen_products(updates, context)
    if request.before is None:
        found = found.unclipped()  # without what they started from there is no round delta
    weights = _weights(request, found.updates)
    used = found.clip(weights)
    rank = request.rank or context.adapter.spec.rank
    adapter, energy_kept = mean_of_products(
        context.adapter, _adapters(found.updates), used, replace(context.adapter.spec, rank=rank)
    )
    record = {"merge": "product", "energy_kept": energy_kept, "weights_used": used}
    return Aggregate(adapter, weights, record=record | found.record(), refused=found.refused)


def _weights(request: MergeRequest, updates: Mapping[str, SiteUpdate]) -> dict[str, float]:
    sizes = {site: size_of(update, "tokens") for site, update in updates.items()}
    if request.strategy == "fedavg":
        return by_size(sizes)
    if request.losses is None:
        return equal(sizes)
    losses_in_order = _by_name(request, request.losses)
    losses = {site: float(losses_in_order[int(site)]) for site in updates}
    return by_loss(losses) if request.weights is None else by_size_and_loss(sizes, losses)


def _adapters(updates: Mapping[str, SiteUpdate]) -> dict[str, AdapterState]:
    return {site: update.adapter for site, update in updates.items()}


def _updates(request: MergeRequest, adapters: Mapping[str, AdapterState]) -> list[SiteUpdate]:
    """The adapters as replies of sites, in the order of their names; every unit counts alike."""
    given = request.weights or [Decimal(1)] * len(adapters)
    exponent = min(min(0, int(weight.as_tuple().exponent)) for weight in given)
    sizes = [int(weight.scaleb(-exponent)) for weight in _by_name(request, given)]
    return [
        SiteUpdate(site, 1, adapter, {"entities": TaskMetrics(size, size, size, size)}, num_steps=1)
        for (site, adapter), size in zip(adapters.items(), sizes, strict=True)
    ]


def _by_name(request: MergeRequest, values: Sequence[Decimal]) -> list[Decimal]:
    """Values that were given in the order of the folders, in the order of their names."""
    pairs = zip(map(str, request.folders), values, strict=True)
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


def _before(request: MergeRequest, adapters: Mapping[str, AdapterState]) -> AdapterState:
    """What all started from; if nobody says, the widest adapter as it was before any training."""
    if request.before is not None:
        return open_adapter(request.before)
    widest = max(adapters.values(), key=lambda adapter: adapter.spec.rank)
    return AdapterState(widest.spec, _Untrained(widest.pairs))


class _Untrained(Mapping[str, LoRAPair]):
    """The same pairs with every `B` zero, made when they are asked for."""

    def __init__(self, pairs: Mapping[str, LoRAPair]) -> None:
        self._pairs = pairs

    def __getitem__(self, module: str) -> LoRAPair:
        pair = self._pairs[module]
        return LoRAPair(A=pair.A, B=torch.zeros_like(pair.B))

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def _config(name: str) -> Any:
    return TypeAdapter(StrategyConfig).validate_python({"name": name})


def _check(request: MergeRequest) -> None:
    """All that is wrong with the request, at once.

    Raises:
        ConfigError: Something is.
    """
    faults = []
    try:
        _config(request.strategy)
    except ValidationError:
        known = [config.model_fields["name"].default for config in get_args(_CONFIGS)]
        faults.append(f"--strategy {request.strategy}: not known; expected one of {known}.")
    for option, values in (("--weights", request.weights), ("--losses", request.losses)):
        if values is not None and len(values) != len(request.folders):
            faults.append(
                f"{option}: expected one number for each of {len(request.folders)} folders, "
                f"got {len(values)}."
            )
    weights = request.weights
    if weights is not None and not (
        all(weight.is_finite() and weight >= 0 for weight in weights) and sum(weights) > 0
    ):
        faults.append("--weights: expected numbers >= 0, not all of them 0.")
    if request.strategy == "uniform" and weights is not None:
        faults.append("--weights: `uniform` has none. Use `fedavg`, or leave them out.")
    if (request.losses is not None) != (request.strategy == "fedmedlora-plus"):
        faults.append("--losses: needed by `fedmedlora-plus`, and by no other strategy.")
    if request.how is not None and request.strategy not in _BY_RULE:
        faults.append(f"--merge: `{request.strategy}` merges in its own way; leave it out.")
    if request.rank is not None and request.rank < 1:
        faults.append(f"--rank: expected at least 1, got {request.rank}.")
    faults += _faults_of_out(request)
    if faults:
        raise ConfigError("\n".join(faults))


def _faults_of_out(request: MergeRequest) -> list[str]:
    out = request.out
    read = [*request.folders, *([request.before] if request.before else [])]
    if any(out.resolve() == folder.resolve() for folder in read):
        return [f"--out {out}: is read from. Choose another folder."]
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _FILES):
        return [f"--out {out}: holds other things than an adapter. Choose another folder."]
    return []


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The record with folders for sites."""
    if isinstance(value, Mapping):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
