"""Studies with the guarded modes, damage and the arm that trains on the server's notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.report.page import write_report
from fedmedlora.runs.store import RunStore
from fedmedlora.study.conditions import SERVER, arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.prepare import Prepared, prepare, resolve

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]

MODES = ("auto", "reference", "paper", "gibbs-auto", "learned", "cross-eval")


def plus(*modes: str, **options: Any) -> str:
    tables = [{"name": "fedmedlora-plus", "mode": mode, **options} for mode in modes]
    rows = (", ".join(f"{key} = {_toml(value)}" for key, value in t.items()) for t in tables)
    return "strategies=[" + ", ".join("{" + row + "}" for row in rows) + "]"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def test_modes_and_their_options_make_arms_of_their_own(small: Small) -> None:
    arms = arms_of(small(plus(*MODES)))
    assert [arm.name for arm in arms] == [f"fedmedlora-plus-{mode}" for mode in MODES]

    config = small(
        "strategies=["
        '{name="fedmedlora-plus", mode="learned", merge="factor"},'
        '{name="fedmedlora-plus", mode="learned", tuning={weight_cap=0.5}},'
        '{name="fedmedlora-plus", mode="learned", tuning={momentum=0.5}}'
        "]"
    )
    assert [arm.name for arm in arms_of(config)] == [
        "fedmedlora-plus-learned-factor",
        "fedmedlora-plus-learned-weight_cap-0.5",
        "fedmedlora-plus-learned-momentum-0.5",
    ]


def test_all_modes_side_by_side_leave_their_decisions_in_the_run_and_its_report(
    small: Small, run: Run, scores: Callable[[Path], Any]
) -> None:
    path = run(
        small(
            plus("gibbs-auto", "learned", "cross-eval"),
            "server_notes={notes_per_site=2}",
            "cohorts=[]",
            "split={train=0.5, validation=0.3, test=0.2}",
        )
    )

    names = [f"fedmedlora-plus-{mode}" for mode in ("gibbs-auto", "learned", "cross-eval")]
    assert [arm["name"] for arm in scores(path)["arms"]] == names
    records = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert len(records) == 6
    for record in records:
        notes = record["notes"]
        assert record["arm"].endswith(notes["rule"])
        assert set(notes["proposed_weights"]) == set(record["weights"])
        assert {"guard", "may_follow", "energy_kept", "delta_norms", "cosines"} <= set(notes)
        asked = record["arm"].endswith("cross-eval")
        # beside the global adapter, the other's and the merged ones went down
        assert (min(record["bytes_down"].values()) > 2 * max(record["bytes_up"].values())) == asked
    page = write_report([path]).read_text("utf-8")
    assert page.count("<details><summary>fedmedlora-plus-") == 3


def test_sites_of_several_ranks_learn_in_one_study_in_every_mode(small: Small, run: Run) -> None:
    path = run(
        small(
            plus("gibbs-auto", "learned", "cross-eval", ranks={"alder-icu": 1}),
            "lora.rank=4",
            "lora.alpha=8",
            "server_notes={notes_per_site=2}",
            "cohorts=[]",
            "split={train=0.5, validation=0.3, test=0.2}",
        )
    )

    records = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert len(records) == 6
    for record in records:
        assert record["failed"] == {}
        assert record["notes"]["flags"] == {}
        # A quarter of the rank, a quarter of the bytes, and what every message has beside.
        up = record["bytes_up"]
        assert up["alder-icu"] < 0.5 * up["birch-clinic"]
    assert write_report([path]).is_file()


def test_cross_eval_needs_no_notes_at_the_server(tiny_study: Path, small: Small, run: Run) -> None:
    from fedmedlora.study.study_file import load_study

    text = tiny_study.read_text("utf-8")
    bare = tiny_study.with_name("no-server-notes.toml")
    bare.write_text(
        text.replace("[server_notes]\nnotes_per_site = 1\nmax_tokens = 900\n", ""), "utf-8"
    )
    fixed = ["arms.zero_shot=false", "arms.single_site=false", "arms.centralized=false"]

    for mode in ("cross-eval", "auto"):
        assert load_study(bare, [*fixed, plus(mode)]).server_notes is None
    for mode in ("reference", "gibbs-auto", "learned"):
        with pytest.raises(ConfigError, match=r"expected \[server_notes\], got none"):
            load_study(bare, [*fixed, plus(mode)])
    with pytest.raises(ConfigError, match=r"arms.fedavg_val: expected \[server_notes\]"):
        load_study(bare, [*fixed, "arms.fedavg_val=true", "strategies=[]"])


@pytest.fixture(scope="module")
def with_server_site(small: Small) -> Prepared:
    config = small("arms.fedavg_val=true", "training.negatives=0.0")
    return prepare(resolve(config, SilentObserver()), SilentObserver())


def test_fedavg_val_trains_on_the_notes_that_others_weigh_by_as_one_more_site(
    with_server_site: Prepared,
) -> None:
    arm = arms_of(with_server_site.config)[-1]

    assert (arm.name, arm.condition) == ("fedavg+val", "federated")
    assert arm.sites == ("alder-icu", "birch-clinic", SERVER)
    assert with_server_site.server_notes is not None
    scored = {
        example
        for found in with_server_site.server_notes._notes.values()
        for note in found
        for example in note.examples
    }
    trained = with_server_site.data[SERVER]["entities"].train
    assert set(trained) == {example for example in scored if example.num_entities}
    held_out = {d.id for site in with_server_site.notes.sites for d in site.test}
    assert not held_out & {example.document_id for example in trained}


def test_a_study_with_fedavg_val_and_damage_runs_to_its_report(
    small: Small, run: Run, scores: Callable[[Path], Any]
) -> None:
    path = run(
        small("arms.fedavg_val=true", 'data.damage={site="alder-icu", share=0.5}', "cohorts=[]")
    )

    assert [arm["name"] for arm in scores(path)["arms"]] == ["fedavg", "fedavg+val"]
    last = json.loads((path / "rounds.jsonl").read_text().splitlines()[-1])
    assert set(last["weights"]) == {"alder-icu", "birch-clinic", SERVER}
    assert RunStore.open(path).config["data"]["damage"] == {
        "site": "alder-icu",
        "kind": "flip-labels",
        "share": 0.5,
    }
    page = write_report([path]).read_text("utf-8")
    assert "Of the training notes of alder-icu, 50 % of the entities were given" in page


def test_no_site_may_be_called_as_the_server_is(small: Small) -> None:
    with pytest.raises(ConfigError, match="stands for the notes of the server"):
        small(f"sites.0.name={SERVER}")


OWN = 'server_notes={corpora=[{name="public", corpus="dogwood-triage"}], notes_per_site=3}'


def test_the_server_may_judge_by_a_corpus_of_its_own(
    small: Small, run: Run, scores: Callable[[Path], Any]
) -> None:
    config = small(OWN, plus("reference", "gibbs-auto"), 'tasks=["entities", "relations"]')
    found = prepare(resolve(config, SilentObserver()), SilentObserver())

    assert found.server_notes is not None
    given = found.server_notes.notes
    assert set(given) == {"entities", "relations"}
    assert {giver for notes in given.values() for giver, _ in notes} == {"public"}
    assert [len(notes) for notes in given.values()] == [3, 3]
    assert [cohort.name for cohort in found.notes.cohorts][:2] == ["alder-icu", "birch-clinic"]

    path = run(config)

    weighed = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert all(set(record["weights"]) == {"alder-icu", "birch-clinic"} for record in weighed)
    assert scores(path)["results"]


def test_sites_give_notes_beside_the_servers_own_only_if_they_are_named(small: Small) -> None:
    both = OWN.replace("{corpora", '{sites=["birch-clinic"], corpora')
    found = prepare(resolve(small(both), SilentObserver()), SilentObserver())
    assert found.server_notes is not None
    givers = [giver for giver, _ in found.server_notes.notes["entities"]]
    assert set(givers) == {"birch-clinic", "public"}


def test_long_notes_are_as_many_as_short_ones_within_the_budget(small: Small) -> None:
    """Losses are means over notes: one long note must not be all that speaks for its site."""
    server = "server_notes={notes_per_site=3, max_tokens=MOST}"
    split = "split={train=0.4, validation=0.4, test=0.2}"

    def windows(most: int) -> dict[str, int]:
        config = small(server.replace("MOST", str(most)), split, "training.max_tokens=400")
        found = prepare(resolve(config, SilentObserver()), SilentObserver())
        assert found.server_notes is not None
        assert found.server_notes.num_tokens <= most
        notes = found.server_notes._notes["entities"]
        return {f"{note.giver.name}/{note.document.id}": len(note.examples) for note in notes}

    everything, little = windows(100_000), windows(1_200)
    assert len(everything) == 6
    assert little.keys() == everything.keys()
    assert sum(little.values()) < sum(everything.values())
    assert all(1 <= little[note] <= everything[note] for note in little)


@pytest.mark.parametrize("taken", ["alder-icu", "elm-eye"])
def test_the_servers_own_corpus_is_not_trained_or_tested_on(small: Small, taken: str) -> None:
    with pytest.raises(ConfigError, match="judge by notes that are trained or tested on"):
        small(OWN.replace("dogwood-triage", taken), 'cohorts=[{name="elm", corpus="elm-eye"}]')


@pytest.fixture(scope="module")
def both_tasks(small: Small) -> Prepared:
    config = small(
        'tasks=["entities", "relations"]',
        "federation.clients=task",
        'arms.tasks=["mix", "entities", "relations"]',
        "arms.fedavg_val=true",
        "server_notes={notes_per_site=2}",
        "split={train=0.5, validation=0.3, test=0.2}",
        plus("gibbs-auto"),
    )
    return prepare(resolve(config, SilentObserver()), SilentObserver())


def test_with_two_tasks_the_server_scores_each_on_its_own(both_tasks: Prepared) -> None:
    notes = both_tasks.server_notes
    assert notes is not None
    losses = notes.loss(both_tasks.initial).completion
    assert sorted(losses) == ["entities", "relations"]
    assert {len(found) for found in losses.values()} == {4}

    known = notes.labels_of("alder-icu.relations", "relations")
    assert known == notes.labels_of("alder-icu", "relations")
    alone = notes.of_tasks(("relations",))
    assert alone is not None
    assert list(alone.loss(both_tasks.initial).completion) == ["relations"]
    asked = notes.asking("entities", {"problem"})
    assert asked is not None
    assert list(asked.loss(both_tasks.initial).completion) == ["entities"]
    assert notes.asking("relations", {"problem"}) is None
    gradient = notes.weight_gradient({"a": both_tasks.initial}, {"a": 1.0}, "product")
    assert gradient == {"a": 0.0}  # B is zero


def test_with_two_tasks_fedavg_val_has_the_tasks_of_its_arm(both_tasks: Prepared) -> None:
    arms = {arm.name: arm for arm in arms_of(both_tasks.config)}

    assert arms["fedavg+val"].client_tasks[SERVER] == ("entities", "relations")
    assert arms["fedavg+val-relations"].client_tasks[SERVER] == ("relations",)
    assert set(both_tasks.data[SERVER]) == {"entities", "relations"}
