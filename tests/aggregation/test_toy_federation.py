"""A federation of a two-layer network in numpy: what the weights do when the largest site is wrong.

Six classes, LoRA of rank 4 on both layers, five sites, four rounds. The largest site holds 59 % of
all examples; in the damaged scenarios 60 % of its training labels are replaced by random others,
or each label by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedmedlora.adapters.state import AdapterSpec, AdapterState, LoRAPair
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses, Strategy
from fedmedlora.core.seeds import derive_seed, numpy_rng
from fedmedlora.testing.adapters import site_update

WIDTH, HIDDEN, CLASSES, RANK, SCALING = 16, 24, 6, 4, 2.0
SIZES = {"large": 590, "b": 110, "c": 100, "d": 100, "e": 100}
ROUNDS, STEPS, RATE, NUM_SERVER_EXAMPLES = 4, 30, 0.01, 120
SEEDS = range(8)

Array = NDArray[np.float64]
Damage = Literal["none", "flipped", "permuted"]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Examples:
    x: Array
    y: NDArray[np.int64]

    def part(self, chosen: slice | NDArray[np.int64]) -> Examples:
        return Examples(self.x[chosen], self.y[chosen])


def forward(weights: Weights, x: Array) -> tuple[Array, Array]:
    hidden = np.maximum(x @ weights["first"].T, 0)
    logits = hidden @ weights["second"].T
    logits -= logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def example_losses(weights: Weights, data: Examples) -> Array:
    return -forward(weights, data.x)[1][np.arange(len(data.y)), data.y]


def slopes(weights: Weights, data: Examples) -> Weights:
    """Of the mean loss along both matrices."""
    hidden, logs = forward(weights, data.x)
    wrong = np.exp(logs)
    wrong[np.arange(len(data.y)), data.y] -= 1
    wrong /= len(data.y)
    back = (wrong @ weights["second"]) * (hidden > 0)
    return {"first": back.T @ data.x, "second": wrong.T @ hidden}


def products(adapter: AdapterState) -> Weights:
    return {m: SCALING * (p.B.double() @ p.A.double()).numpy() for m, p in adapter.pairs.items()}


def adapted(base: Weights, adapter: AdapterState) -> Weights:
    return {module: base[module] + delta for module, delta in products(adapter).items()}


def train(base: Weights, adapter: AdapterState, data: Examples, seed: int) -> AdapterState:
    """Adam on both factors."""
    rng = np.random.default_rng(seed)
    factors = {
        (module, name): getattr(pair, name).double().numpy()
        for module, pair in adapter.pairs.items()
        for name in ("A", "B")
    }
    first = {key: np.zeros_like(value) for key, value in factors.items()}
    second = {key: np.zeros_like(value) for key, value in factors.items()}
    for step in range(1, STEPS + 1):
        batch = data.part(rng.integers(0, len(data.y), 64))
        weights = {m: base[m] + SCALING * factors[m, "B"] @ factors[m, "A"] for m in base}
        for module, slope in slopes(weights, batch).items():
            A, B = factors[module, "A"], factors[module, "B"]
            for name, value in (("A", SCALING * B.T @ slope), ("B", SCALING * slope @ A.T)):
                key = module, name
                first[key] = 0.9 * first[key] + 0.1 * value
                second[key] = 0.99 * second[key] + 0.01 * value**2
                rise = first[key] / (1 - 0.9**step)
                factors[key] = factors[key] - RATE * rise / (
                    np.sqrt(second[key] / (1 - 0.99**step)) + 1e-8
                )
    pairs = {
        module: LoRAPair(
            A=torch.tensor(factors[module, "A"]).float(),
            B=torch.tensor(factors[module, "B"]).float(),
        )
        for module in base
    }
    return AdapterState(adapter.spec, pairs)


@dataclass(frozen=True)
class ToyNotes:
    """Every example is a note."""

    base: Weights
    data: Examples

    def loss(self, adapter: AdapterState) -> NoteLosses:
        return NoteLosses({"entities": example_losses(adapted(self.base, adapter), self.data)})

    def weight_gradient(
        self, adapters: Mapping[str, AdapterState], weights: Mapping[str, float], merge: str
    ) -> dict[str, float]:
        assert merge == "product"
        deltas = {site: products(adapter) for site, adapter in adapters.items()}
        mixed = {
            module: base + sum(weights[site] * deltas[site][module] for site in deltas)
            for module, base in self.base.items()
        }
        slope = slopes(mixed, self.data)
        return {s: float(sum((slope[m] * d[m]).sum() for m in slope)) for s, d in deltas.items()}

    def labels_of(self, site: str, task: str) -> None:
        return None

    def asking(self, task: str, labels: frozenset[str]) -> ToyNotes:
        return self

    def half(self, which: int) -> ToyNotes:
        return replace(self, data=self.data.part(slice(which, None, 2)))

    def drawn(self, num_notes: int, seed: int) -> ToyNotes:
        chosen = np.random.default_rng(seed % 2**32).permutation(len(self.data.y))[:num_notes]
        return replace(self, data=self.data.part(np.sort(chosen)))


@dataclass(frozen=True)
class World:
    base: Weights
    initial: AdapterState
    sites: Mapping[str, Examples]
    server: Examples
    test: Examples


@cache
def world(seed: int, damage: Damage) -> World:
    """A base network, and sites that all want the same change of it."""
    rng = numpy_rng(seed, "toy")
    base = {
        "first": rng.normal(size=(HIDDEN, WIDTH)) / np.sqrt(WIDTH),
        "second": rng.normal(size=(CLASSES, HIDDEN)) / np.sqrt(HIDDEN),
    }
    shift = {
        m: rng.normal(size=(w.shape[0], 3)) @ rng.normal(size=(3, w.shape[1]))
        for m, w in base.items()
    }
    wanted = {
        m: w + 0.8 * shift[m] * np.linalg.norm(w) / np.linalg.norm(shift[m])
        for m, w in base.items()
    }

    def draw(count: int) -> Examples:
        x = rng.normal(size=(count, WIDTH))
        return Examples(x, forward(wanted, x)[1].argmax(axis=1))

    sites = {site: draw(count) for site, count in SIZES.items()}
    large = sites["large"]
    others = (large.y + rng.integers(1, CLASSES, len(large.y))) % CLASSES
    flipped = rng.random(len(large.y)) < 0.6
    wrong = {
        "none": large.y,
        "flipped": np.where(flipped, others, large.y),
        "permuted": (large.y + 1) % CLASSES,
    }
    sites["large"] = Examples(large.x, wrong[damage])
    spec = AdapterSpec("toy", "", RANK, SCALING * RANK, ("first", "second"))
    pairs = {
        module: LoRAPair(
            A=torch.tensor(rng.normal(size=(RANK, w.shape[1])) / np.sqrt(w.shape[1])).float(),
            B=torch.zeros(w.shape[0], RANK),
        )
        for module, w in base.items()
    }
    return World(base, AdapterState(spec, pairs), sites, draw(NUM_SERVER_EXAMPLES), draw(2000))


@cache
def site_adapter(seed: int, damage: Damage, site: str, digest: str, index: int) -> AdapterState:
    place = world(seed, damage)
    return train(place.base, RECEIVED[digest], place.sites[site], derive_seed(seed, site, index))


RECEIVED: dict[str, AdapterState] = {}


def accuracy(strategy: Strategy, seed: int, damage: Damage) -> tuple[float, float]:
    """Accuracy on test examples after the last round, and what the large site weighed there."""
    place = world(seed, damage)
    adapter, memory = place.initial, {}
    notes = ToyNotes(place.base, place.server)
    weight = 0.0
    for index in range(1, ROUNDS + 1):
        digest = adapter.digest()
        RECEIVED[digest] = adapter
        updates = [
            site_update(
                site,
                site_adapter(seed, damage, site, digest, index),
                round_index=index,
                num_completion_tokens=count,
            )
            for site, count in SIZES.items()
        ]
        context = AggregationContext(index, adapter, memory, seed=seed, scorer=notes)
        result = strategy.aggregate(updates, context)
        adapter, memory, weight = result.adapter, result.memory, result.weights["large"]
    predicted = forward(adapted(place.base, adapter), place.test.x)[1].argmax(axis=1)
    return float((predicted == place.test.y).mean()), weight


def gains(strategy: Strategy, damage: Damage) -> tuple[Array, Array]:
    """By seed, accuracy beyond `fedavg`, and the large site's last weight."""
    plain = np.array([accuracy(FedAvg(), seed, damage)[0] for seed in SEEDS])
    found = np.array([accuracy(strategy, seed, damage) for seed in SEEDS])
    return found[:, 0] - plain, found[:, 1]


def test_with_the_largest_sites_labels_flipped_loss_weights_beat_size_weights() -> None:
    for mode in ("reference", "gibbs-auto", "learned"):
        found, weights = gains(FedMedLoRAPlus(mode), "flipped")
        assert found.mean() > 0.03
        assert weights.max() < 0.3  # of 0.59 by size


def test_with_the_largest_sites_labels_permuted_the_noise_aware_modes_beat_the_published_one() -> (
    None
):
    reference, reference_weights = gains(FedMedLoRAPlus("reference"), "permuted")
    assert reference.mean() > 0.2
    for mode in ("gibbs-auto", "learned"):
        found, weights = gains(FedMedLoRAPlus(mode), "permuted")
        assert found.mean() > reference.mean()
        assert weights.mean() < reference_weights.mean()


def test_with_sound_sites_no_mode_costs_more_than_a_point() -> None:
    for mode in ("reference", "gibbs-auto", "learned"):
        assert gains(FedMedLoRAPlus(mode), "none")[0].mean() > -0.01
