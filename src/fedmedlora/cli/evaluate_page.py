"""The page of `evaluate --html`: what it is about, and the rule linker beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.evaluation.evaluate import evaluate_presets
from fedmedlora.inference.rule_linker import LINK, link_by_rule
from fedmedlora.report.viewer import Scored, write_scored_page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.corpora.open_corpus import CorpusSource
    from fedmedlora.evaluation.evaluate import Evaluation
    from fedmedlora.evaluation.presets import Preset

_SUFFIXES = (".html", ".htm")


def refuse_page_name(path: Path | None) -> None:
    """Refuse a name under which notes may lie.

    Raises:
        ConfigError: It is not one of a page.
    """
    if path is not None and path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--html: {path}: expected the name of a file to write, ending in .html.")


def write_page(
    path: Path,
    gold: CorpusSource,
    predicted: Iterable[Document],
    presets: Sequence[Preset],
    results: Sequence[Evaluation],
    facts: Sequence[tuple[str, str]],
    schema: TaskSchema | None,
    labels: Collection[str] | None,
) -> None:
    """The page is at `path`; where links are annotated, with those by rule beside the model's.

    Raises:
        RunStoreError: It cannot be written.
    """
    names = gold.card.annotated_relations if gold.card else None
    known, found = tuple(gold.reader()), tuple(predicted)
    linked = any(document.relations for document in known) and names != ()
    by_rule: Sequence[Evaluation | None] = [None] * len(results)
    if linked:
        link = names[0] if names and len(names) == 1 else LINK
        by_rule = evaluate_presets(
            known,
            (link_by_rule(document, schema, name=link) for document in found),
            presets,
            schema=schema,
            labels=labels,
            annotated_relations=names,
        )
    asked = [] if labels is None else [("Labels", ", ".join(labels))]
    if gold.annotated_labels is not None:
        asked.append(("Annotated labels", ", ".join(_in_order(gold.annotated_labels, schema))))
    asked.append(("Links", _links(names, linked=linked)))
    write_scored_page(
        path,
        known,
        found,
        [Scored(*pair) for pair in zip(results, by_rule, strict=True)],
        [*facts, *asked, ("Labels by", (schema or default_schema()).id)],
        schema=schema,
        labels=labels,
        annotated_relations=names,
    )


def _in_order(labels: Collection[str], schema: TaskSchema | None) -> list[str]:
    order = (schema or default_schema()).labels
    return [label for label in order if label in labels] + sorted(set(labels).difference(order))


def _links(names: Sequence[str] | None, *, linked: bool) -> str:
    if not linked:
        return "not annotated"
    return "annotated" if names is None else f"annotated: {', '.join(names)}"
