"""The report draws how each round's weights came about, where a strategy wrote it down."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.geometric_median import GeometricMedian
from fedmedlora.aggregation.greedy_soup import GreedySoup
from fedmedlora.aggregation.multi_krum import MultiKrum
from fedmedlora.aggregation.strategy import Strategy
from fedmedlora.core.records import RoundRecord
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.report.decisions import decision_panels, decisions
from fedmedlora.report.finished_run import read_finished_run
from fedmedlora.report.headline import headline
from fedmedlora.report.page import write_report
from fedmedlora.testing.adapters import DriftingSite, random_adapter
from fedmedlora.testing.scorers import ProbeScorer

SITES = ("clinic", "icu", "ward")
ARM = "fedmedlora-plus-reference"
MakeRun = Callable[..., Path]


def records(
    mode: Any, strategy: Strategy | None = None, sites: tuple[str, ...] = SITES
) -> list[RoundRecord]:
    """Three rounds as the loop writes them down."""
    outcome = run_rounds(
        arm=ARM,
        strategy=strategy or FedMedLoRAPlus(mode),
        runtime=InProcessRuntime({name: DriftingSite(name) for name in sites}, FP32),
        sites=sites,
        num_rounds=3,
        adapter=random_adapter(3),
        plan=LocalPlan(0),
        seed=11,
        scorer=None if mode == "cross-eval" else ProbeScorer(),
    )
    return list(outcome.records)


def others(rounds: list[RoundRecord]) -> list[RoundRecord]:
    return [record for record in rounds if record.arm != ARM]


@pytest.mark.parametrize("mode", ["gibbs-auto", "learned", "cross-eval"])
def test_every_round_is_told_with_its_verdicts_and_every_number_of_every_site(
    make_run: MakeRun, rounds: list[RoundRecord], mode: str
) -> None:
    written = records(mode)
    path = make_run(rounds=[*others(rounds), *written])

    (told,) = decisions(read_finished_run(path))

    assert told.arm == ARM
    assert [r.round_index for r in told.rounds] == [1, 2, 3]
    for shown, record in zip(told.rounds, written, strict=True):
        assert [site for site, _ in shown.rows] == list(SITES)
        for site, cells in shown.rows:
            row = dict(zip(told.headings, cells, strict=True))
            assert row["Weight"] == f"{record.weights[site]:.3f}"
            assert row["Weight proposed"] == f"{record.notes['proposed_weights'][site]:.3f}"
            assert row["Length of change"] == f"{record.notes['delta_norms'][site]:.3f}"
        text = " ".join(shown.sentences)
        taken = record.notes["guard"]["accepted"]
        assert ("The proposed weights were taken" in text) == taken
        assert ("The weights of reference stayed" in text) != taken
        assert ("The merged adapter went out" in text) == record.notes["may_follow"]["accepted"]
        assert f"{record.notes['guard']['difference']:+.4f}" in text
    page = write_report([path]).read_text("utf-8")
    assert page.count("How the weights came about") == 1
    assert f"{written[0].notes['losses']['icu']:.4f}" in page


FIVE = (*SITES, "ambulance", "eye")
STRATEGIES: dict[str, Strategy] = {
    **{mode: FedMedLoRAPlus(mode) for mode in ("reference", "paper", "gibbs-auto", "learned")},
    "cross-eval": FedMedLoRAPlus("cross-eval"),
    "greedy-soup": GreedySoup(),
    "multi-krum": MultiKrum(),
    "geometric-median": GeometricMedian(),
}


def otherwise(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, dict):
        return {key: otherwise(item) for key, item in value.items()} or {FIVE[0]: 0.5}
    if isinstance(value, list):
        return value[1:] or [FIVE[0]]
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else 2 * (value or 0) + 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_whatever_a_strategy_writes_down_is_seen_in_the_report(
    make_run: MakeRun, rounds: list[RoundRecord], name: str
) -> None:
    """Each entry of the record is changed in turn; some table, sentence or curve must change."""
    written = records(name, STRATEGIES[name], FIVE)

    def shown(notes: dict[str, Any]) -> str:
        changed = [dataclasses.replace(written[0], notes=notes), *written[1:]]
        run = read_finished_run(make_run(rounds=[*others(rounds), *changed]))
        return repr(decisions(run)) + repr([panel.svg for panel in decision_panels(run)])

    notes = dict(written[0].notes)
    whole = shown(notes)
    for key, value in notes.items():
        if key == "mode":  # the arm is named by it
            continue
        other = {FIVE[0]: ["norm-clipped"]} if key == "flags" else otherwise(value)
        assert shown(notes | {key: other}) != whole, f"{key} is not in the report"


def test_a_site_that_was_left_out_is_named_beside_the_others_with_the_reason(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    first, *later = records("gibbs-auto")
    first = dataclasses.replace(first, failed={"ambulance": "foreign-adapter"})

    (told,) = decisions(read_finished_run(make_run(rounds=[*others(rounds), first, *later])))

    row = dict(zip(told.headings, dict(told.rounds[0].rows)["ambulance"], strict=True))
    assert row["Findings"] == "left out (foreign-adapter)"
    assert row["Weight"] is None


def test_losses_on_server_notes_are_drawn_beside_that_of_the_adapter_before(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    written = records("gibbs-auto")
    run = read_finished_run(make_run(rounds=[*others(rounds), *written]))

    (panel,) = decision_panels(run)

    tips = re.findall(r"<title>([^<]+)</title>", panel.svg)
    for record in written:
        for site in SITES:
            loss = record.notes["server_losses"][site]
            assert f"{site}, round {record.round_index}: {loss:.4g}" in tips
        before = record.notes["loss_before"]
        assert f"adapter before, round {record.round_index}: {before:.4g}" in tips


def test_votes_are_not_called_losses_on_server_notes(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    run = read_finished_run(make_run(rounds=[*others(rounds), *records("cross-eval")]))

    (told,) = decisions(run)

    assert "Median vote, against the adapter before" in told.headings
    assert "Loss on server notes" not in told.headings
    assert decision_panels(run) == []
    assert "voting sites" in " ".join(told.rounds[0].sentences)


def test_a_run_without_such_strategies_has_no_such_section(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    path = make_run(rounds=rounds)

    assert decisions(read_finished_run(path)) == []
    assert "How the weights came about" not in write_report([path]).read_text("utf-8")


@pytest.mark.parametrize(
    "notes",
    [
        {"server_losses": [1.0], "losses": "much", "delta_norms": {"icu": "long"}},
        {"losses": {"icu": None, "ward": True}, "guard": "yes", "may_follow": {"accepted": "no"}},
        {"losses": {"icu": 1.0}, "guard": {"accepted": True, "difference": None}, "flags": ["x"]},
        {"losses": {"icu": 1.0}, "flags": {"icu": "x"}, "worse_than_before": 3, "rule": 4},
    ],
)
def test_what_another_strategy_put_under_these_names_breaks_no_page(
    make_run: MakeRun, rounds: list[RoundRecord], notes: dict[str, Any]
) -> None:
    from dataclasses import replace

    path = make_run(rounds=[replace(record, notes=notes) for record in rounds])

    assert write_report([path]).is_file()


def test_a_site_whose_name_is_markup_stays_text(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    from dataclasses import replace

    name = "<script>alert(1)</script>"
    changed = [replace(r, notes={"losses": {name: 1.0}, "flags": {name: [name]}}) for r in rounds]

    assert "<script>alert" not in write_report([make_run(rounds=changed)]).read_text("utf-8")


@pytest.mark.parametrize(
    ("strategy", "extra_arm", "told"),
    [
        ({"name": "fedmedlora-plus", "mode": "learned"}, None, "no other arm was given"),
        ({"name": "fedmedlora-plus", "mode": "learned"}, "fedavg+val", "only fedavg+val trained"),
        ({"name": "fedmedlora-plus", "mode": "cross-eval"}, None, None),
        ({"name": "greedy-soup"}, None, "no other arm was given"),
    ],
)
def test_the_summary_says_who_saw_the_servers_notes(
    make_run: MakeRun,
    scores: dict[str, Any],
    strategy: dict[str, Any],
    extra_arm: str | None,
    told: str | None,
) -> None:
    config = {"name": "demo", "server_notes": {"notes_per_site": 4}}
    for arm in scores["arms"]:
        if arm["name"] == ARM:
            arm["strategy"] = strategy
    if extra_arm:
        scores["arms"].append({"name": extra_arm, "condition": "federated", "site": None})

    text = " ".join(headline(read_finished_run(make_run(scores, config=config))))

    assert ("labelled validation notes at the server" in text) == (told is not None)
    assert told is None or told in text
