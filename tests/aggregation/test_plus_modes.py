"""Fed-MedLoRA+ as a whole: which rule acts, what the guard lets through, what is written down."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmedlora.adapters.algebra import product_distance, product_norm
from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import (
    LocalPlan,
    Reply,
    Request,
    Score,
    SiteScores,
    SiteUpdate,
)
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.decision import Mode
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus, FedMedLoRAPlusConfig
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.strategy import Aggregate, AggregationContext, NoteLosses
from fedmedlora.aggregation.tuning import PlusTuning
from fedmedlora.aggregation.weighting import by_loss
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.seeds import numpy_rng
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.testing.adapters import DriftingSite, random_adapter, site_update
from fedmedlora.testing.scorers import ProbeScorer

BY_NOTES: tuple[Mode, ...] = ("gibbs-auto", "learned")
BEFORE = random_adapter(0)
GOAL = random_adapter(50)


class Far:
    """Notes that all want one product; each has a difficulty of its own and some noise."""

    def __init__(self, noise: float = 0.002, places: tuple[int, ...] = tuple(range(24))) -> None:
        self.noise, self.places = noise, places

    def loss(self, adapter: AdapterState) -> NoteLosses:
        far = product_distance(adapter, GOAL) / product_norm(GOAL)
        rng = numpy_rng(0, adapter.digest())
        noise = rng.normal(size=24) * self.noise
        hard = numpy_rng(1, "difficulty").uniform(0, 1, size=24)
        losses = 0.1 + hard + 0.1 * far + noise
        return NoteLosses({"entities": losses[list(self.places)]})

    def weight_gradient(
        self, adapters: dict[str, AdapterState], weights: dict[str, float], merge: str
    ) -> dict[str, float]:
        """By differences, on the dense products."""
        products = {
            s: {m: a.spec.scaling * (p.B.double() @ p.A.double()) for m, p in a.pairs.items()}
            for s, a in adapters.items()
        }
        goal = {m: 2.0 * (p.B.double() @ p.A.double()) for m, p in GOAL.pairs.items()}

        def far(w: dict[str, float]) -> float:
            total = 0.0
            for module, wanted in goal.items():
                mixed = sum(w[s] * products[s][module] for s in products)
                total += float((mixed - wanted).square().sum())
            return 0.1 * math.sqrt(total) / product_norm(GOAL)

        step = 1e-5
        return {
            s: (far(weights | {s: weights[s] + step}) - far(weights | {s: weights[s] - step}))
            / (2 * step)
            for s in adapters
        }

    def labels_of(self, site: str, task: str) -> None:
        return None

    def asking(self, task: str, labels: frozenset[str]) -> "Far":
        return self

    def half(self, which: int) -> "Far":
        return Far(self.noise, self.places[which::2])

    def drawn(self, num_notes: int, seed: int) -> "Far":
        return self


def near(distance: float, seed: int) -> AdapterState:
    pairs = {
        module: LoRAPair(
            A=pair.A,
            B=pair.B
            + distance * torch.tensor(numpy_rng(seed, module).normal(size=pair.B.shape)).float(),
        )
        for module, pair in GOAL.pairs.items()
    }
    return AdapterState(GOAL.spec, pairs)


def sites(*distances: float) -> list[SiteUpdate]:
    return [
        site_update(f"site-{seed}", near(distance, seed), num_completion_tokens=100)
        for seed, distance in enumerate(distances)
    ]


def run(mode: Mode, updates: list[SiteUpdate], scorer: object, **changes: object) -> Aggregate:
    context = AggregationContext(1, BEFORE, seed=7, scorer=scorer)  # type: ignore[arg-type]
    tuning = PlusTuning(**({"momentum": 0.0} | changes))  # type: ignore[arg-type]
    return FedMedLoRAPlus(mode, tuning=tuning).aggregate(updates, context)


@pytest.mark.parametrize("mode", BY_NOTES)
def test_a_bad_site_loses_its_weight_where_the_published_rule_hardly_sees_it(mode: Mode) -> None:
    updates = sites(0.3, 0.3, 1.6, 0.3)

    result = run(mode, updates, Far())

    assert result.record["guard"]["accepted"]
    assert result.record["guard"]["difference"] < 0
    assert result.record["incumbent_weights"]["site-2"] > 0.2
    assert result.weights["site-2"] < 0.06
    assert result.record["energy_kept"] > 0.5
    json.dumps(result.memory)


@pytest.mark.parametrize("mode", BY_NOTES)
def test_differences_within_noise_leave_the_published_weights(mode: Mode) -> None:
    updates = sites(0.3, 0.3, 0.3)

    result = run(mode, updates, Far(noise=0.3))

    assert not result.record["guard"]["accepted"]
    losses = result.record["server_losses"]
    assert result.weights == pytest.approx(by_loss(losses))


class Uninformative(Far):
    """Losses that have nothing to do with the adapter."""

    def __init__(self, seed: int, places: tuple[int, ...] = tuple(range(40))) -> None:
        self.seed, self.places = seed, places

    def loss(self, adapter: AdapterState) -> NoteLosses:
        rng = numpy_rng(self.seed, adapter.digest())
        return NoteLosses({"entities": rng.gamma(2.0, 0.1, size=40)[list(self.places)]})

    def weight_gradient(
        self, adapters: dict[str, AdapterState], weights: dict[str, float], merge: str
    ) -> dict[str, float]:
        rng = numpy_rng(self.seed, "slopes", *self.places)
        return {site: float(rng.normal()) for site in sorted(adapters)}

    def half(self, which: int) -> "Uninformative":
        return Uninformative(self.seed, self.places[which::2])

    def drawn(self, num_notes: int, seed: int) -> "Uninformative":
        return self


@pytest.mark.parametrize("mode", BY_NOTES)
def test_notes_that_say_nothing_change_the_weights_in_few_draws(mode: Mode) -> None:
    updates = sites(0.2, 0.3, 0.4, 0.5)

    accepted = [
        run(mode, updates, Uninformative(seed)).record["guard"]["accepted"] for seed in range(60)
    ]

    assert np.mean(accepted) <= 0.1


@pytest.mark.parametrize("mode", BY_NOTES)
def test_an_adapter_that_is_worse_than_the_old_one_is_not_sent_out(mode: Mode) -> None:
    context = AggregationContext(1, near(0.01, 9), seed=7, scorer=Far())  # type: ignore[arg-type]

    result = FedMedLoRAPlus(mode).aggregate(sites(2.0, 2.5, 3.0), context)

    assert not result.record["may_follow"]["accepted"]
    assert result.adapter == context.adapter
    assert result.record["worse_than_before"] == ["site-0", "site-1", "site-2"]
    assert math.fsum(result.weights.values()) == pytest.approx(1)


def test_auto_learns_where_the_notes_are_sharp_and_takes_gibbs_where_they_are_not() -> None:
    updates = sites(0.3, 0.4, 0.5)

    sharp, dull = run("auto", updates, Far(noise=0.002)), run("auto", updates, Far(noise=0.2))

    assert (sharp.record["rule"], dull.record["rule"]) == ("learned", "gibbs-auto")
    assert sharp.record["noise"] < PlusTuning().learned_below < dull.record["noise"]


def test_one_note_is_too_few_for_anything_but_the_published_rule() -> None:
    result = run("gibbs-auto", sites(0.3, 1.6), Far(places=(0,)))

    assert result.weights == pytest.approx(by_loss(result.record["server_losses"]))
    assert not result.record["guard"]["accepted"]
    assert result.record["may_follow"]["accepted"]


@pytest.mark.parametrize("mode", BY_NOTES)
def test_no_weight_is_above_the_cap(mode: Mode) -> None:
    updates = sites(0.1, 1.6, 1.6, 1.6)

    assert run(mode, updates, Far()).weights["site-0"] == pytest.approx(0.6)
    assert run(mode, updates, Far(), weight_cap=0.4).weights["site-0"] == pytest.approx(0.4)
    assert run(mode, updates[:1], Far()).weights == {"site-0": 1.0}


def test_the_weights_of_the_round_before_are_remembered() -> None:
    updates = sites(0.3, 0.3)
    memory = {"weights": {"site-0": 1.0, "site-1": 0.0}}
    context = AggregationContext(1, BEFORE, memory, seed=7, scorer=Far())  # type: ignore[arg-type]
    tuning = PlusTuning(momentum=0.5, weight_cap=1.0)

    result = FedMedLoRAPlus("gibbs-auto", tuning=tuning).aggregate(updates, context)

    alone = run("gibbs-auto", updates, Far(), weight_cap=1.0)
    assert result.weights["site-0"] == pytest.approx(0.5 + 0.5 * alone.weights["site-0"])
    assert result.memory == {"weights": result.weights}


@pytest.mark.parametrize("mode", BY_NOTES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), boost=st.sampled_from([1000.0, -1000.0]))
def test_a_boosted_update_is_bounded_in_the_guarded_modes(
    mode: Mode, seed: int, boost: float
) -> None:
    updates = [site_update(f"site-{i}", random_adapter(seed + i)) for i in range(1, 5)]
    loud = AdapterState(
        updates[0].adapter.spec,
        {m: LoRAPair(A=p.A, B=boost * p.B) for m, p in updates[0].adapter.pairs.items()},
    )
    updates[0] = replace(updates[0], adapter=loud)
    context = AggregationContext(1, BEFORE, seed=seed, scorer=ProbeScorer(seed))

    result = FedMedLoRAPlus(mode, merge="product").aggregate(updates, context)

    assert "norm-clipped" in result.record["flags"]["site-1"]
    median = result.record["median_delta_norm"]
    others = math.fsum(
        result.weights[site] * result.record["delta_norms"][site]
        for site in ("site-2", "site-3", "site-4")
    )
    # The bound of the mean; cutting it to the rank takes off no more than is there.
    bound = 2 * (result.weights["site-1"] * 3 * median + others)
    assert product_distance(result.adapter, BEFORE) <= bound * (1 + 1e-5)


def test_the_published_modes_give_the_formula_and_the_plain_mean_of_factors() -> None:
    updates = sites(0.3, 1.6, 0.9)
    context = AggregationContext(1, BEFORE, scorer=Far())  # type: ignore[arg-type]

    result = FedMedLoRAPlus("reference").aggregate(updates, context)

    losses = {u.site: Far().loss(u.adapter).mean() for u in updates}
    least = min(losses.values())
    shares = {site: math.exp(least - loss) for site, loss in losses.items()}
    assert result.weights == pytest.approx(
        {site: share / math.fsum(shares.values()) for site, share in shares.items()}, rel=1e-15
    )
    assert result.adapter == mean_of_factors({u.site: u.adapter for u in updates}, result.weights)
    assert result.memory == {}
    assert "guard" not in result.record


@pytest.mark.parametrize("mode", ["reference", "paper", *BY_NOTES])
def test_modes_that_need_server_notes_refuse_without(mode: Mode) -> None:
    strategy = FedMedLoRAPlus(mode)
    assert strategy.needs_scorer
    with pytest.raises(ConfigError, match=f"mode {mode}.*server_notes"):
        strategy.aggregate(sites(0.1), AggregationContext(1, BEFORE))


def test_the_other_modes_can_start_without() -> None:
    assert not FedMedLoRAPlus().needs_scorer
    assert not FedMedLoRAPlus("cross-eval").needs_scorer


def test_every_option_of_the_study_file_reaches_the_strategy() -> None:
    config = FedMedLoRAPlusConfig(
        mode="learned", merge="factor", size="entities", tuning=PlusTuning(weight_cap=0.5)
    )

    built = config.build()

    assert FedMedLoRAPlusConfig(ranks={"north": 2}).build().ranks == {"north": 2}

    assert (built.mode, built.merge, built.size) == ("learned", "factor", "entities")
    assert built.tuning.weight_cap == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "reference", "tuning": {"weight_cap": 0.5}},
        {"mode": "paper", "tuning": {"momentum": 0.5}},
        {"mode": "learned", "validation_loss": "sequence"},
        {"tuning": {"weight_caps": 0.5}},
        {"mode": "gibbs"},
        {"merge": "products"},
        {"mode": "reference", "ranks": {"site-1": 1}},
        {"mode": "learned", "merge": "factor", "ranks": {"site-1": 1}},
        {"ranks": {"site-1": 0}},
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        FedMedLoRAPlusConfig.model_validate(options)


@dataclass
class Echo:
    """A site that learns nothing, and finds every adapter alike."""

    name: str
    ranks: list[int] = field(default_factory=list)

    def handle(self, request: Request) -> Reply:
        if isinstance(request, Score):
            losses = {name: dict.fromkeys(request.tasks, 0.5) for name in request.adapters}
            return SiteScores(self.name, losses, losses)
        self.ranks.append(request.adapter.spec.rank)
        return site_update(self.name, request.adapter, round_index=request.plan.round_index)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_rounds_without_learning_keep_everything_though_sites_have_several_ranks(
    mode: Mode,
) -> None:
    """Averaging what the sites hold, as FlexLoRA does, loses a part of the tail in every round."""
    start = random_adapter(3, rank=6, rslora=True)
    ranks = {"north": 1, "south": 3}
    sites = {name: Echo(name) for name in ("north", "south", "west")}

    outcome = run_rounds(
        arm="plus",
        strategy=FedMedLoRAPlus(mode, merge="product", ranks=ranks),
        runtime=InProcessRuntime(sites, FP32),
        sites=sites,
        num_rounds=4,
        adapter=start,
        plan=LocalPlan(0),
        seed=11,
        scorer=None if mode == "cross-eval" else ProbeScorer(),
    )

    assert {name: site.ranks for name, site in sites.items()} == {
        "north": [1] * 4,
        "south": [3] * 4,
        "west": [6] * 4,
    }
    assert product_distance(outcome.adapter, start) <= 1e-5 * product_norm(start)
    for record in outcome.records:
        assert record.failed == {}
        assert record.notes["energy_kept"] == pytest.approx(1)
        assert set(record.notes["flags"]) == set(sites)  # all of them: no change
        # No site is judged worse for what its rank could not receive.
        losses = record.notes.get("server_losses", {"": 0.5})
        assert max(losses.values()) == pytest.approx(min(losses.values()), rel=1e-4)


@pytest.mark.parametrize("mode", ["gibbs-auto", "learned", "cross-eval", "auto"])
def test_a_resumed_run_of_every_mode_ends_with_the_same_bits(mode: Mode, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def rounds(num_rounds: int, folder: str | None):  # type: ignore[no-untyped-def]
        names = ("north", "south", "west", "east")
        return run_rounds(
            arm="plus",
            strategy=FedMedLoRAPlus(mode),
            runtime=InProcessRuntime({name: DriftingSite(name) for name in names}, FP32),
            sites=names,
            num_rounds=num_rounds,
            adapter=random_adapter(3),
            plan=LocalPlan(0),
            seed=11,
            scorer=None if mode == "cross-eval" else ProbeScorer(),
            checkpoint=Checkpoint(tmp_path / folder) if folder else None,
        )

    whole = rounds(3, None)
    rounds(2, "run")
    resumed = rounds(3, "run")

    assert resumed.adapter == whole.adapter
    timeless = [
        [replace(r, elapsed_seconds=0.0, site_seconds={}) for r in outcome.records]
        for outcome in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    assert whole.records[1].notes["mode"] == mode
