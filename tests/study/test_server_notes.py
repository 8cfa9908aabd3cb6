"""The server's notes judge adapters: losses by note, and each site's pull on the merged model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import LoRAModel
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.server_notes import ServerNotes

WEIGHTS = {"alder": 0.5, "birch": 0.2, "cedar": 0.3}


def trained(prepared: Prepared, seed: int) -> AdapterState:
    """An adapter that differs from the initial one in both factors."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        module: LoRAPair(
            A=pair.A + 0.1 * torch.randn(pair.A.shape, generator=generator),
            B=0.1 * torch.randn(pair.B.shape, generator=generator),
        )
        for module, pair in prepared.initial.pairs.items()
    }
    return AdapterState(prepared.initial.spec, pairs)


@pytest.fixture(scope="module")
def notes(prepared: Prepared) -> ServerNotes:
    assert prepared.server_notes is not None
    return prepared.server_notes


@pytest.fixture(scope="module")
def adapters(prepared: Prepared) -> dict[str, AdapterState]:
    return {site: trained(prepared, seed) for seed, site in enumerate(WEIGHTS)}


@pytest.fixture(scope="module")
def exact(prepared: Prepared) -> ServerNotes:
    """The same notes before the same model in float64; only adapters and slopes are rounded."""
    base = load_base(prepared.config.model.base, dtype=torch.float64)
    model = LoRAModel(base, prepared.initial.spec)
    settings = prepared.config.server_notes
    assert settings is not None
    return ServerNotes(prepared.config, settings, prepared.notes.sites, model, prepared.tags)


def dense_losses(
    prepared: Prepared, notes: ServerNotes, deltas: Mapping[str, torch.Tensor]
) -> list[float]:
    """Mean loss an answer token of each note, by transformers itself in float64."""
    model = copy.deepcopy(prepared.base.model).double()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, delta in deltas.items():
            modules[name].weight.add_(delta)
        found = []
        for note in notes._notes["entities"]:
            lost: list[torch.Tensor] = []
            for example in note.examples:
                ids = torch.tensor([example.token_ids])
                logits = model(input_ids=ids).logits[0, :-1]
                losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
                lost.append(losses[max(1, example.num_prompt_tokens) - 1 :])
            found.append(float(torch.cat(lost).mean()))
    return found


