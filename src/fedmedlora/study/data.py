"""The notes of a study: read, split and budgeted by seed, then turned into training examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.core.schema import TaskSchema, default_schema
from fedmedlora.core.seeds import derive_seed, python_rng
from fedmedlora.core.suggest import did_you_mean
from fedmedlora.core.words import counted
from fedmedlora.corpora.card import CARD_NAME
from fedmedlora.corpora.card_names import misspelt_names
from fedmedlora.corpora.grouping import source_groups
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.split import patient_of, split_documents
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.study.damage import damaged
from fedmedlora.study.found_labels import what_to_write
from fedmedlora.training.batches import (
    EncodedExample,
    encode_example,
    render_documents,
    render_relation_documents,
    thin_negatives,
)
from fedmedlora.training.site import TaskData

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Example, Task
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.study.config import CorpusConfig, StudyConfig

NO_TEST_NOTE = "has no test note"
"""What is said of a site whose notes are too few, or all of one patient."""

Setting = Literal["in-domain", "external"]


@dataclass(frozen=True, slots=True)
class SiteNotes:
    """A training site's notes by split, and what it annotated.

    Attributes:
        name: The site.
        labels: Entity labels in question.
        train: Notes to learn from.
        validation: Notes to judge adapters by.
        test: Notes of its in-domain cohort.
        modifiers: Modifier labels in question.
        linked: Whether it annotated what modifiers belong to.
        tasks: What it trains.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    modifiers: tuple[str, ...] = ()
    linked: bool = False
    tasks: tuple[Task, ...] = ("entities",)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Notes to be scored on: a site's test split, or a corpus that no arm is trained on.

    `labels` are those of entities; `modifiers` and links are scored if the corpus annotated them.
    """

    name: str
    setting: Setting
    labels: tuple[str, ...]
    documents: tuple[Document, ...]
    modifiers: tuple[str, ...] = ()
    annotates_relations: bool = False

    @property
    def num_characters(self) -> int:
        """Characters of all notes."""
        return sum(len(document.text) for document in self.documents)


class _Annotated(NamedTuple):
    """A corpus with what is in question of it, in the order of the schema."""

    documents: tuple[Document, ...]
    labels: tuple[str, ...]
    modifiers: tuple[str, ...]
    linked: bool


@dataclass(frozen=True, slots=True)
class StudyNotes:
    """All notes of a study.

    Attributes:
        sites: Those of the training sites.
        cohorts: Those that arms are tested on.
        digest: Tells whether they are the same at a later time.
        server: The server's own corpora, all of whose notes stand as `validation`.
    """

    sites: tuple[SiteNotes, ...]
    cohorts: tuple[Cohort, ...]
    digest: str
    server: tuple[SiteNotes, ...] = ()


def load_notes(config: StudyConfig) -> StudyNotes:
    """The notes that a study names, split and budgeted.

    Raises:
        ConfigError: A corpus is missing or broken, a label is not in the schema, or a site has too
            few notes to train on, to test on or to give to the server; carries all faults, one a
            line.
    """
    schema = default_schema()
    faults: list[str] = []
    sites: list[SiteNotes] = []
    external: list[Cohort] = []
    digest = hashlib.sha256()
    for site_config in config.sites:
        loaded = _read(site_config, config.path_of(site_config), schema, faults)
        if loaded is None:
            continue
        shares = config.split.model_dump()
        group = source_groups(loaded.documents, site_config.group)
        seed = derive_seed(config.seed, "split", site_config.name)
        splits = split_documents(loaded.documents, shares, seed, group)
        train = tuple(splits["train"])
        damage = config.data.damage
        if damage is not None and damage.site == site_config.name:
            train = damaged(train, loaded.labels, damage, config.seed)
        site = SiteNotes(
            site_config.name,
            loaded.labels,
            train,
            tuple(splits["validation"]),
            tuple(splits["test"]),
            loaded.modifiers,
            loaded.linked,
            config.tasks_of(site_config),
        )
        faults += _lacks(config, site)
        sites.append(site)
        _hash(digest, site.name, loaded, relations="relations" in config.tasks)
    for corpus in config.cohorts:
        loaded = _read(corpus, config.path_of(corpus), schema, faults)
        if loaded is not None:
            external.append(_cohort(config, corpus.name, "external", loaded, loaded.documents))
            _hash(digest, corpus.name, loaded, relations="relations" in config.tasks)
    server: list[SiteNotes] = []
    for corpus in config.server_notes.corpora if config.server_notes else ():
        loaded = _read(corpus, config.path_of(corpus), schema, faults)
        if loaded is not None:
            server.append(_of_server(config, corpus.name, loaded))
            _hash(digest, corpus.name, loaded, relations="relations" in config.tasks)
    if faults:
        raise ConfigError("\n".join(faults))
    in_domain = [_cohort(config, s.name, "in-domain", s, s.test) for s in sites]
    cohorts = (*in_domain, *external)
    return StudyNotes(tuple(sites), cohorts, digest.hexdigest(), tuple(server))


def site_examples(
    config: StudyConfig, site: SiteNotes, tags: TagFormat, tokenizer: PieceTokenizer
) -> dict[Task, TaskData]:
    """A site's examples of each task that it trains, within the study's token budgets."""
    settings = config.training
    seed = derive_seed(config.seed, "examples", site.name)
    data: dict[Task, TaskData] = {}
    for task in site.tasks:
        rendered = rendered_notes(config, site.train, site, task, tags, tokenizer)
        kept = thin_negatives(rendered, keep=settings.negatives, seed=seed)
        train = [encode_example(example, tokenizer) for example in kept]
        # The entity task is drawn as it was when it was the only one.
        order = ("order",) if task == "entities" else ("order", task)
        python_rng(seed, *order).shuffle(train)
        budget = settings.max_tokens
        if task == "relations" and settings.max_relation_tokens is not None:
            budget = settings.max_relation_tokens
        train = within_tokens(train, budget)
        validation = rendered_notes(config, site.validation, site, task, tags, tokenizer)
        encoded = [encode_example(example, tokenizer) for example in validation]
        data[task] = TaskData(
            tuple(train),
            tuple(within_tokens(encoded, settings.max_validation_tokens)),
            len({example.document_id for example in train}),
        )
    return data


def rendered_notes(
    config: StudyConfig,
    documents: Iterable[Document],
    site: SiteNotes,
    task: Task,
    tags: TagFormat,
    tokenizer: PieceTokenizer,
) -> list[Example]:
    """Every window of a site's documents as an example of a task, also those that mark nothing.

    Relations are learned from gold entities, of the labels that the site annotated.
    """
    window_tokens = config.prompt.window_tokens
    if task == "entities":
        return render_documents(
            documents, tags, tokenizer, site.labels, window_tokens=window_tokens
        )
    known = (*site.labels, *site.modifiers)
    return render_relation_documents(
        (document.only_labels(known) for document in documents),
        get_relation_format(config.prompt.format),
        tokenizer,
        site.modifiers,
        window_tokens=window_tokens,
        linked=site.linked,
    )


def pooled(sites: Sequence[TaskData]) -> TaskData:
    """One task's examples of all sites together: what the centralized arm is trained on."""
    return TaskData(
        tuple(example for site in sites for example in site.train),
        tuple(example for site in sites for example in site.validation),
        sum(site.num_documents for site in sites),
    )


