"""The server's notes in a study of two tasks: judged by the tasks that an arm trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.strategy import LINKS
from fedmedlora.aggregation.validation import measure
from fedmedlora.core.example import Task
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import LoRAModel
from fedmedlora.report.page import write_report
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.server_notes import ServerNotes
from fedmedlora.training.batches import EncodedExample

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]

BOTH = 'tasks=["entities", "relations"]'
SITES = ("alder-icu", "birch-clinic")
# Alder trains entities only; both give two notes.
OVERRIDES = (
    BOTH,
    'sites.0.tasks=["entities"]',
    "server_notes={notes_per_site=2, max_tokens=100000}",
    "split={train=0.5, validation=0.3, test=0.2}",
)


@pytest.fixture(scope="module")
def two_tasks(small: Small) -> Prepared:
    return prepare(resolve(small(*OVERRIDES), SilentObserver()), SilentObserver())


@pytest.fixture(scope="module")
def notes(two_tasks: Prepared) -> ServerNotes:
    assert two_tasks.server_notes is not None
    return two_tasks.server_notes


def moved(prepared: Prepared, seed: int) -> AdapterState:
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


def of_tasks(notes: ServerNotes, *tasks: Task) -> ServerNotes:
    found = notes.of_tasks(tasks)
    assert found is not None
    return found


def words(prepared: Prepared, example: EncodedExample) -> str:
    return prepared.base.tokenizer.decode(example.token_ids[: example.num_prompt_tokens])


def test_a_site_gives_notes_for_the_tasks_that_it_trains_and_counts_in_no_other(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    givers = {task: [site for site, _ in found] for task, found in notes.notes.items()}

    assert set(givers["entities"]) == set(SITES)
    assert set(givers["relations"]) == {"birch-clinic"}
    by_site = {site.name: site for site in two_tasks.notes.sites}
    for found in notes.notes.values():
        for site, note in found:
            assert note in {document.id for document in by_site[site].validation}
    # Both tasks are asked of the same notes.
    assert notes.notes["relations"] == [n for n in notes.notes["entities"] if n[0] == SITES[1]]


def test_relations_are_asked_between_gold_entities_for_what_the_site_annotated(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    birch = two_tasks.notes.sites[1]
    prompts = [words(two_tasks, e) for n in notes._notes["relations"] for e in n.examples]

    assert all(", ".join(birch.modifiers) + ", with the numbers" in p for p in prompts)
    assert any("<1 " in prompt for prompt in prompts)
    assert {e.task for n in notes._notes["relations"] for e in n.examples} == {"relations"}


def test_the_loss_is_a_mean_by_note_within_a_task_and_then_over_the_tasks(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    """The oracle: transformers' own forward pass in float64, one example at a time."""
    model = load_base(two_tasks.config.model.base, dtype=torch.float64).model
    expected: dict[Task, list[float]] = {}
    for task, given in notes._notes.items():
        expected[task] = []
        for note in given:
            lost = []
            for example in note.examples:
                ids = torch.tensor([example.token_ids])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, :-1]
                losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
                lost.append(losses[example.num_prompt_tokens - 1 :])
            expected[task].append(float(torch.cat(lost).mean()))

    # An untrained adapter changes nothing.
    found = notes.loss(two_tasks.initial)

    assert len(expected["entities"]) == 4
    assert len(expected["relations"]) == 2
    for task, losses in expected.items():
        assert found.completion[task] == pytest.approx(losses, rel=1e-4)
    by_task = [np.mean(losses) for losses in expected.values()]
    assert found.mean() == pytest.approx(np.mean(by_task), rel=1e-4)
    assert by_task[0] != pytest.approx(by_task[1], rel=1e-2)  # else any mixture would do


def test_an_arm_is_judged_by_its_own_tasks_only(two_tasks: Prepared, notes: ServerNotes) -> None:
    adapter = moved(two_tasks, 1)
    whole = notes.loss(adapter)

    for task in ("entities", "relations"):
        alone = of_tasks(notes, task)
        assert alone.notes == {task: notes.notes[task]}
        assert alone.loss(adapter).mean() == pytest.approx(np.mean(whole.completion[task]))
    assert whole.mean() == pytest.approx(
        np.mean([np.mean(losses) for losses in whole.completion.values()])
    )
    assert of_tasks(notes, "entities", "relations").notes == notes.notes


