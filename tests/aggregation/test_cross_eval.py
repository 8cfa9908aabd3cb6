"""Sites judge each other's adapters: nobody votes for itself, and one liar or failure is borne."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedmedlora.adapters.exchange import (
    Reply,
    Request,
    Score,
    SiteFailure,
    SiteScores,
    SiteUpdate,
)
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.aggregation.tuning import PlusTuning
from fedmedlora.core.errors import AggregationError, ConfigError
from fedmedlora.core.seeds import numpy_rng
from fedmedlora.testing.adapters import random_adapter, site_update

BEFORE = random_adapter(0)
GOAL = random_adapter(99)
NO_MOMENTUM = PlusTuning(momentum=0.0)
TASKS = ("entities", "relations")
SITES = ("ash", "beech", "cedar", "dogwood", "elm")


def at(distance: float, seed: int) -> AdapterState:
    """An adapter whose product is the goal's plus so much noise."""
    pairs = {}
    for module, pair in GOAL.pairs.items():
        noise = numpy_rng(seed, module).normal(size=tuple(pair.B.shape))
        pairs[module] = LoRAPair(A=pair.A, B=pair.B + distance * pair.B.new_tensor(noise))
    return AdapterState(GOAL.spec, pairs)


@dataclass
class Hospitals:
    """Sites whose loss is how far an adapter's product is from the goal, and some noise.

    Gaps are of the size that fine-tuning leaves: `reference` hardly sees them.
    """

    lies: Mapping[str, float] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    asked: list[tuple[str, Score]] = field(default_factory=list)

    def call(self, requests: Mapping[str, Request]) -> Iterator[Reply]:
        for site, request in requests.items():
            assert isinstance(request, Score)
            self.asked.append((site, request))
            if site in self.silent:
                yield SiteFailure(site, "out-of-memory")
                continue
            losses = {
                name: {"entities": self.loss(site, adapter)}
                for name, adapter in request.adapters.items()
            }
            errors = {name: {"entities": 0.05} for name in losses}
            yield SiteScores(site, losses, errors)

    def loss(self, site: str, adapter: AdapterState) -> float:
        if site in self.lies:
            return self.lies[site] * float(adapter.pairs[next(iter(adapter.pairs))].B.sum())
        far = sum(
            float((pair.B @ pair.A - GOAL.pairs[m].B @ GOAL.pairs[m].A).square().mean())
            for m, pair in adapter.pairs.items()
        )
        own = numpy_rng(1, site, adapter.digest()[:8]).normal()
        return 0.1 + far / 40 + 0.0005 * own


def updates(*distances: float) -> list[SiteUpdate]:
    return [
        site_update(site, at(distance, seed))
        for seed, (site, distance) in enumerate(zip(SITES, distances, strict=False))
    ]


def aggregate(sites: list[SiteUpdate], hospitals: Hospitals, **options: object):  # type: ignore[no-untyped-def]
    context = AggregationContext(1, BEFORE, seed=5, call=hospitals.call)
    strategy = FedMedLoRAPlus("cross-eval", tuning=NO_MOMENTUM, **options)
    return strategy.aggregate(sites, context)


def test_a_bad_site_weighs_little_once_the_others_have_seen_its_adapter() -> None:
    result = aggregate(updates(0.1, 0.12, 0.9, 0.11, 0.1), Hospitals())

    assert result.record["rule"] == "cross-eval"
    assert result.record["guard"]["accepted"]
    assert result.record["may_follow"]["accepted"]
    assert result.weights["cedar"] < 0.01
    assert result.record["incumbent_weights"]["cedar"] > 0.15
    assert math.fsum(result.weights.values()) == pytest.approx(1)
    assert max(result.weights, key=result.weights.__getitem__) != "cedar"


