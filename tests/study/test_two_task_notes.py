"""What the notes of a study give to two tasks: which examples, within which budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.report.page import write_report
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import load_notes
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.study_file import load_study

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]

BOTH = 'tasks=["entities", "relations"]'
ALDER_ENTITIES_ONLY = 'sites.0.tasks=["entities"]'


def made(config: StudyConfig) -> Prepared:
    return prepare(resolve(config, SilentObserver()), SilentObserver())


def modifiers_in(documents: list[Document]) -> list[str]:
    labels = [e.label for document in documents for e in document.entities]
    return [label for label in labels if label in default_schema().modifier_labels]


# Corpora that annotate less -------------------------------------------------------------------


@pytest.fixture
def without_links(bare_study: Path) -> Path:
    """The study with links at none of its corpora."""
    for folder in (bare_study.parent / "hospitals").iterdir():
        rewrite(folder, lambda notes: [replace(d, relations=()) for d in notes])
        edit_card(folder, annotated_relations="[]")
    return bare_study


def rewrite(folder: Path, change: Callable[[list[Document]], list[Document]]) -> None:
    path = folder / "documents.jsonl"
    notes = change(list(read_jsonl(path)))
    path.unlink()  # a link to the shared file
    write_jsonl(path, notes)


def edit_card(folder: Path, **values: str) -> None:
    path = folder / "corpus.toml"
    lines = path.read_text("utf-8").splitlines()
    path.unlink()
    keep = [line for line in lines if line.split(" = ")[0] not in {*values, "num_relations"}]
    keep += [f"{key} = {value}" for key, value in values.items()]
    path.write_text("\n".join(keep), "utf-8")


SMALLER = (
    'sites=[{name="alder-icu", corpus="alder-icu"}, {name="birch-clinic", corpus="birch-clinic"}]',
    'cohorts=[{name="elm-eye", corpus="elm-eye"}]',
    'strategies=[{name="fedavg"}]',
    "arms={zero_shot=false, single_site=false, centralized=false}",
    "training.max_tokens=800",
    "evaluation.max_characters=160",
    "federation.rounds=1",
)


def texts(found: Prepared, site: str) -> tuple[list[str], list[str]]:
    """Prompts and answers of the site's relation examples."""
    tokenizer = found.base.tokenizer
    examples = found.data[site]["relations"].train
    prompts = [tokenizer.decode(e.token_ids[: e.num_prompt_tokens]) for e in examples]
    answers = [tokenizer.decode(e.token_ids[e.num_prompt_tokens :]) for e in examples]
    return prompts, answers


def test_where_no_links_are_annotated_none_are_asked_for_taught_found_or_scored(
    without_links: Path, run: Run, scores: Callable[[Path], Any]
) -> None:
    config = load_study(without_links, [*SMALLER, BOTH])
    prompts, answers = texts(made(config), "birch-clinic")
    assert not any("with the numbers" in prompt for prompt in prompts)
    assert any("</>" in answer for answer in answers)
    assert not any(f"</{n}" in answer for answer in answers for n in range(10))

    path = run(config)

    found = [d for file in (path / "predictions").iterdir() for d in read_jsonl(file)]
    assert modifiers_in(found)
    assert not any(document.relations for document in found)
    told = scores(path)
    assert {row["task"] for row in told["task_results"]} == {"modifiers"}
    assert write_report([path]).is_file()


def test_a_site_without_links_is_asked_without_them_beside_one_that_has_them(
    bare_study: Path,
) -> None:
    folder = bare_study.parent / "hospitals" / "alder-icu"
    rewrite(folder, lambda notes: [replace(d, relations=()) for d in notes])
    edit_card(folder, annotated_relations="[]")
    config = load_study(bare_study, [*SMALLER, BOTH, "arms.single_site=true"])

    found = made(config)

    for site, linked in (("alder-icu", False), ("birch-clinic", True)):
        prompts, _ = texts(found, site)
        assert all(("with the numbers" in prompt) == linked for prompt in prompts)
    asked = {arm.name: any(s.linked for s in found.relating(arm)) for arm in arms_of(config)}
    assert asked == {
        "single-site/alder-icu": False,
        "single-site/birch-clinic": True,
        "fedavg": True,
    }


def test_a_corpus_without_modifiers_cannot_train_relations_and_it_is_said_what_to_do(
    bare_study: Path,
) -> None:
    folder = bare_study.parent / "hospitals" / "alder-icu"
    labels = ("problem", "treatment", "test", "drug")
    rewrite(folder, lambda notes: [d.only_labels(labels) for d in notes])
    edit_card(folder, annotated_relations="[]", annotated_labels=json.dumps(labels))

    with pytest.raises(ConfigError) as caught:
        load_notes(load_study(bare_study, [*SMALLER, BOTH]))
    (fault,) = str(caught.value).splitlines()
    assert fault.startswith("site alder-icu: has no training note with an annotated modifier")
    assert fault.endswith('Give the site tasks = ["entities"].')

    config = load_study(bare_study, [*SMALLER, BOTH, ALDER_ENTITIES_ONLY])
    notes = load_notes(config)
    assert [site.tasks for site in notes.sites] == [("entities",), ("entities", "relations")]
    assert notes.cohorts[0].modifiers == ()


# Budgets and digests --------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 900, 10_000])
def test_the_token_budget_holds_for_each_task(small: Small, budget: int) -> None:
    found = made(small(BOTH, f"training.max_tokens={budget}"))
    alone = made(small(f"training.max_tokens={budget}"))

    for site in ("alder-icu", "birch-clinic"):
        assert found.data[site].keys() == {"entities", "relations"}
        for data in found.data[site].values():
            assert len(data.train) >= 1
            assert data.num_tokens <= budget or len(data.train) == 1
        # A second task takes nothing from the first.
        assert found.data[site]["entities"] == alone.data[site]["entities"]
    assert found.data["pooled"].keys() == {"entities", "relations"}


def test_relations_may_have_a_budget_of_their_own(small: Small) -> None:
    plain = made(small(BOTH, "training.max_tokens=900"))
    found = made(small(BOTH, "training.max_tokens=900", "training.max_relation_tokens=2500"))

    site = "birch-clinic"
    assert found.data[site]["entities"] == plain.data[site]["entities"]
    assert plain.data[site]["relations"].num_tokens <= 900
    assert 900 < found.data[site]["relations"].num_tokens <= 2500


def test_modifiers_in_question_can_be_narrowed(small: Small) -> None:
    found = made(small(BOTH, 'sites.1.modifiers=["temporal", "severity"]'))

    prompts, answers = texts(found, "birch-clinic")
    assert found.notes.sites[1].modifiers == ("severity", "temporal")
    assert all("tag each severity, temporal, with" in prompt for prompt in prompts)
    assert not any("<strength>" in answer for answer in answers)
    with pytest.raises(ConfigError, match="'problem' is not a modifier label"):
        load_notes(small(BOTH, 'sites.1.modifiers=["problem"]'))


def test_links_are_part_of_the_digest_only_where_they_matter(bare_study: Path) -> None:
    entities, both = [*SMALLER], [*SMALLER, BOTH]
    before = [load_notes(load_study(bare_study, which)).digest for which in (entities, both)]
    folder = bare_study.parent / "hospitals" / "birch-clinic"
    rewrite(folder, lambda notes: [replace(d, relations=d.relations[1:]) for d in notes])

    after = [load_notes(load_study(bare_study, which)).digest for which in (entities, both)]

    assert after[0] == before[0]
    assert after[1] != before[1]
    assert before[0] != before[1]