def within_tokens(
    examples: Sequence[EncodedExample], max_tokens: int | None
) -> list[EncodedExample]:
    """The first examples whose tokens, prompts included, stay within the budget; at least one."""
    kept: list[EncodedExample] = []
    total = 0
    for example in examples:
        total += len(example.token_ids)
        if max_tokens is not None and total > max_tokens and kept:
            break
        kept.append(example)
    return kept


def _read(
    corpus: CorpusConfig, path: Path, schema: TaskSchema, faults: list[str]
) -> _Annotated | None:
    """A corpus and what is in question of it."""
    try:
        loaded = load_corpus(path)
    except (ConfigError, CorpusError) as error:
        faults.append(f"{corpus.name}: {error}")
        return None
    annotated = loaded.annotated_labels
    if annotated is None and not corpus.labels:
        faults.append(
            f"{corpus.name}: no corpus card says which labels were annotated, and a label that "
            "nobody looked for must not be taught as absent. "
            f"{what_to_write(loaded.documents, schema)}"
        )
    wanted = set(corpus.labels or annotated or ())
    unknown = sorted(set(corpus.labels or ()) - set(schema.entity_labels))
    if corpus.labels and annotated is not None:
        unknown += sorted(set(corpus.labels) & set(schema.entity_labels) - annotated)
    possible = [x for x in schema.entity_labels if annotated is None or x in annotated]
    faults += [
        f"{corpus.name}: labels: {label!r} is not an entity label that the corpus annotates; "
        f"expected some of {', '.join(possible)}.{did_you_mean(label, possible)}"
        for label in unknown
    ]
    labels = tuple(label for label in schema.entity_labels if label in wanted)
    if not labels and annotated is not None:
        faults.append(f"{corpus.name}: annotates none of {', '.join(schema.entity_labels)}.")
    if not loaded.documents:
        faults.append(f"{corpus.name}: holds no notes.")
        return None
    possible = [x for x in schema.modifier_labels if annotated is None or x in annotated]
    faults += [
        f"{corpus.name}: modifiers: {label!r} is not a modifier label that the corpus annotates; "
        f"expected some of {', '.join(possible) or 'none'}.{did_you_mean(label, possible)}"
        for label in corpus.modifiers or ()
        if label not in possible
    ]
    asked = set(corpus.modifiers or annotated or ())
    modifiers = tuple(label for label in schema.modifier_labels if label in asked)
    card = loaded.card
    if card is not None:
        place = path if path.name == CARD_NAME else path / CARD_NAME
        faults += [f"{corpus.name}: {fault}" for fault in misspelt_names(place, card, schema)]
    linked = (
        bool(card.annotated_relations)
        if card is not None
        else any(document.relations for document in loaded.documents)
    )
    # Without labels there are faults already, and what follows from them need not be told.
    return _Annotated(loaded.documents, labels, modifiers, linked) if labels else None