def test_no_site_scores_its_own_adapter_or_learns_whose_it_scores() -> None:
    hospitals = Hospitals()
    sites = updates(0.1, 0.2, 0.3, 0.4, 0.5)
    aggregate(sites, hospitals)

    own = {update.site: update.adapter.digest() for update in sites}
    first = hospitals.asked[: len(sites)]
    assert [site for site, _ in first] == sorted(own)
    orders = []
    for site, request in first:
        digests = {name: adapter.digest() for name, adapter in request.adapters.items()}
        assert own[site] not in digests.values()
        assert set(digests) == {f"adapter-{i}" for i in range(1, 6)}  # four others and the old one
        names = {digest: name for name, digest in digests.items()}
        orders.append([names.get(own[other]) for other in sorted(own) if other != site])
    assert len({tuple(order) for order in orders}) > 1  # the number does not tell the site


def test_the_reported_training_loss_counts_for_nothing() -> None:
    from dataclasses import replace

    def boasting(update: SiteUpdate) -> SiteUpdate:
        metrics = {task: replace(m, train_loss=0.0) for task, m in update.metrics.items()}
        return replace(update, metrics=metrics)

    sites = updates(0.1, 0.12, 0.9, 0.11, 0.1)
    honest = aggregate(sites, Hospitals())
    boasted = aggregate([boasting(update) for update in sites], Hospitals())

    assert boasted.weights == honest.weights


@pytest.mark.parametrize("lie", [1e6, -1e6, math.nan, math.inf])
def test_one_lying_voter_cannot_turn_the_round(lie: float) -> None:
    sites = updates(0.1, 0.12, 0.9, 0.11, 0.1)
    truth = aggregate(sites, Hospitals())

    result = aggregate(sites, Hospitals(lies={"beech": lie}))

    assert result.record["may_follow"]["accepted"]
    assert result.record["proposed_weights"]["cedar"] < 0.05
    assert result.refused == truth.refused == {}


def test_a_site_that_does_not_answer_has_no_vote_but_is_judged() -> None:
    result = aggregate(updates(0.1, 0.12, 0.9, 0.11, 0.1), Hospitals(silent=("elm",)))

    assert result.record["without_vote"] == ["elm"]
    assert result.weights["elm"] > 0.05
    assert "elm" in result.record["losses"]
    assert result.weights["cedar"] < 0.01


def test_without_any_answer_all_sites_weigh_alike() -> None:
    result = aggregate(updates(0.1, 0.2, 0.3), Hospitals(silent=SITES))

    assert result.weights == pytest.approx(dict.fromkeys(SITES[:3], 1 / 3))
    assert not result.record["guard"]["accepted"]
    assert result.record["may_follow"]["accepted"]


def test_two_sites_are_too_few_to_check_and_the_published_rule_stands() -> None:
    result = aggregate(updates(0.1, 3.0), Hospitals())

    gap = result.record["losses"]["beech"] - result.record["losses"]["ash"]
    assert not result.record["guard"]["accepted"]
    ratio = result.record["incumbent_weights"]["ash"] / result.record["incumbent_weights"]["beech"]
    assert ratio == pytest.approx(math.exp(gap))


class TwoTasks(Hospitals):
    """Everybody's relations are 2 worse where they were not trained, and hard for all."""

    def call(self, requests: Mapping[str, Request]) -> Iterator[Reply]:
        for site, request in requests.items():
            assert isinstance(request, Score)
            losses = {}
            for name, adapter in request.adapters.items():
                known = "dogwood" not in WHOSE.get(adapter.digest(), "")
                each = {"entities": 0.0, "relations": 1.0 if known else 3.0}
                losses[name] = {t: self.loss(site, adapter) + each[t] for t in request.tasks}
            errors = {name: dict.fromkeys(row, 0.05) for name, row in losses.items()}
            yield SiteScores(site, losses, errors)


WHOSE: dict[str, str] = {}


def test_a_site_of_entities_only_is_not_punished_for_relations() -> None:
    from dataclasses import replace

    sites = updates(0.5, 0.5, 0.5, 0.1, 0.5)
    WHOSE.update({update.adapter.digest(): update.site for update in sites})
    both = [
        update
        if update.site == "dogwood"
        else replace(update, metrics=dict.fromkeys(TASKS, update.metrics["entities"]))
        for update in sites
    ]

    result = aggregate(both, TwoTasks())

    assert min(result.record["losses"], key=result.record["losses"].__getitem__) == "dogwood"
    assert result.record["proposed_weights"]["dogwood"] > 0.2
    assert result.refused == {}


