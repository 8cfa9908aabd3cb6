"""Seeded splits by document, stratified by label; the notes of one patient stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import floor

from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.seeds import derive_seed

GroupOf = Callable[[Document], str | None]


def patient_of(document: Document) -> str | None:
    """The document's `patient_id`, where its metadata has one."""
    patient = document.metadata.get("patient_id")
    return None if patient is None else str(patient)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Documents that must not be parted, with their number of entities by label."""

    documents: tuple[Document, ...]
    labels: Counter[str]
    draw: int


def split_documents(
    documents: Iterable[Document],
    fractions: Mapping[str, float],
    seed: int,
    group: GroupOf | None = None,
) -> dict[str, list[Document]]:
    """The documents of each split, ordered by source and id; every document is in exactly one.

    The result depends on the documents and the seed, not on the order in which documents come.
    Labels are balanced by number of entities: documents with rare labels are placed first, each
    where its labels are missed most. The sizes follow the fractions to the nearest document unless
    groups are too large for that; every split gets a document as long as there are enough.

    Args:
        documents: What is split.
        fractions: Share of the documents by name of the split, together 1.
        seed: Another seed gives another split.
        group: Which documents belong together; None stands for a document on its own. By default
            those with the same `patient_id` in their metadata.

    Raises:
        ConfigError: The fractions are not positive or do not add up to 1.

    Reference: Sechidis, Tsoumakas and Vlahavas 2011, On the stratification of multi-label data;
    here all labels of a document count, not only its rarest.
    """
    if any(share <= 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ConfigError(
            f"split fractions: expected positive numbers that add up to 1, got {dict(fractions)}."
        )
    units = _units(documents, seed, group or patient_of)
    names = list(fractions)
    room = _sizes(sum(len(unit.documents) for unit in units), fractions)
    totals = sum((unit.labels for unit in units), Counter[str]())
    wanted = {
        name: {label: count * fractions[name] for label, count in totals.items()} for name in names
    }
    splits: dict[str, list[Document]] = {name: [] for name in names}
    for unit in _rarest_first(units):
        # Rare labels count most: each label by the unit's share of it.
        need = {
            name: sum(
                count / totals[label] * wanted[name][label] / (totals[label] * fractions[name])
                for label, count in sorted(unit.labels.items())
            )
            for name in names
        }
        name = max(
            names,
            key=lambda n: (
                room[n] >= len(unit.documents),
                room[n] > 0,
                need[n],
                room[n] / fractions[n],
                derive_seed(unit.draw, n),
            ),
        )
        splits[name].extend(unit.documents)
        room[name] -= len(unit.documents)
        for other, count in unit.labels.items():
            wanted[name][other] -= count
    return {name: sorted(split, key=_address) for name, split in splits.items()}


def _address(document: Document) -> tuple[str, str]:
    return document.source, document.id


def _units(documents: Iterable[Document], seed: int, group: GroupOf) -> list[_Unit]:
    together: dict[tuple[str, str, str], list[Document]] = {}
    for document in sorted(documents, key=_address):
        name = group(document)
        kind, key = ("document", document.id) if name is None else ("group", name)
        together.setdefault((document.source, kind, key), []).append(document)
    return [
        _Unit(
            tuple(members),
            Counter(entity.label for document in members for entity in document.entities),
            derive_seed(seed, "split", *address),
        )
        for address, members in together.items()
    ]


def _sizes(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of documents nearest to the fractions, none 0 while there are enough."""
    sizes = {name: floor(total * share) for name, share in fractions.items()}
    by_rest = sorted(fractions, key=lambda name: sizes[name] - total * fractions[name])
    for name in by_rest[: total - sum(sizes.values())]:
        sizes[name] += 1
    for name in sizes:
        if sizes[name] == 0 and max(sizes.values()) > 1:
            sizes[max(sizes, key=lambda other: sizes[other])] -= 1
            sizes[name] = 1
    return sizes


def _rarest_first(units: list[_Unit]) -> list[_Unit]:
    """The units in the order in which they are placed.

    Those with the label of the fewest entities first, among them those with the most of it; large
    groups before small ones where nothing else decides, because they are the hardest to place.
    """
    totals = sum((unit.labels for unit in units), Counter[str]())

    def order(unit: _Unit) -> tuple[int, str, int, int, int]:
        if not unit.labels:
            return max(totals.values(), default=0) + 1, "", 0, -len(unit.documents), unit.draw
        label = min(unit.labels, key=lambda x: (totals[x], x))
        return totals[label], label, -unit.labels[label], -len(unit.documents), unit.draw

    return sorted(units, key=order)
