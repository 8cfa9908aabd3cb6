"""Studies in which one adapter learns to mark entities, and modifiers with what they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.inference.decoder import WindowAnswer
from fedmedlora.inference.generate_decoder import GenerateDecoder
from fedmedlora.report.page import write_report
from fedmedlora.runs.store import RunStore
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import load_notes
from fedmedlora.study.extract import ExtractionRequest, extract_to
from fedmedlora.study.prepare import Prepared, prepare, resolve
from fedmedlora.study.run import resume_study, start_study
from fedmedlora.study.trained_adapter import find_adapter
from fedmedlora.training import site as site_module
from fedmedlora.training.batches import EncodedExample

Small = Callable[..., StudyConfig]
Run = Callable[[StudyConfig], Path]

SCHEMA = default_schema()
BOTH = 'tasks=["entities", "relations"]'
ALDER_ENTITIES_ONLY = 'sites.0.tasks=["entities"]'
EACH_ALONE = 'arms.tasks=["mix", "entities", "relations"]'


def made(config: StudyConfig) -> Prepared:
    return prepare(resolve(config, SilentObserver()), SilentObserver())


def json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def modifiers_in(documents: list[Document]) -> list[str]:
    labels = [e.label for document in documents for e in document.entities]
    return [label for label in labels if label in SCHEMA.modifier_labels]


def main_entities(document: Document) -> list[Entity]:
    return [e for e in document.entities if e.label in SCHEMA.entity_labels]


# One run, looked at from many sides -----------------------------------------------------------


class Trained:
    """A finished run, and the examples that were trained on, by tasks and site."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.examples: dict[tuple[tuple[str, ...], str], set[EncodedExample]] = {}

    @property
    def scores(self) -> Any:
        return json.loads((self.path / "scores.json").read_text("utf-8"))

    def predicted(self, name: str) -> list[Document]:
        return list(read_jsonl(self.path / "predictions" / f"{name}.jsonl"))


