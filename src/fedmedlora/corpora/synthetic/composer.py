"""Draws from a grammar what one note says, with its mentions and their links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.synthetic.grammar import Choice, Mark, Number, Production, Sign, Use, Words

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from fedmedlora.corpora.synthetic.grammar import Node, Rules

# How much rarer what belongs to other topics than the note's is drawn.
_OFF_TOPIC_WORD, _OFF_TOPIC_RULE = 1 / 25, 1 / 3
# The topic that the other sex alone has.
_NOT_OF = {"m": "w", "f": "p"}


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a mention opens or closes."""

    key: int
    opens: bool


Event = str | Sign | Boundary


@dataclass(slots=True)
class Draft:
    """Words, signs and boundaries in order; labels by key; links from modifier to mention."""

    events: list[Event] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    links: list[tuple[int, int]] = field(default_factory=list)

    def splice(self, other: Draft) -> range:
        """Appends `other`; returns the keys that its mentions have got here."""
        base = len(self.labels)
        self.events += [
            Boundary(e.key + base, e.opens) if isinstance(e, Boundary) else e for e in other.events
        ]
        self.labels += other.labels
        self.links += [(head + base, tail + base) for head, tail in other.links]
        return range(base, len(self.labels))


class Composer:
    """Draws from the rules what one note says.

    Within a note, a rule named `s_*` (a sentence) or one of `lexicon` does not repeat a production
    before all have been used, and productions with one of the note's `topics` are preferred.
    `variant` is the patient's sex: a rule `he` may be written as `he_m` and `he_f`.
    `typo_rate` is the share of words from the lexicon with a slip of the keyboard.
    """

    def __init__(
        self,
        rules: Rules,
        rng: random.Random,
        *,
        lexicon: frozenset[str] = frozenset(),
        variant: Literal["m", "f"],
        topics: frozenset[str] = frozenset(),
        typo_rate: float = 0.0,
    ) -> None:
        self._rules = rules
        self._rng = rng
        self._lexicon = lexicon
        self._variant = variant
        self._topics = topics
        self._typo_rate = typo_rate
        self._used: dict[str, set[int]] = {}
        self._kept: dict[tuple[str, str], Draft] = {}
        self._schema = default_schema()

    def compose(self, rule: str) -> Draft:
        """What one expansion of `rule` says."""
        draft = Draft()
        name = rule if rule in self._rules else f"{rule}_{self._variant}"
        production = self._pick(name)
        scope: dict[str, list[int]] = {}
        pending: list[tuple[int, tuple[str, ...]]] = []
        self._write(production.nodes, draft, scope, pending, inside=None)
        for key, targets in pending:
            for target in (t for name in targets for t in scope.get(name, ())):
                if self._schema.allows(draft.labels[key], draft.labels[target]):
                    draft.links.append((key, target))
        if name in self._lexicon and self._rng.random() < self._typo_rate:
            self._slip(draft)
        return draft

    def _pick(self, name: str) -> Production:
        productions = self._rules[name]
        if name.startswith("s_") or name in self._lexicon:
            used = self._used.setdefault(name, set())
            if len(used) == len(productions):
                used.clear()
            indices = [i for i in range(len(productions)) if i not in used]
            weights = [self._weight(name, productions[i]) for i in indices]
            if not any(weights):
                weights = [1] * len(indices)
            chosen = self._rng.choices(indices, weights)[0]
            used.add(chosen)
            return productions[chosen]
        weights = [self._weight(name, p) for p in productions]
        return self._rng.choices(productions, weights)[0]

    def _weight(self, name: str, production: Production) -> float:
        if _NOT_OF[self._variant] in production.topics:
            return 0
        if not production.topics or production.topics & self._topics:
            return production.weight
        return production.weight * (_OFF_TOPIC_WORD if name in self._lexicon else _OFF_TOPIC_RULE)

    def _write(
        self,
        nodes: Sequence[Node],
        draft: Draft,
        scope: dict[str, list[int]],
        pending: list[tuple[int, tuple[str, ...]]],
        inside: int | None,
    ) -> None:
        for node in nodes:
            if isinstance(node, Words):
                draft.events.append(node.text)
            elif isinstance(node, Sign):
                draft.events.append(node)
            elif isinstance(node, Number):
                steps = round((node.high - node.low) / node.step)
                value = node.low + node.step * self._rng.randint(0, steps)
                draft.events.append(f"{value:.{node.decimals}f}")
            elif isinstance(node, Choice):
                self._write(self._rng.choice(node.options), draft, scope, pending, inside)
            elif isinstance(node, Use):
                keys = draft.splice(self._said(node))
                if node.handle:
                    mains = [k for k in keys if draft.labels[k] in self._schema.entity_labels]
                    scope.setdefault(node.handle, []).extend(mains)
                if inside is not None:
                    draft.links += self._inner_links(draft, keys, inside)
            else:
                self._mark(node, draft, scope, pending, inside)

    def _mark(
        self,
        node: Mark,
        draft: Draft,
        scope: dict[str, list[int]],
        pending: list[tuple[int, tuple[str, ...]]],
        inside: int | None,
    ) -> None:
        key = len(draft.labels)
        draft.labels.append(node.label)
        is_main = node.label in self._schema.entity_labels
        if node.handle:
            scope.setdefault(node.handle, []).append(key)
        if node.targets:
            pending.append((key, node.targets))
        elif inside is not None:
            draft.links += self._inner_links(draft, [key], inside)
        draft.events.append(Boundary(key, opens=True))
        self._write(node.body, draft, scope, pending, key if is_main else None)
        draft.events.append(Boundary(key, opens=False))

    def _inner_links(self, draft: Draft, keys: Iterable[int], inside: int) -> list[tuple[int, int]]:
        linked = {head for head, _ in draft.links}
        label = draft.labels[inside]
        return [
            (k, inside)
            for k in keys
            if k not in linked and self._schema.allows(draft.labels[k], label)
        ]

    def _said(self, node: Use) -> Draft:
        if not node.key:
            return self.compose(node.rule)
        address = (node.rule, node.key)
        if address not in self._kept:
            self._kept[address] = self.compose(node.rule)
        return self._kept[address]

    def _slip(self, draft: Draft) -> None:
        places = [
            (index, at)
            for index, event in enumerate(draft.events)
            if isinstance(event, str)
            for at in range(1, len(event) - 2)
            if event[at - 1 : at + 3].isalpha()
        ]
        if not places:
            return
        index, at = self._rng.choice(places)
        word = str(draft.events[index])
        kind = self._rng.randrange(3)
        middle = (word[at + 1] + word[at], word[at], word[at : at + 2] + word[at + 1])[kind]
        draft.events[index] = word[:at] + middle + word[at + 2 :]