@pytest.mark.parametrize("merge", ["product", "factor"])
def test_the_slope_of_both_tasks_is_the_mean_of_their_slopes_and_that_of_the_mean_loss(
    two_tasks: Prepared, merge: str
) -> None:
    config = two_tasks.config
    assert config.server_notes is not None
    base = load_base(config.model.base, dtype=torch.float64)
    model = LoRAModel(base, two_tasks.initial.spec)
    notes = ServerNotes(config, config.server_notes, two_tasks.notes.sites, model, two_tasks.tags)
    adapters = {"a": moved(two_tasks, 1), "b": moved(two_tasks, 2)}

    both = notes.weight_gradient(adapters, {"a": 0.6, "b": 0.4}, merge)

    alone = [
        of_tasks(notes, task).weight_gradient(adapters, {"a": 0.6, "b": 0.4}, merge)
        for task in ("entities", "relations")
    ]
    for site, slope in both.items():
        assert slope == pytest.approx((alone[0][site] + alone[1][site]) / 2, rel=1e-4, abs=1e-7)
        assert alone[0][site] != pytest.approx(alone[1][site], rel=1e-3)
    # Along one site alone the merged adapter is that site's, with its B (or both factors) scaled.
    step = 1e-3
    ends = []
    for weight in (1 + step, 1 - step):
        scaled = {
            m: LoRAPair(A=p.A * (weight if merge == "factor" else 1), B=p.B * weight)
            for m, p in adapters["a"].pairs.items()
        }
        ends.append(notes.loss(AdapterState(two_tasks.initial.spec, scaled)).mean())
    found = notes.weight_gradient({"a": adapters["a"]}, {"a": 1.0}, merge)["a"]
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