@pytest.fixture(scope="module")
def trained(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two sites, of which one trains entities only; all tasks in one adapter, and each alone."""
    config = small(
        BOTH,
        ALDER_ENTITIES_ONLY,
        EACH_ALONE,
        "arms.zero_shot=true",
        "arms.single_site=true",
        "federation.rounds=1",
        "evaluation.max_characters=320",
    )
    run = Trained(Path())
    handle = site_module.LocalSite.handle

    def watched(self: site_module.LocalSite, request: Any) -> Any:
        seen: list[EncodedExample] = []
        train = site_module.train_locally

        def told(model: Any, adapter: Any, examples: Any, *rest: Any) -> Any:
            seen.extend(examples)
            return train(model, adapter, examples, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(site_module, "train_locally", told)
            reply = handle(self, request)
        run.examples[request.plan.tasks, self.name] = set(seen)
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_module.LocalSite, "handle", watched)
        out = tmp_path_factory.mktemp("two-tasks")
        run.path = start_study(config, out, SilentObserver()).path
    return run


def test_arms_say_what_they_train_in_their_names_and_in_the_scores(trained: Trained) -> None:
    assert {arm["name"]: arm["tasks"] for arm in trained.scores["arms"]} == {
        "zero-shot": ["entities", "relations"],
        "single-site/alder-icu": ["entities"],
        "single-site/birch-clinic": ["entities", "relations"],
        "fedavg": ["entities", "relations"],
        "fedavg-entities": ["entities"],
        "fedavg-relations": ["relations"],
    }


def test_each_arm_writes_what_it_finds_and_where_it_relates_what_it_finds_between_gold_entities(
    trained: Trained,
) -> None:
    names = {path.stem for path in (trained.path / "predictions").iterdir()}

    cohorts = ("alder-icu", "birch-clinic", "elm-eye")
    both = ("zero-shot", "single-site--birch-clinic", "fedavg")
    end_to_end = {f"{arm}--{c}" for arm in (*both, "fedavg-entities") for c in cohorts}
    gold = {f"{arm}--{c}--gold-entities" for arm in (*both, "fedavg-relations") for c in cohorts}
    alone = {f"single-site--alder-icu--{c}" for c in cohorts}
    # Single-site models are tested in-domain on their own notes.
    elsewhere = {"single-site--alder-icu--birch-clinic"}
    elsewhere |= {f"single-site--birch-clinic--alder-icu{end}" for end in ("", "--gold-entities")}
    assert names == (end_to_end | gold | alone) - elsewhere


def test_between_gold_entities_these_are_given_as_they_are_and_links_are_allowed_ones(
    trained: Trained,
) -> None:
    notes = {d.id: d.only_labels(c.labels) for c in load_cohorts(trained) for d in c.documents}
    found = [
        document
        for path in sorted((trained.path / "predictions").glob("*--gold-entities.jsonl"))
        for document in read_jsonl(path)
    ]

    assert len(modifiers_in(found)) > 20
    assert sum(len(document.relations) for document in found) > 5
    for document in found:
        assert main_entities(document) == main_entities(notes[document.id])
        labels = {entity.id: entity.label for entity in document.entities}
        for relation in document.relations:
            assert SCHEMA.allows(labels[relation.head], labels[relation.tail])


def load_cohorts(trained: Trained) -> Any:
    config = StudyConfig.model_validate(RunStore.open(trained.path).config)
    return load_notes(config).cohorts


def test_end_to_end_an_arm_marks_its_own_entities_and_modifiers_only_if_it_learned_them(
    trained: Trained,
) -> None:
    assert modifiers_in(trained.predicted("fedavg--elm-eye"))
    for name in ("fedavg-entities--elm-eye", "single-site--alder-icu--elm-eye"):
        found = trained.predicted(name)
        assert not modifiers_in(found)
        assert not any(document.relations for document in found)


def test_three_scores_are_told_for_the_arms_that_have_them(trained: Trained) -> None:
    scores = trained.scores

    assert {row["arm"] for row in scores["results"]} == {
        "zero-shot",
        "single-site/alder-icu",
        "single-site/birch-clinic",
        "fedavg",
        "fedavg-entities",
    }
    rows = {
        (row["arm"], row["task"], row["given"], row["linker"])
        for row in scores["task_results"]
        if row["cohort"] == "elm-eye"
    }

    def of(arm: str, given: str) -> set[Any]:
        found = {(arm, "relations", given, linker) for linker in ("model", "rules")}
        return {(arm, "modifiers", given, None)} | found

    expected = {(None, "relations", "gold-spans", "rules")}
    for arm in ("zero-shot", "single-site/birch-clinic", "fedavg"):
        expected |= of(arm, "predicted") | of(arm, "gold")
    assert rows == expected | of("fedavg-relations", "gold")


def test_the_report_shows_a_run_in_which_arms_train_different_tasks(
    trained: Trained, tmp_path: Path
) -> None:
    page = write_report([trained.path], tmp_path / "report").read_text("utf-8")

    for arm in ("fedavg-entities", "fedavg-relations", "single-site/alder-icu"):
        assert arm in page


def test_a_site_with_entities_only_takes_part_with_these_and_not_where_relations_are_trained(
    trained: Trained,
) -> None:
    records = {r["arm"]: r for r in json_lines(trained.path / "rounds.jsonl")}

    assert records["fedavg"]["weights"].keys() == {"alder-icu", "birch-clinic"}
    assert records["fedavg"]["tasks"]["alder-icu"].keys() == {"entities"}
    assert records["fedavg"]["tasks"]["birch-clinic"].keys() == {"entities", "relations"}
    assert records["fedavg-relations"]["weights"] == {"birch-clinic": 1.0}
    assert records["fedavg-relations"]["bytes_down"].keys() == {"birch-clinic"}


def test_together_and_alone_a_task_is_trained_on_the_same_examples(trained: Trained) -> None:
    examples, birch = trained.examples, "birch-clinic"
    mix = examples[("entities", "relations"), birch]
    entities, relations = examples[("entities",), birch], examples[("relations",), birch]

    assert {example for example in mix if example.task == "entities"} == entities
    assert {example for example in mix if example.task == "relations"} == relations
    assert mix == entities | relations
    assert len(entities) > 1
    assert len(relations) > 1
    assert {example.task for example in examples[("entities",), "alder-icu"]} == {"entities"}


# Interrupted and resumed ----------------------------------------------------------------------


class Killed(BaseException):
    """What no code may swallow."""


class KilledByRound(SilentObserver):
    def round_ended(self, _: Any) -> None:
        raise Killed


def results_of(run: Path) -> dict[str, bytes]:
    """What must not depend on interruptions."""
    files = [run / "scores.json", *(run / "predictions").iterdir()]
    files += (run / "adapters").rglob("*.safetensors")
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def test_a_run_killed_behind_every_round_and_every_file_ends_with_the_same_bits(
    small: Small, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(BOTH, "cohorts=[]", 'arms.tasks=["mix", "relations"]')
    expected = results_of(run(config))
    write = RunStore.write_file
    files: list[str] = []

    def written(self: RunStore, name: str, *rest: Any) -> None:
        write(self, name, *rest)
        if name.startswith("predictions/"):
            files.append(name)
            raise Killed

    monkeypatch.setattr(RunStore, "write_file", written)
    places: list[Path] = []
    with pytest.raises(Killed):
        start_study(config, tmp_path / "killed", KilledByRound(), places.append)
    (path,) = places
    num_killed = 1
    for _ in range(30):
        try:
            resume_study(path, KilledByRound())
            break
        except Killed:
            num_killed += 1

    # Two cohorts: both files of the arm with both tasks, one of the other; two rounds each.
    assert num_killed == len(files) + 4
    assert len(set(files)) == len(files) == 2 * 2 + 2
    assert results_of(path) == expected


# Clients --------------------------------------------------------------------------------------


def test_each_task_of_a_site_may_be_a_client_of_its_own(small: Small, run: Run) -> None:
    config = small(
        BOTH, ALDER_ENTITIES_ONLY, "cohorts=[]", "federation.clients=task", "federation.rounds=1"
    )
    path = run(config)

    (record,) = json_lines(path / "rounds.jsonl")
    clients = {"alder-icu.entities", "birch-clinic.entities", "birch-clinic.relations"}
    assert record["weights"].keys() == record["bytes_up"].keys() == clients
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert all(weight > 0 for weight in record["weights"].values())
    for client, tasks in record["tasks"].items():
        assert list(tasks) == [client.partition(".")[2]]
    # The cohort of a site is in-domain whatever its clients are called.
    scores = json.loads((path / "scores.json").read_text("utf-8"))
    assert {r["cohort"] for r in scores["task_results"]} >= {"birch-clinic"}
    assert write_report([path]).is_file()


def test_a_site_that_has_one_task_is_named_by_it_where_tasks_are_clients(small: Small) -> None:
    config = small(BOTH, ALDER_ENTITIES_ONLY, EACH_ALONE, "federation.clients=task")
    clients = {arm.name: dict(arm.client_tasks) for arm in arms_of(config)}

    entities = {f"{site}.entities": ("entities",) for site in ("alder-icu", "birch-clinic")}
    relations = {"birch-clinic.relations": ("relations",)}
    assert clients == {
        "fedavg": entities | relations,
        "fedavg-entities": entities,
        "fedavg-relations": relations,
    }


# Extraction with the adapter of such a run ----------------------------------------------------


@pytest.fixture
def extracted(trained: Trained, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Any]]:
    """Extracts from a few notes; gives the summary and the documents."""
    notes = [d for c in load_cohorts(trained) for d in c.documents]

    def extract(
        folder: str = "", observer: Any = None, **options: Any
    ) -> tuple[dict[str, Any], list[Document]]:
        source = tmp_path / "notes.jsonl"
        write_jsonl(source, notes)
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        request = ExtractionRequest((source,), trained.path / folder, out, **options)
        summary = extract_to(request, observer or SilentObserver())
        return summary, list(read_jsonl(out / "documents.jsonl"))

    return extract


class Listener(SilentObserver):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_an_adapter_that_learned_both_tasks_marks_modifiers_and_links(extracted: Any) -> None:
    summary, found = extracted()

    assert summary["modifiers"] == len(modifiers_in(found)) > 0
    assert summary["relations"] == sum(len(d.relations) for d in found) > 0
    assert summary["entities"] == sum(len(main_entities(d)) for d in found) > 0
    assert summary["labels"][:4] == ["problem", "treatment", "test", "drug"]
    # Of two sites one trains relations: what it annotated is asked for.
    assert set(modifiers_in(found)) <= set(summary["labels"][4:])
    assert "labvalue" not in summary["labels"]


def test_below_the_threshold_links_of_dropped_mentions_go_too(extracted: Any) -> None:
    _, every = extracted()
    scores = sorted(e.score for d in every for e in d.entities)
    threshold = scores[len(scores) // 2]

    summary, found = extracted(threshold=threshold)

    for before, after in zip(every, found, strict=True):
        sure = [entity for entity in before.entities if entity.score >= threshold]
        ids = {entity.id for entity in sure}
        assert list(after.entities) == sure
        assert list(after.relations) == [
            link for link in before.relations if {link.head, link.tail} <= ids
        ]
    assert summary["relations"] < sum(len(d.relations) for d in every)
    assert summary["dropped_below_threshold"] == sum(score < threshold for score in scores)


def test_labels_in_question_may_be_modifiers_but_need_an_entity(extracted: Any) -> None:
    everything = ("problem", "treatment", "test", "drug")
    _, found = extracted(labels=(*everything, "temporal"))
    assert set(modifiers_in(found)) == {"temporal"}

    summary, found = extracted(labels=everything)
    assert not modifiers_in(found)
    assert (summary["modifiers"], summary["relations"]) == (0, 0)
    with pytest.raises(ConfigError, match="expected at least one entity label"):
        extracted(labels=("temporal",))
    with pytest.raises(ConfigError, match=r"unknown labvalue; expected problem.*temporal"):
        extracted(labels=("problem", "labvalue"))


def test_free_generation_marks_entities_only_and_says_so(
    extracted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        GenerateDecoder, "decode", lambda _, prompts, __: [WindowAnswer(())] * len(prompts)
    )
    listener = Listener()
    summary, _ = extracted(decoder="generate", observer=listener)

    assert summary["labels"] == ["problem", "treatment", "test", "drug"]
    assert any("entities only: no modifiers, no relations" in text for text in listener.messages)
    quiet = Listener()
    extracted(observer=quiet)
    assert not any("entities only" in text for text in quiet.messages)


def test_an_adapter_is_asked_for_what_its_own_arm_learned(extracted: Any) -> None:
    for folder in ("fedavg-entities", "single-site/alder-icu"):
        summary, found = extracted(f"adapters/{folder}/round-001")
        assert summary["labels"] == ["problem", "treatment", "test", "drug"]
        assert not modifiers_in(found)
    with pytest.raises(ConfigError, match="trained for relations alone"):
        extracted("adapters/fedavg-relations/round-001")
    summary, _ = extracted("adapters/round-001")
    assert "temporal" in summary["labels"]


def test_how_readily_tags_open_is_found_on_validation_notes_and_kept_for_extraction(
    small: Small, run: Run
) -> None:
    path = run(small(BOTH, "evaluation.open_bonus=auto", "cohorts=[]"))

    kept = json.loads((path / "opening.json").read_text("utf-8"))
    assert kept.keys() == {"adapters"}
    assert kept["adapters"].keys() == {"entities", "relations"}
    assert all(0 <= bonus <= 4 for bonus in kept["adapters"].values())
    assert find_adapter(path).opening == kept["adapters"]


def test_a_bonus_that_is_set_makes_tags_open_more_readily(small: Small, run: Run) -> None:
    def num_found(path: Path) -> int:
        files = sorted((path / "predictions").glob("*.jsonl"))
        return sum(len(note.entities) for file in files for note in read_jsonl(file))

    plain = run(small("cohorts=[]"))
    eager = run(small("cohorts=[]", "evaluation.open_bonus=4.0"))
    assert num_found(eager) > num_found(plain)


def test_extract_marks_what_the_run_marked_with_the_bonus_that_the_run_kept(
    small: Small, run: Run, tmp_path: Path
) -> None:
    path = run(small("cohorts=[]", "evaluation.open_bonus=4.0"))
    of_run = path / "predictions" / "fedavg--alder-icu.jsonl"
    request = ExtractionRequest((of_run,), path, tmp_path / "out")

    extract_to(request, SilentObserver())

    def marks(file: Path) -> list[list[tuple[str, int, int]]]:
        return [[(e.label, e.start, e.end) for e in note.entities] for note in read_jsonl(file)]

    assert any(marks(of_run))
    assert marks(tmp_path / "out" / "documents.jsonl") == marks(of_run)
    (path / "opening.json").unlink()
    extract_to(ExtractionRequest((of_run,), path, tmp_path / "plain"), SilentObserver())
    assert marks(tmp_path / "plain" / "documents.jsonl") != marks(of_run)
