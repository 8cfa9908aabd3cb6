"""The notes of a study: read, split and budgeted by seed, then turned into training examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.core.schema import TaskSchema, default_schema
from fedmedlora.core.seeds import derive_seed, python_rng
from fedmedlora.corpora.grouping import source_groups
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.split import patient_of, split_documents
from fedmedlora.training.batches import (
    EncodedExample,
    encode_example,
    render_documents,
    thin_negatives,
)
from fedmedlora.training.site import TaskData

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.study.config import CorpusConfig, StudyConfig

Setting = Literal["in-domain", "external"]


@dataclass(frozen=True, slots=True)
class SiteNotes:
    """A training site's notes by split, and the labels that it annotated."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Notes to be scored on: a site's test split, or a corpus that no arm is trained on."""

    name: str
    setting: Setting
    labels: tuple[str, ...]
    documents: tuple[Document, ...]

    @property
    def num_characters(self) -> int:
        """Characters of all notes."""
        return sum(len(document.text) for document in self.documents)


@dataclass(frozen=True, slots=True)
class StudyNotes:
    """All notes of a study. `digest` tells whether they are the same at a later time."""

    sites: tuple[SiteNotes, ...]
    cohorts: tuple[Cohort, ...]
    digest: str


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
    for corpus in config.sites:
        loaded = _read(corpus, config.path_of(corpus), schema, faults)
        if loaded is None:
            continue
        documents, labels = loaded
        shares = config.split.model_dump()
        group = source_groups(documents, corpus.group)
        seed = derive_seed(config.seed, "split", corpus.name)
        splits = split_documents(documents, shares, seed, group)
        site = SiteNotes(corpus.name, labels, *(tuple(splits[name]) for name in shares))
        faults += _lacks(config, site)
        sites.append(site)
        _hash(digest, site.name, labels, documents)
    for corpus in config.cohorts:
        loaded = _read(corpus, config.path_of(corpus), schema, faults)
        if loaded is not None:
            external.append(_cohort(config, corpus.name, "external", loaded[1], loaded[0]))
            _hash(digest, corpus.name, loaded[1], loaded[0])
    if faults:
        raise ConfigError("\n".join(faults))
    in_domain = [_cohort(config, s.name, "in-domain", s.labels, s.test) for s in sites]
    return StudyNotes(tuple(sites), (*in_domain, *external), digest.hexdigest())


def site_examples(
    config: StudyConfig, site: SiteNotes, tags: TagFormat, tokenizer: PieceTokenizer
) -> TaskData:
    """A site's examples for the entity task, within the study's token budgets."""
    settings = config.training
    seed = derive_seed(config.seed, "examples", site.name)
    rendered = render_documents(
        site.train, tags, tokenizer, site.labels, window_tokens=config.prompt.window_tokens
    )
    kept = thin_negatives(rendered, keep=settings.negatives, seed=seed)
    train = [encode_example(example, tokenizer) for example in kept]
    python_rng(seed, "order").shuffle(train)
    train = within_tokens(train, settings.max_tokens)
    return TaskData(
        tuple(train),
        tuple(
            within_tokens(
                encoded_notes(config, site.validation, site.labels, tags, tokenizer),
                settings.max_validation_tokens,
            )
        ),
        len({example.document_id for example in train}),
    )


def encoded_notes(
    config: StudyConfig,
    documents: Iterable[Document],
    labels: Sequence[str],
    tags: TagFormat,
    tokenizer: PieceTokenizer,
) -> list[EncodedExample]:
    """Every window of the documents, with and without entities."""
    window_tokens = config.prompt.window_tokens
    examples = render_documents(documents, tags, tokenizer, labels, window_tokens=window_tokens)
    return [encode_example(example, tokenizer) for example in examples]


def pooled(sites: Sequence[TaskData]) -> TaskData:
    """The examples of all sites together: what the centralized arm is trained on."""
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
) -> tuple[tuple[Document, ...], tuple[str, ...]] | None:
    """A corpus's documents and its labels in question, in the order of the schema."""
    try:
        loaded = load_corpus(path)
    except (ConfigError, CorpusError) as error:
        faults.append(f"{corpus.name}: {error}")
        return None
    annotated = loaded.annotated_labels
    if annotated is None and not corpus.labels:
        faults.append(
            f"{corpus.name}: no corpus card says which labels were annotated, and a label that "
            "nobody looked for must not be taught as absent. Add a corpus.toml, or labels here."
        )
    wanted = set(corpus.labels or annotated or ())
    unknown = sorted(set(corpus.labels or ()) - set(schema.entity_labels))
    if corpus.labels and annotated is not None:
        unknown += sorted(set(corpus.labels) & set(schema.entity_labels) - annotated)
    faults += [
        f"{corpus.name}: label {label!r} is not an entity label that the corpus annotates; "
        f"expected some of {', '.join(schema.entity_labels)}."
        for label in unknown
    ]
    labels = tuple(label for label in schema.entity_labels if label in wanted)
    if not labels and annotated is not None:
        faults.append(f"{corpus.name}: annotates none of {', '.join(schema.entity_labels)}.")
    if not loaded.documents:
        faults.append(f"{corpus.name}: holds no notes.")
        return None
    return loaded.documents, labels


def _lacks(config: StudyConfig, site: SiteNotes) -> list[str]:
    """Splits of the site that are too small for the study."""
    total = len(site.train) + len(site.validation) + len(site.test)
    faults = []
    if not any(e.label in site.labels for document in site.train for e in document.entities):
        faults.append(
            f"site {site.name}: has no training note with an annotated entity; expected at least "
            f"one among {total} notes. Check the corpus and split.train."
        )
    if not site.test:
        faults.append(
            f"site {site.name}: has no test note; expected at least one of {total} notes. "
            "Check the corpus and split.test."
        )
    server = config.server_notes
    if server and not site.validation and (not server.sites or site.name in server.sites):
        faults.append(
            f"site {site.name}: has no validation note to give to the server; expected at least "
            f"one of {total} notes. Check split.validation, or name other server_notes.sites."
        )
    return faults


def _cohort(
    config: StudyConfig,
    name: str,
    setting: Setting,
    labels: tuple[str, ...],
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
    return Cohort(name, setting, labels, tuple(drawn))


def _hash(
    digest: hashlib._Hash, name: str, labels: tuple[str, ...], documents: Iterable[Document]
) -> None:
    """Take up all that decides splits, examples and gold."""
    digest.update(repr((name, labels)).encode())
    for document in documents:
        patient = patient_of(document)
        digest.update(repr((document.id, document.text, document.entities, patient)).encode())