def test_what_tells_sites_apart_is_told_task_by_task(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    alder, birch = two_tasks.notes.sites

    assert notes.labels_of("alder-icu", "entities") == set(alder.labels)
    assert notes.labels_of("birch-clinic", "entities") == set(birch.labels)
    for name in ("birch-clinic", "birch-clinic.relations"):
        assert notes.labels_of(name, "relations") == {*birch.modifiers, LINKS}
    assert notes.labels_of("birch-clinic.coding", "entities") is None


def test_asked_for_fewer_modifiers_a_note_shows_the_same_entities(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    asked = notes.asking("relations", {"temporal", LINKS})

    assert asked is not None
    assert list(asked._notes) == ["relations"]
    assert {note.labels for note in asked._notes["relations"]} == {("temporal",)}
    # Entities are given, not asked for: a narrower question leaves them in the prompt.
    for before, after in zip(notes._notes["relations"], asked._notes["relations"], strict=True):
        for one, other in zip(before.examples, after.examples, strict=True):
            passages = [words(two_tasks, e).split("Text:\n")[1] for e in (one, other)]
            assert passages[0] == passages[1]
    assert notes.asking("relations", {"problem", LINKS}) is None
    everything = notes.labels_of("birch-clinic", "relations")
    assert everything is not None
    assert notes.asking("relations", everything) is notes


def test_without_links_modifiers_are_asked_for_and_not_what_they_belong_to(
    two_tasks: Prepared, notes: ServerNotes
) -> None:
    birch = two_tasks.notes.sites[1]

    asked = notes.asking("relations", set(birch.modifiers))

    assert asked is not None
    examples = [e for note in asked._notes["relations"] for e in note.examples]
    assert not any("with the numbers" in words(two_tasks, example) for example in examples)
    answers = [
        two_tasks.base.tokenizer.decode(e.token_ids[e.num_prompt_tokens :]) for e in examples
    ]
    assert any("</>" in answer for answer in answers)
    assert not any(f"</{number}" in answer for answer in answers for number in range(10))
    assert notes.asking("relations", {LINKS}) is None  # a link has to be of something


# Sites that annotate other things ----------------------------------------------------------------

# Sets overlap, and none contains another: in problems and, of the modifiers, in `temporal`.
OWN_LABELS = (
    BOTH,
    'sites.0.labels=["problem", "test"]',
    'sites.1.labels=["problem", "treatment"]',
    'sites.0.modifiers=["temporal", "bodyloc"]',
    'sites.1.modifiers=["temporal", "severity"]',
    "server_notes={notes_per_site=3, max_tokens=100000}",
    "split={train=0.4, validation=0.4, test=0.2}",
)


@pytest.fixture(scope="module")
def own_labels(small: Small) -> Prepared:
    return prepare(resolve(small(*OWN_LABELS), SilentObserver()), SilentObserver())


def test_sites_are_compared_on_the_labels_that_both_annotate_task_by_task(
    own_labels: Prepared,
) -> None:
    """The oracle asks by hand: prompts for the shared labels only, and a paired difference."""
    notes = own_labels.server_notes
    assert notes is not None
    adapters = {site: moved(own_labels, seed) for seed, site in enumerate(SITES, 1)}
    tasks = {site: {"entities", "relations"} for site in SITES}

    found = measure(notes, adapters, tasks, own_labels.initial).judge(2.0)

    gaps = []
    for task, shared in (("entities", {"problem"}), ("relations", {"temporal", LINKS})):
        asked = notes.asking(task, shared)
        assert asked is not None
        examples = [e for note in asked._notes[task] for e in note.examples]
        label = next(iter(shared - {LINKS}))
        other = {"treatment", "test", "severity", "bodyloc"}
        instructions = [words(own_labels, e).split("\nText:")[0] for e in examples]
        assert all(label in text for text in instructions)
        assert not any(word in text for text in instructions for word in other)
        one, two = (asked.loss(adapters[site]).completion[task] for site in SITES)
        gaps.append(two - one)
    mean = np.mean([gap.mean() for gap in gaps])
    errors = [stats.ttest_rel(gap, np.zeros_like(gap)) for gap in gaps]
    assert found.losses[SITES[1]] - found.losses[SITES[0]] == pytest.approx(mean, rel=1e-6)
    worse = max(found.losses, key=found.losses.__getitem__)
    expected = np.mean([abs(gap.mean() / e.statistic) for gap, e in zip(gaps, errors, strict=True)])
    assert found.standard_errors[worse] == pytest.approx(expected, rel=1e-6)
    assert found.noise == found.standard_errors[worse]


@pytest.mark.parametrize("mode", ["gibbs-auto", "learned"])
def test_guarded_modes_learn_in_a_study_whose_sites_annotate_other_modifiers(
    small: Small, run: Run, mode: str
) -> None:
    """Nothing was compared here once: neither site's labels of both tasks hold the other's."""
    path = run(
        small(
            *OWN_LABELS,
            f'strategies=[{{name="fedmedlora-plus", mode="{mode}"}}]',
            "cohorts=[]",
            'arms.tasks=["mix", "relations"]',
        )
    )

    records = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert len(records) == 4  # two arms, two rounds
    for record in records:
        told = record["notes"]
        assert told["not_compared"] == []
        assert set(told["losses"]) == set(SITES)
        assert 0 < told["noise"] < 10
        assert told["guard"]["num_notes"] >= 4
        assert told["proposed_weights"] != pytest.approx(told["prior"], abs=1e-6)
        assert set(record["tasks"]["alder-icu"]) == (
            {"relations"} if record["arm"].endswith("-relations") else {"entities", "relations"}
        )
    assert write_report([path]).is_file()


def test_halves_and_draws_part_each_task(notes: ServerNotes) -> None:
    for which in (0, 1):
        half = notes.half(which).notes
        assert half == {task: found[which::2] for task, found in notes.notes.items()}
    drawn = notes.drawn(2, seed=5)
    assert {task: len(found) for task, found in drawn.notes.items()} == {
        "entities": 2,
        "relations": 2,
    }


def test_the_token_budget_is_shared_by_sites_and_tasks(small: Small) -> None:
    config = small(*OVERRIDES, "server_notes.max_tokens=1500")
    found = prepare(resolve(config, SilentObserver()), SilentObserver())
    assert found.server_notes is not None

    sizes: dict[tuple[str, str], list[int]] = {}
    for task, given in found.server_notes._notes.items():
        for note in given:
            sizes.setdefault((task, note.giver.name), []).extend(
                len(example.token_ids) for example in note.examples
            )
    assert sizes.keys() == {
        ("entities", "alder-icu"),
        ("entities", "birch-clinic"),
        ("relations", "birch-clinic"),
    }
    for lengths in sizes.values():
        assert sum(lengths) <= 500 or len(lengths) == 1


def test_strategies_that_weigh_by_notes_run_in_arms_of_one_and_of_two_tasks(
    small: Small, run: Run
) -> None:
    modes = ("reference", "gibbs-auto")
    strategies = ", ".join(f'{{name="fedmedlora-plus", mode="{mode}"}}' for mode in modes)
    config = small(
        *OVERRIDES,
        f"strategies=[{strategies}]",
        "cohorts=[]",
        "federation.rounds=1",
        'arms.tasks=["mix", "relations"]',
        "arms.fedavg_val=true",
    )
    path = run(config)

    lines = (path / "rounds.jsonl").read_text("utf-8").splitlines()
    records = {record["arm"]: record for record in map(json.loads, lines)}
    assert set(records) == {arm.name for arm in arms_of(config) if arm.strategy}
    for name, record in records.items():
        assert sum(record["weights"].values()) == pytest.approx(1)
        expected = {"birch-clinic"} if name.endswith("-relations") else set(SITES)
        assert set(record["weights"]) - {"server-notes"} == expected
    for name in ("fedavg+val", "fedavg+val-relations"):
        tasks = records[name]["tasks"]["server-notes"]
        assert list(tasks) == (
            ["relations"] if name.endswith("-relations") else ["entities", "relations"]
        )
    assert write_report([path]).is_file()
