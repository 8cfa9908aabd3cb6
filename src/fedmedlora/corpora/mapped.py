"""Mapping files at work: documents with native types become documents with a schema's labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.corpora.extras import ATTRIBUTES, GROUPS, ROLES, items
from fedmedlora.corpora.reader import BadNote, Reader, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmedlora.corpora.mapping import EntityRule, Link, Mapping, RelationRule

_TRIMMED = "mention: white space at its ends left out"
_COVERED = "mention in fragments: the span that covers them is used"


class MappedReader(Reader):
    """The documents of another reader after a mapping.

    `mapped` counts what became what, `dropped` and `adjusted` also hold what the inner reader
    counted. Entities keep ids and order. Relations are numbered in order of modifier and entity id.

    Args:
        inner: Reads the native documents.
        mapping: The rules.
    """

    def __init__(self, inner: Reader, mapping: Mapping) -> None:
        super().__init__(
            inner.path,
            skip_bad_notes=inner.skip_bad_notes,
            source=inner.source,
            annotated_labels=frozenset(mapping.labels),
        )
        self.inner = inner
        self.mapping = mapping
        self.mapped: Counter[str] = Counter()
        self.num_entities_read = 0
        self.num_relations_read = 0

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note, the bad ones as what is wrong with them."""
        self.mapped.clear()
        self.num_entities_read = self.num_relations_read = 0
        self.inner.dropped.clear()
        self.inner.adjusted.clear()
        for note in self.inner.notes():
            if isinstance(note, Document):
                self.num_entities_read += len(note.entities)
                self.num_relations_read += len(note.relations)
                mapper = _Mapper(note, self.mapping, self.mapped, self.dropped, self.adjusted)
                yield replace(mapper.document(), annotated_labels=self.annotated_labels)
            else:
                yield note
        self.dropped.update(self.inner.dropped)
        self.adjusted.update(self.inner.adjusted)