def product_deltas(
    adapters: Mapping[str, AdapterState], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    first = next(iter(adapters.values()))
    return {
        module: sum(
            weights[site] * a.spec.scaling * a.pairs[module].B.double() @ a.pairs[module].A.double()
            for site, a in adapters.items()
        )
        for module in first.pairs
    }


def factor_deltas(
    adapters: Mapping[str, AdapterState], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    first = next(iter(adapters.values()))

    def mean(module: str, factor: str) -> torch.Tensor:
        return sum(
            weights[s] * a.pairs[module].factor(factor).double() for s, a in adapters.items()
        )

    return {m: first.spec.scaling * mean(m, "B") @ mean(m, "A") for m in first.pairs}


def test_losses_by_note_are_those_that_transformers_computes(
    prepared: Prepared, notes: ServerNotes, adapters: dict[str, AdapterState]
) -> None:
    deltas = product_deltas(adapters, {"alder": 1.0, "birch": 0.0, "cedar": 0.0})

    found = notes.loss(adapters["alder"]).completion["entities"]

    assert found == pytest.approx(dense_losses(prepared, notes, deltas), rel=1e-4)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("merge", "deltas_of"), [("product", product_deltas), ("factor", factor_deltas)]
)
def test_the_slope_along_every_weight_is_that_of_finite_differences_on_the_language_model(
    prepared: Prepared,
    exact: ServerNotes,
    adapters: dict[str, AdapterState],
    merge: str,
    deltas_of: Callable[..., dict[str, torch.Tensor]],
) -> None:
    before = {site: adapter.digest() for site, adapter in adapters.items()}

    found = exact.weight_gradient(adapters, WEIGHTS, merge)

    # Norms inside the network round to float32, so steps are wide and the stencil has five points.
    step = 0.02
    expected = {}
    for site in WEIGHTS:
        slope = 0.0
        for steps, share in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = WEIGHTS | {site: WEIGHTS[site] + steps * step}
            losses = dense_losses(prepared, exact, deltas_of(adapters, moved))
            slope += share * float(np.mean(losses)) / (12 * step)
        expected[site] = slope
    steepest = max(abs(slope) for slope in expected.values())
    assert found == pytest.approx(expected, abs=1e-3 * steepest)
    assert steepest > 0.01  # the comparison says something
    assert {site: adapter.digest() for site, adapter in adapters.items()} == before
    assert exact.weight_gradient(adapters, WEIGHTS, merge) == found


def test_a_site_of_a_lower_rank_is_scored_and_pulls_as_its_product_does(
    prepared: Prepared, notes: ServerNotes, adapters: dict[str, AdapterState]
) -> None:
    narrow = change_rank(adapters["birch"], 1, alpha=7.0)
    padded = change_rank(narrow, prepared.initial.spec.rank, alpha=prepared.initial.spec.alpha)
    mixed = adapters | {"birch": narrow}

    assert notes.loss(narrow).mean() == pytest.approx(notes.loss(padded).mean(), rel=1e-5)
    found = notes.weight_gradient(mixed, WEIGHTS, "product")
    same = notes.weight_gradient(adapters | {"birch": padded}, WEIGHTS, "product")
    assert found == pytest.approx(same, rel=1e-3, abs=1e-5)


def test_a_weight_of_zero_has_a_slope_too(
    notes: ServerNotes, adapters: dict[str, AdapterState]
) -> None:
    found = notes.weight_gradient(adapters, {"alder": 1.0, "birch": 0.0, "cedar": 0.0}, "product")

    assert abs(found["birch"]) > 1e-4


def test_halves_and_draws_are_parts_of_the_notes_with_the_same_losses(
    notes: ServerNotes, adapters: dict[str, AdapterState]
) -> None:
    whole = notes.loss(adapters["alder"])

    for which in (0, 1):
        part = notes.half(which)
        expected = whole.half(which).completion["entities"]
        assert part.loss(adapters["alder"]).completion["entities"] == pytest.approx(expected)
        assert part.notes["entities"] == notes.notes["entities"][which::2]
    drawn = notes.drawn(2, seed=5)
    assert len(drawn.notes["entities"]) == 2
    assert set(drawn.notes["entities"]) < set(notes.notes["entities"])
    assert drawn.notes == notes.drawn(2, seed=5).notes
    assert notes.drawn(3, seed=5) is notes


@pytest.fixture(scope="module")
def one_label(small: Callable[..., StudyConfig]) -> Prepared:
    """Two sites, one of which annotates problems only."""
    config = small("sites.0.labels=['problem']", "server_notes={notes_per_site=1}")
    return prepare(resolve(config, SilentObserver()), SilentObserver())


def test_notes_are_asked_for_the_labels_of_a_site_and_never_for_more_than_were_annotated(
    one_label: Prepared,
) -> None:
    notes = one_label.server_notes
    assert notes is not None
    assert notes.labels_of("alder-icu", "entities") == {"problem"}
    assert notes.labels_of("elsewhere", "entities") is None
    everything = notes.labels_of("birch-clinic", "entities")
    assert everything is not None
    assert notes.asking("entities", everything) is notes

    asked = notes.asking("entities", {"problem"})

    assert asked is not None
    assert [note.labels for note in asked._notes["entities"]] == [("problem",), ("problem",)]
    # Another prompt over the same windows.
    for before, after in zip(notes._notes["entities"], asked._notes["entities"], strict=True):
        assert len(after.examples) == len(before.examples)
        assert after.document is before.document
    assert asked.num_tokens < notes.num_tokens


def test_a_note_without_any_of_the_labels_has_no_loss(one_label: Prepared) -> None:
    notes = one_label.server_notes
    assert notes is not None

    asked = notes.asking("entities", {"treatment"})
    assert asked is not None
    losses = asked.loss(one_label.initial).completion["entities"]
    # alder gave its note for problems only
    assert np.isnan(losses).tolist() == [True, False]
    assert notes.asking("entities", {"mood"}) is None
    assert notes.asking("relations", {"treatment"}) is None
    found = asked.weight_gradient({"a": one_label.initial}, {"a": 1.0}, "product")
    assert np.isfinite(found["a"])


def test_whole_sequences_are_read_only_where_a_strategy_asks_for_them(
    small: Callable[..., StudyConfig], prepared: Prepared
) -> None:
    assert prepared.server_notes is not None
    assert prepared.server_notes.loss(prepared.initial).sequence == {}
    plus = '{name="fedmedlora-plus", mode="paper", validation_loss="sequence"}'
    config = small(f"strategies=[{plus}]", "server_notes={notes_per_site=1}")
    wanting = prepare(resolve(config, SilentObserver()), SilentObserver())
    assert wanting.server_notes is not None
    losses = wanting.server_notes.loss(wanting.initial)
    assert losses.sequence["entities"].shape == losses.completion["entities"].shape
    assert losses.mean("sequence") != losses.mean()


def test_as_a_site_the_notes_are_the_same_with_empty_windows_thinned(notes: ServerNotes) -> None:
    scored = [e for note in notes._notes["entities"] for e in note.examples]

    everything = notes.as_site(1.0, 0)["entities"]
    thinned = notes.as_site(0.0, 0)["entities"]

    assert sorted(map(repr, everything.train)) == sorted(map(repr, scored))
    assert set(thinned.train) == {example for example in scored if example.num_entities}
    assert everything.num_tokens == notes.num_tokens
    assert everything.num_documents == 3
    assert everything.validation == ()
