"""The viewer: one HTML file with notes and what was marked in them, gold beside predicted.

The page is written note by note: however many there are, one is in memory. It loads nothing, and
its content security policy lets the browser run and apply nothing but the script and the style
whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import fedmedlora
from fedmedlora.core.schema import default_schema
from fedmedlora.core.words import counted
from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.counting import scored_labels
from fedmedlora.evaluation.labels import choose_labels
from fedmedlora.evaluation.link_mistakes import find_link_mistakes
from fedmedlora.evaluation.mistakes import mistake_table
from fedmedlora.report.template_environment import template_environment
from fedmedlora.report.viewer_errors import KIND_TITLES
from fedmedlora.report.viewer_marks import escaped
from fedmedlora.report.viewer_notes import Wrong, judged_view, note_view
from fedmedlora.report.viewer_scores import preset_scores
from fedmedlora.report.viewer_words import page_labels
from fedmedlora.runs.atomic import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.evaluation.evaluate import Evaluation
    from fedmedlora.report.viewer_notes import NoteView

    Facts = Sequence[tuple[str, str]]

_FLUSH_CHUNKS = 1000


@dataclass(frozen=True, slots=True)
class Scored:
    """The result under one preset, and that of the same mentions with links by rule."""

    result: Evaluation
    by_rule: Evaluation | None = None


def write_marked_page(
    path: Path, documents: Callable[[], Iterable[Document]], facts: Facts
) -> None:
    """The page of notes that nobody annotated.

    Args:
        path: The file, which is replaced as a whole or not at all.
        documents: The notes in their order, read anew at each of two calls.
        facts: Names and values for the head of the page.

    Raises:
        RunStoreError: The file cannot be written.
    """
    mentions, num_notes, num_links = Counter[str](), 0, 0
    for document in documents():
        mentions.update(entity.label for entity in document.entities)
        num_notes += 1
        num_links += len(document.relations)
    labels = page_labels(mentions, default_schema())
    _write(
        path,
        (note_view(document, labels) for document in documents()),
        facts,
        num_notes=num_notes,
        legend=[(label, labels.classes(label), mentions[label], None) for label in labels.numbers],
        num_links=num_links,
    )


def write_scored_page(
    path: Path,
    gold: Iterable[Document],
    predicted: Iterable[Document],
    scores: Sequence[Scored],
    facts: Facts,
    *,
    schema: TaskSchema | None = None,
    labels: Collection[str] | None = None,
    annotated_relations: Collection[str] | None = None,
) -> None:
    """The page of notes with gold annotations: their scores, and every error in its place.

    Args:
        path: The file, which is replaced as a whole or not at all.
        gold: As in `evaluate_presets`, which made `scores`.
        predicted: Likewise, and all below.
        scores: One preset or several; errors are the same under each.
        facts: Names and values for the head of the page.
        schema: See above.
        labels: See above.
        annotated_relations: See above.

    Raises:
        RunStoreError: The file cannot be written.
    """
    aligned = align_documents(gold, predicted)
    scored = choose_labels(aligned, schema, labels)
    links = find_link_mistakes(aligned, scored.both, annotated_relations)
    mentions = scores[0].result.mistakes
    mentions_of, links_of = _by_document(mentions), _by_document(links)
    sides = [Counter(e.label for pair in aligned for e in pair[side].entities) for side in (0, 1)]
    known = page_labels(sides[0] | sides[1], schema or default_schema())

    def notes() -> Iterator[NoteView]:
        for theirs, ours in aligned:
            id = theirs.id
            looked_for = scored_labels(theirs, scored.both)
            yield judged_view(theirs, ours, known, Wrong(mentions_of[id], links_of[id], looked_for))

    numbers = Counter([m.kind for m in mentions] + [m.kind for m in links])
    _write(
        path,
        notes(),
        facts,
        num_notes=len(aligned),
        legend=[
            (label, known.classes(label), sides[1][label], sides[0][label])
            for label in known.numbers
        ],
        num_links=None,
        presets=[preset_scores(each.result, each.by_rule) for each in scores],
        kinds=[(kind, title, numbers[kind]) for kind, title in KIND_TITLES.items()],
        num_with_errors=sum(
            1 for theirs, _ in aligned if mentions_of[theirs.id] or links_of[theirs.id]
        ),
        mistakes=mistake_table(mentions),
    )


def _by_document(mistakes: Iterable[Any]) -> defaultdict[str, list[Any]]:
    found = defaultdict[str, list[Any]](list)
    for mistake in mistakes:
        found[mistake.document_id].append(mistake)
    return found


def _write(path: Path, notes: Iterable[NoteView], facts: Facts, **more: Any) -> None:
    environment = template_environment()
    environment.filters.update(counted=counted, kind=lambda kind: KIND_TITLES[kind], text=escaped)
    style, script = _source("viewer.css"), _source("viewer.js")
    scored: dict[str, Any] = {"presets": [], "kinds": [], "num_with_errors": 0, "mistakes": []}
    stream = environment.get_template("viewer.html").stream(
        version=fedmedlora.__version__,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        notes=notes,
        facts=facts,
        **(scored | more),
    )
    stream.enable_buffering(_FLUSH_CHUNKS)

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for chunk in stream:
                # A note may hold half a surrogate pair, which no file can: a question mark then.
                file.write(chunk.encode("utf-8", "replace"))

    write_file(path, fill)


def _source(name: str) -> str:
    """A file of ours as it stands in the page; the policy's hash is of all between the tags."""
    return resources.files("fedmedlora.report").joinpath("templates", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_sha256(style)}'",
            f"script-src '{_sha256(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
            # No string becomes an element, whatever the script did.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