class _Mapper:
    """One document on its way through the rules."""

    def __init__(
        self,
        note: Document,
        mapping: Mapping,
        mapped: Counter[str],
        dropped: Counter[str],
        adjusted: Counter[str],
    ) -> None:
        self.note = note
        self.mapping = mapping
        self.mapped = mapped
        self.dropped = dropped
        self.adjusted = adjusted
        self.native = {entity.id: entity for entity in note.entities}
        self.links = [(r.label, r.head, r.tail) for r in note.relations] + [
            (role["label"], role["head"], role["tail"])
            for role in items(note, ROLES)
            if role["head"] in self.native and role["tail"] in self.native
        ]
        # Whom each mention modifies and by whom it is modified: the relation and the other's type.
        self.modifies: dict[str, list[tuple[str, str]]] = {}
        self.modified_by: dict[str, list[tuple[str, str]]] = {}
        for name, first, second in self.links:
            rule = self._rule(name, first, second)
            if rule and rule.outcome.drop is None:
                modifier, entity = (first, second) if rule.modifier == "Arg1" else (second, first)
                type_of = {end: self.native[end].label for end in (modifier, entity)}
                self.modifies.setdefault(modifier, []).append((name, type_of[entity]))
                self.modified_by.setdefault(entity, []).append((name, type_of[modifier]))

    def document(self) -> Document:
        """The mapped document."""
        entities: dict[str, Entity] = {}
        for native in self.note.entities:
            mapped = self._entity(native)
            if isinstance(mapped, Entity):
                entities[native.id] = mapped
            else:
                self._drop(mapped)
        kept = {k: v for k, v in self.note.metadata.items() if k not in (ROLES, GROUPS, ATTRIBUTES)}
        if attributes := self._attributes(entities):
            kept[ATTRIBUTES] = attributes
        document = replace(self.note, relations=(), metadata=kept)
        return document.with_entities(entities.values(), self._relations(entities))

    def _entity(self, entity: Entity) -> Entity | str:
        """The mapped mention, or why it is dropped."""
        native = entity.label
        rule = next((r for r in self.mapping.entities if self._fits(r, entity)), None)
        if rule is None:
            return f"{shown(native)}: no rule"
        label = rule.outcome.label_for(native)
        if label is None:
            return f"{native}: {rule.outcome.drop}"
        cover = entity.cover
        if entity.is_discontinuous:
            if len(cover) > self.mapping.max_cover_characters:
                limit = self.mapping.max_cover_characters
                return f"{native}: in fragments over more than {limit} characters"
            self.adjusted[_COVERED] += 1
        covered = self.note.text[cover.start : cover.end]
        if not covered.strip():
            return f"{native}: only white space"
        start = cover.start + len(covered) - len(covered.lstrip())
        span = Span(start, start + len(covered.strip()))
        self.adjusted.update([_TRIMMED] if span != cover else [])
        self.mapped[f"{native} -> {label}"] += 1
        return replace(entity, label=label, spans=(span,))

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    def _fits(self, rule: EntityRule, entity: Entity) -> bool:
        if entity.label not in rule.types:
            return False
        if rule.pattern is not None:
            text = " ".join(self.note.text[s.start : s.end] for s in entity.spans).strip()
            if not rule.pattern.search(text):
                return False
        if rule.attribute is not None:
            name, value = rule.attribute
            if not any(
                item["target"] == entity.id
                and item["name"] == name
                and value in (None, item["value"])
                for item in items(self.note, ATTRIBUTES)
            ):
                return False
        return _holds(rule.modifies, self.modifies.get(entity.id, ())) and _holds(
            rule.modified_by, self.modified_by.get(entity.id, ())
        )

    def _rule(self, name: str, first: str, second: str) -> RelationRule | None:
        """The rule for a native relation or role."""
        for rule in self.mapping.relations:
            if name not in rule.names:
                continue
            ends = (first, second) if rule.modifier == "Arg1" else (second, first)
            if self._ends_fit(rule, *ends):
                return rule
        return None

    def _ends_fit(self, rule: RelationRule, modifier: str, entity: str) -> bool:
        first, second = self.native[modifier], self.native[entity]
        return (
            (not rule.modifier_types or first.label in rule.modifier_types)
            and (not rule.entity_types or second.label in rule.entity_types)
            and (
                not rule.same_line
                or "\n" not in self.note.text[slice(*sorted((first.start, second.start)))]
            )
        )

    def _relations(self, entities: dict[str, Entity]) -> list[Relation]:
        found: dict[tuple[str, str], str] = {}
        for name, first, second in self.links:
            rule = self._rule(name, first, second)
            if rule is None:
                self._drop(f"relation {shown(name)}: no rule")
            elif rule.outcome.drop is not None:
                self._drop(f"relation {name}: {rule.outcome.drop}")
            else:
                ends = (first, second) if rule.modifier == "Arg1" else (second, first)
                self._add(found, entities, f"relation {name}", rule, ends)
        for group in items(self.note, GROUPS):
            self._relate(group["label"], group["members"], found, entities)
        ordered = sorted(found)
        return [
            Relation(f"R{number}", found[ends], *ends) for number, ends in enumerate(ordered, 1)
        ]

    def _relate(
        self,
        group: str,
        members: list[str],
        found: dict[tuple[str, str], str],
        entities: dict[str, Entity],
    ) -> None:
        """Add the relations between the members of a group."""
        rules = [rule for rule in self.mapping.relations if rule.group == group]
        if not rules or rules[0].outcome.drop is not None:
            reason = rules[0].outcome.drop if rules else "no rule"
            self._drop(f"group {group if rules else shown(group)}: {reason}")
            return
        here = [member for member in dict.fromkeys(members) if member in entities]
        for ends in permutations(here, 2):
            rule = next((r for r in rules if self._ends_fit(r, *ends)), None)
            # A group says that its members belong together, not that each pair is a relation.
            if rule is not None and rule.outcome.drop is None and self._is_allowed(entities, *ends):
                self._add(found, entities, f"group {group}", rule, ends)

    def _is_allowed(self, entities: dict[str, Entity], modifier: str, entity: str) -> bool:
        allowed = self.mapping.allowed_pairs.get(entities[entity].label, ())
        return entities[modifier].label in allowed

    def _add(
        self,
        found: dict[tuple[str, str], str],
        entities: dict[str, Entity],
        name: str,
        rule: RelationRule,
        ends: tuple[str, str],
    ) -> None:
        modifier, entity = ends
        label = rule.outcome.label_for(name.split(" ", 1)[1]) or ""
        if modifier not in entities or entity not in entities:
            self._drop(f"{name}: one of its mentions was dropped")
        elif not self._is_allowed(entities, modifier, entity):
            pair = f"{entities[modifier].label} does not modify {entities[entity].label}"
            self._drop(f"{name}: {pair}")
        elif ends in found:
            self._drop(f"{name}: the same two mentions are related already")
        else:
            found[ends] = label
            self.mapped[f"{name} -> {label}"] += 1

    def _attributes(self, entities: dict[str, Entity]) -> list[dict[str, str | bool]]:
        kept = []
        for item in items(self.note, ATTRIBUTES):
            name, value = item["name"], item["value"]
            rule = next(
                (
                    r
                    for r in self.mapping.attributes
                    if name in r.names and r.value in (None, value)
                ),
                None,
            )
            label = rule.outcome.label_for(name) if rule else None
            if rule is None:
                self._drop(f"attribute {shown(name)}: no rule")
            elif label is None:
                self._drop(f"attribute {name}: {rule.outcome.drop}")
            elif item["target"] not in entities:
                self._drop(f"attribute {name}: its mention was dropped")
            else:
                kept.append(item | {"name": label})
                self.mapped[f"attribute {name} -> {label}"] += 1
        return kept


def _holds(link: Link | None, others: list[tuple[str, str]] | tuple[()]) -> bool:
    return link is None or any(
        (not link.relations or name in link.relations) and (not link.types or kind in link.types)
        for name, kind in others
    )
