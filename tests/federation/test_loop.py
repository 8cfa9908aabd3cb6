import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fedmedlora.adapters.codec import BF16, FP32
from fedmedlora.adapters.exchange import (
    LocalPlan,
    Reply,
    Request,
    Score,
    SiteUpdate,
    TaskMetrics,
    Train,
)
from fedmedlora.adapters.state import AdapterState
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.strategy import Aggregate, AggregationContext
from fedmedlora.aggregation.uniform import Uniform
from fedmedlora.aggregation.weighting import equal
from fedmedlora.core.errors import AggregationError, ConfigError
from fedmedlora.core.records import RoundRecord, SilentObserver
from fedmedlora.core.seeds import derive_seed
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import Outcome, run_rounds
from fedmedlora.testing.adapters import DriftingSite, random_adapter

START = random_adapter(0)
PLAN = LocalPlan(0, epochs=1.0, learning_rate=1e-3)


@dataclass
class Spy(SilentObserver):
    records: list[RoundRecord] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def round_ended(self, record: RoundRecord) -> None:
        self.records.append(record)

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass
class Scripted:
    """A site that does as told in some rounds, and drifts in the others."""

    name: str
    faults: dict[int, object]
    plans: list[LocalPlan] = field(default_factory=list)

    def handle(self, request: Request) -> Reply:
        self.plans.append(request.plan)
        fault = self.faults.get(request.plan.round_index)
        if isinstance(fault, Exception):
            raise fault
        reply = DriftingSite(self.name).handle(request)
        return fault(reply) if callable(fault) else reply


def drifting(*names: str) -> dict[str, object]:
    return {name: DriftingSite(name, i + 1) for i, name in enumerate(names)}


def run(handlers: dict[str, object], **options: object) -> Outcome:
    settings = {
        "arm": "fedavg",
        "strategy": FedAvg(),
        "runtime": InProcessRuntime(handlers, FP32),
        "sites": handlers,
        "num_rounds": 2,
        "adapter": START,
        "plan": PLAN,
        "seed": 7,
    }
    return run_rounds(**settings | options)


def with_nan(update: SiteUpdate) -> SiteUpdate:
    module, pair = next(iter(update.adapter.pairs.items()))
    spoilt = replace(pair, A=pair.A * math.nan)
    return replace(
        update, adapter=AdapterState(update.adapter.spec, update.adapter.pairs | {module: spoilt})
    )


def test_two_rounds_are_the_formula_applied_twice() -> None:
    """The oracle trains and averages by hand, without runtime, wire or strategy."""
    adapter = START
    for round_index in (1, 2):
        trained = {}
        for site in ("north", "south"):
            seed = derive_seed(7, "site", site, round_index)
            request = Train(replace(PLAN, round_index=round_index, seed=seed), adapter)
            trained[site] = DriftingSite(site).handle(request).adapter
        adapter = mean_of_factors(trained, {"north": 1 / 3, "south": 2 / 3})
    assert run(drifting("north", "south")).adapter == adapter


def test_the_order_in_which_sites_are_named_changes_no_bit() -> None:
    sites = drifting("a", "b", "c")
    turned = run(sites, sites=["c", "a", "b"])
    assert turned.adapter == run(sites).adapter


def test_sites_train_by_the_studys_plan_with_a_seed_of_their_own_each_round() -> None:
    sites = {name: Scripted(name, {}) for name in ("north", "south")}
    run(sites, arm="one")
    plans = sites["north"].plans + sites["south"].plans
    assert len({plan.seed for plan in plans}) == 4
    assert [plan.round_index for plan in sites["north"].plans] == [1, 2]
    assert {(plan.epochs, plan.learning_rate) for plan in plans} == {(1.0, 1e-3)}


def test_two_arms_that_begin_alike_ask_a_site_for_the_same_first_round() -> None:
    alone, together = Scripted("north", {}), Scripted("north", {})
    run({"north": alone}, arm="single-site/north")
    run({"north": together, "south": DriftingSite("south")}, arm="federated", strategy=Uniform())
    assert alone.plans[0] == together.plans[0]


def test_the_record_says_who_did_what_at_what_cost() -> None:
    runtime_sites = drifting("north", "south")
    spy = Spy()
    outcome = run(runtime_sites, observer=spy, num_rounds=1)
    [record] = outcome.records
    assert spy.records == [record]
    assert (record.arm, record.round_index, record.sites) == ("fedavg", 1, ("north", "south"))
    assert record.weights == {"north": 1 / 3, "south": 2 / 3}
    assert record.num_examples == {"north": 1, "south": 2}
    assert record.num_completion_tokens == {"north": 10, "south": 20}
    assert record.train_loss == {"north": 0.5, "south": 0.5}
    assert record.validation_loss == {"north": 0.75, "south": 0.75}
    assert record.failed == {}
    payload = 4 * START.num_parameters
    for site in ("north", "south"):
        assert payload < record.bytes_up[site] < payload + 2000
        assert payload < record.bytes_down[site] < payload + 2000
        assert record.update_norms[site] > 0
    assert RoundRecord.from_json(record.to_json()) == record


def test_bytes_are_those_of_the_round_and_half_with_bf16() -> None:
    sites = {"north": DriftingSite("north")}
    shapes = {f"layers.{i}.q_proj": (90, 70) for i in range(4)}
    adapter = random_adapter(0, rank=8, shapes=shapes)
    wide = run(sites, adapter=adapter).records
    narrow = run(sites, adapter=adapter, runtime=InProcessRuntime(sites, BF16)).records
    assert wide[0].bytes_up == wide[1].bytes_up
    saved = wide[1].bytes_down["north"] - narrow[1].bytes_down["north"]
    assert saved == 2 * adapter.num_parameters