def test_a_site_is_not_judged_by_those_that_share_no_task_with_it() -> None:
    from dataclasses import replace

    sites = updates(0.1, 0.12, 0.9, 0.11, 0.1)
    links = {"ash", "beech"}
    apart = [
        replace(u, metrics={"relations" if u.site in links else "entities": u.metrics["entities"]})
        for u in sites
    ]

    result = aggregate(apart, TwoTasks())

    votes = result.record["votes"]
    assert {voter: set(given) for voter, given in votes.items()} == {
        "ash": {"beech"},
        "beech": {"ash"},
        "cedar": {"dogwood", "elm"},
        "dogwood": {"cedar", "elm"},
        "elm": {"cedar", "dogwood"},
    }


def test_sites_without_notes_of_their_own_have_no_vote_and_refuse_nobody() -> None:
    class Bare(Hospitals):
        def call(self, requests: Mapping[str, Request]) -> Iterator[Reply]:
            for reply in super().call(requests):
                bare = reply.site != "ash"
                yield SiteScores(reply.site, {}, {}) if bare else reply

    result = aggregate(updates(0.1, 0.12, 0.9, 0.11, 0.1), Bare())

    assert result.refused == {}
    assert result.record["without_vote"] == ["beech", "cedar", "dogwood", "elm"]


def test_a_site_alone_is_taken_as_it_is_and_nobody_is_asked() -> None:
    hospitals = Hospitals()
    result = aggregate(updates(0.3), hospitals)

    assert result.weights == {"ash": 1.0}
    assert hospitals.asked == []


def test_an_adapter_without_a_finite_loss_is_refused_and_all_such_are_an_error() -> None:
    class Picky(Hospitals):
        def loss(self, site: str, adapter: AdapterState) -> float:
            broken = float(adapter.pairs[next(iter(adapter.pairs))].B.abs().max()) > 50
            return math.nan if broken else super().loss(site, adapter)

    result = aggregate(updates(0.1, 0.12, 1000.0, 0.11), Picky())
    assert result.refused == {"cedar": "non-finite-loss"}
    assert "cedar" not in result.weights
    with pytest.raises(AggregationError, match="finite loss on other sites' notes"):
        aggregate(updates(900.0, 1000.0, 1100.0), Picky())


def test_an_adapter_that_all_find_worse_than_the_old_one_is_turned_away() -> None:
    class Backwards(Hospitals):
        def loss(self, site: str, adapter: AdapterState) -> float:
            return 0.05 if adapter == BEFORE else super().loss(site, adapter)

    result = aggregate(updates(0.1, 0.2, 0.15, 0.12), Backwards())

    assert not result.record["may_follow"]["accepted"]
    assert result.adapter == BEFORE
    assert math.fsum(result.weights.values()) == pytest.approx(1)


def test_the_order_of_arrival_changes_nothing() -> None:
    sites = updates(0.1, 0.12, 0.9, 0.11, 0.1)
    rng = np.random.default_rng(0)

    first = aggregate(sites, Hospitals())
    second = aggregate([sites[i] for i in rng.permutation(5)], Hospitals())

    assert first.weights == second.weights
    assert first.adapter == second.adapter
    assert first.record == second.record


def test_without_a_way_to_ask_sites_the_mode_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"server_notes.*`fedavg` or `uniform`"):
        FedMedLoRAPlus("cross-eval").aggregate(updates(0.1), AggregationContext(1, BEFORE))


def test_auto_asks_the_sites_where_the_server_has_no_notes() -> None:
    context = AggregationContext(1, BEFORE, call=Hospitals().call)

    result = FedMedLoRAPlus().aggregate(updates(0.1, 0.12, 0.3), context)

    assert result.record["rule"] == "cross-eval"
    assert result.record["mode"] == "auto"