def _lacks(config: StudyConfig, site: SiteNotes) -> list[str]:
    """Splits of the site that are too small for the study."""
    total = len(site.train) + len(site.validation) + len(site.test)
    faults = []
    if config.data.damage and config.data.damage.site == site.name and len(site.labels) < 2:
        faults.append(
            f"data.damage: site {site.name} annotates {counted(len(site.labels), 'label')}; "
            "expected at least 2 to mix up. Name another site."
        )
    if not any(e.label in site.labels for document in site.train for e in document.entities):
        faults.append(
            f"site {site.name}: has no training note with an annotated entity; expected at least "
            f"one among {counted(total, 'note')}. Check the corpus and split.train."
        )
    if "relations" in site.tasks and not any(
        e.label in site.modifiers for document in site.train for e in document.entities
    ):
        faults.append(
            f"site {site.name}: has no training note with an annotated modifier; expected at least "
            f'one for the task relations. Give the site tasks = ["entities"].'
        )
    if not site.test:
        faults.append(
            f"site {site.name}: {NO_TEST_NOTE}; expected at least one of "
            f"{counted(total, 'note')}. Check the corpus and split.test."
        )
    server = config.server_notes
    if server and not site.validation and server.asks(site.name):
        faults.append(
            f"site {site.name}: has no validation note to give to the server; expected at least "
            f"one of {counted(total, 'note')}. Check split.validation, or name other "
            "server_notes.sites."
        )
    return faults


def _of_server(config: StudyConfig, name: str, known: _Annotated) -> SiteNotes:
    """A corpus of the server's own, its notes in an order drawn by seed."""
    notes = sorted(known.documents, key=lambda document: document.id)
    python_rng(config.seed, "server-notes", name).shuffle(notes)
    tasks = tuple(task for task in config.tasks if task == "entities" or known.modifiers)
    return SiteNotes(name, known.labels, (), tuple(notes), (), known.modifiers, known.linked, tasks)


def _cohort(
    config: StudyConfig,
    name: str,
    setting: Setting,
    known: _Annotated | SiteNotes,
    documents: Iterable[Document],
) -> Cohort:
    """A cohort within the character budget: whole notes, drawn by seed, in the order of ids."""
    drawn = sorted(documents, key=lambda document: document.id)
    budget = config.evaluation.max_characters
    if budget is not None:
        python_rng(config.seed, "cohort", name).shuffle(drawn)
        total = 0
        for index, document in enumerate(drawn):
            total += len(document.text)
            if total > budget:
                drawn = drawn[: max(1, index)]
                break
        drawn.sort(key=lambda document: document.id)
    return Cohort(name, setting, known.labels, tuple(drawn), known.modifiers, known.linked)


def _hash(digest: hashlib._Hash, name: str, known: _Annotated, *, relations: bool) -> None:
    """Take up all that decides splits, examples and gold."""
    digest.update(repr((name, known.labels)).encode())
    if relations:
        digest.update(repr((known.modifiers, known.linked)).encode())
    for document in known.documents:
        patient = patient_of(document)
        digest.update(repr((document.id, document.text, document.entities, patient)).encode())
        if relations:
            digest.update(repr(document.relations).encode())