def test_losses_of_two_tasks_are_weighted_by_tokens_and_nan_stays_out() -> None:
    def two_tasks(update: SiteUpdate) -> SiteUpdate:
        metrics = {
            "entities": TaskMetrics(1, 2, 30, 5, train_loss=1.0, validation_loss=2.0),
            "relations": TaskMetrics(1, 4, 10, 5, train_loss=5.0, validation_loss=4.0),
        }
        return replace(update, metrics=metrics)

    def diverged(update: SiteUpdate) -> SiteUpdate:
        metrics = TaskMetrics(1, 1, 1, 1, train_loss=math.nan, validation_loss=None)
        return replace(update, metrics={"entities": metrics})

    sites = {"north": Scripted("north", {1: two_tasks}), "south": Scripted("south", {1: diverged})}
    [record] = run(sites, num_rounds=1).records
    assert record.train_loss == {"north": 2.0}  # (30 * 1 + 10 * 5) / 40
    assert record.validation_loss == {"north": 3.0}
    assert record.num_examples == {"north": 6, "south": 1}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ValueError("x"), "error"),
        (MemoryError(), "out-of-memory"),
        (with_nan, "non-finite"),
        (lambda update: replace(update, round_index=9), "wrong-round"),
        (lambda update: replace(update, site="north"), "wrong-site"),
        (
            lambda update: replace(update, adapter=random_adapter(1, base_model="x")),
            "foreign-adapter",
        ),
        (lambda update: DriftingSite("south").handle(Score({})), "bad-reply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_site_that_fails_is_left_out_by_name_and_may_return(fault: object, code: str) -> None:
    spy = Spy()
    sites = {"north": DriftingSite("north"), "south": Scripted("south", {1: fault})}
    first, second = run(sites, min_sites=1, observer=spy).records
    assert first.failed == {"south": code}
    assert first.weights == {"north": 1.0}
    assert "south" not in first.update_norms
    assert second.failed == {}
    assert second.sites == ("north", "south")
    assert spy.messages == [f"fedavg, round 1: site south was left out ({code})"]


def test_below_quorum_the_round_is_an_error_that_names_the_sites() -> None:
    sites = {
        "north": DriftingSite("north"),
        "east": Scripted("east", {1: with_nan}),
        "south": Scripted("south", {1: OSError()}),
    }
    with pytest.raises(AggregationError, match=r"at least 2 sites, got 1.*east.*south \(error\)"):
        run(sites, min_sites=2)
    with pytest.raises(AggregationError, match=r"at least 3 sites, got 2.*south \(error\)"):
        run(sites)  # by default nobody may be missing


def test_a_site_that_a_runtime_forgets_is_lost() -> None:
    class Forgetful(InProcessRuntime):
        def call(self, requests, deadline_seconds=None):
            return super().call({"north": requests["north"]}, deadline_seconds)

    sites = drifting("north", "south")
    outcome = run(sites, runtime=Forgetful(sites, FP32), min_sites=1, num_rounds=1)
    assert outcome.records[0].failed == {"south": "lost"}


def test_missing_server_notes_are_noticed_before_any_training() -> None:
    site = Scripted("north", {})
    with pytest.raises(ConfigError, match="server_notes"):
        run({"north": site}, strategy=FedMedLoRAPlus("reference"))
    assert site.plans == []


@pytest.mark.parametrize("min_sites", [0, 2])
def test_an_impossible_quorum_is_refused(min_sites: int) -> None:
    with pytest.raises(ConfigError, match="min_sites"):
        run(drifting("north"), min_sites=min_sites)
    with pytest.raises(ConfigError, match="min_sites"):
        run({})


@dataclass
class Curious:
    """Asks the sites for scores while it aggregates, and remembers what it saw."""

    needs_scorer = False
    contexts: list[AggregationContext] = field(default_factory=list)

    def plan(self, plans, adapter, memory):
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        self.contexts.append(context)
        kept = {update.site: update.adapter for update in updates}
        [scores] = context.call({"north": Score({"mine": kept["north"]})})
        return Aggregate(
            mean_of_factors(kept, equal(kept)),
            equal(kept),
            memory={"count": context.memory.get("count", 0) + 1},
            record={"scores": scores.losses, "odd": [math.inf, (1, 2)]},
        )


def test_a_strategy_may_ask_sites_and_remember() -> None:
    strategy = Curious()
    outcome = run(drifting("north", "south"), strategy=strategy, num_rounds=3)
    assert [context.memory for context in strategy.contexts] == [{}, {"count": 1}, {"count": 2}]
    assert [context.round_index for context in strategy.contexts] == [1, 2, 3]
    assert len({context.seed for context in strategy.contexts}) == 3
    record = outcome.records[0]
    assert record.notes == {"scores": {"mine": {"entities": 0.0}}, "odd": [None, [1, 2]]}
    assert record.bytes_down["north"] > 1.5 * record.bytes_down["south"]  # the question counts


def test_a_round_is_on_disk_before_the_observer_hears_of_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "rounds")

    class Checking(SilentObserver):
        seen = 0

        def round_ended(self, record: RoundRecord) -> None:
            assert checkpoint.latest().record == record
            self.seen += 1

    observer = Checking()
    run(drifting("north"), checkpoint=checkpoint, observer=observer)
    assert observer.seen == 2


def test_no_rounds_give_the_adapter_back() -> None:
    assert run(drifting("north"), num_rounds=0) == Outcome(START, ())
