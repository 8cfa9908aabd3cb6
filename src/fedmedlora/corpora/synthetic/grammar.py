r"""The notation in which the artificial hospitals are written, and its parser.

A grammar file holds rules. A rule is a name with a colon, then its productions, one an indented
line; a line that starts with `%3 ` is drawn three times as often. In a production

- `[a|b|]` is a choice, here with nothing as the third option;
- `<name>` is another rule, `<name@key>` the same words at every `key` of the note;
- `<#60-110>`, `<#2.5-9.9>`, `<#5-80/5>` are numbers, the last in steps of five;
- `{drug#d:aspirin}` is a mention with the handle `d`, and `{strength>d:81 mg}` a modifier linked to
  it; `<name#d>` gives the handle to all mentions of the rule, `>d+e` links to two handles, and
  a modifier inside a mention is linked to it. Handles live in one production;
- ` @hk` at the end names the topics of the production, one letter each;
- `^` capitalises the next letter, `a(n)` becomes `a` or `an`, `~` is a space that is kept
  (others collapse), `\n` and `\t` are line break and tab, `\` before any other sign keeps it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedmedlora.core.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Words:
    """Literal text."""

    text: str


@dataclass(frozen=True, slots=True)
class Sign:
    """`^` (capitalise what follows) or `a(n)` (an article that fits what follows)."""

    kind: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number between two bounds, in steps, with so many decimals."""

    low: float
    high: float
    step: float
    decimals: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences, all as likely."""

    options: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Use:
    """A rule by name; with a `key` the same words every time."""

    rule: str
    key: str
    handle: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled mention; `targets` are the handles of what it modifies."""

    label: str
    handle: str
    targets: tuple[str, ...]
    body: tuple[Node, ...]


Node = Words | Sign | Number | Choice | Use | Mark


@dataclass(frozen=True, slots=True)
class Production:
    """One way to write a rule, and how often relative to the others."""

    weight: int
    nodes: tuple[Node, ...]
    source: str
    topics: frozenset[str] = frozenset()


Rules = dict[str, tuple[Production, ...]]

_NUMBER = re.compile(r"<#(\d+(?:\.(\d+))?)-(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?>")
_USE = re.compile(r"<([a-z0-9_]+)(?:@([a-z0-9_]+))?(?:#([a-z0-9_]+))?>")
_MARK = re.compile(r"\{([a-z_]+)(?:#([a-z0-9_]+))?(?:>([a-z0-9_+]+))?:")
_TOPICS = re.compile(r"\s+@([a-z]+)$")
_WEIGHT = re.compile(r"%(\d+) ")
_ESCAPES = {"n": "\n", "t": "\t"}
_SPECIAL = frozenset("[]|<{}^~\\")


class _Parser:
    def __init__(self, source: str, where: str) -> None:
        self.source = source
        self.where = where
        self.at = 0

    def fail(self, what: str) -> CorpusError:
        return CorpusError(f"{self.where}, column {self.at + 1}: {what}. Correct the grammar.")

    def match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.source, self.at)
        if found is None:
            raise self.fail(f"expected {what}")
        self.at = found.end()
        return found

    def sequence(self, stops: str) -> tuple[Node, ...]:
        """Everything up to an unescaped sign of `stops`, or to the end where there is none."""
        nodes: list[Node] = []
        words: list[str] = []

        def flush() -> None:
            if words:
                nodes.append(Words("".join(words)))
                words.clear()

        while self.at < len(self.source):
            sign = self.source[self.at]
            if sign in stops:
                break
            if sign not in _SPECIAL and not self.source.startswith("a(n)", self.at):
                words.append(sign)
                self.at += 1
            elif sign == "\\":
                escaped = self.source[self.at + 1 : self.at + 2]
                words.append(_ESCAPES.get(escaped, escaped))
                self.at += 2
            elif sign == "~":
                words.append("\0")
                self.at += 1
            else:
                flush()
                nodes.append(self.special(sign))
        flush()
        return tuple(nodes)

    def special(self, sign: str) -> Node:
        if sign == "^":
            self.at += 1
            return Sign("^")
        if sign == "a":
            self.at += len("a(n)")
            return Sign("a(n)")
        if sign == "[":
            return self.choice()
        if sign == "{":
            found = self.match(_MARK, "{label:...}")
            body = self.sequence("}")
            self.close("}")
            targets = tuple(found[3].split("+")) if found[3] else ()
            return Mark(found[1], found[2] or "", targets, body)
        if sign == "<" and self.source.startswith("<#", self.at):
            found = self.match(_NUMBER, "<#low-high>")
            decimals = len(found[2] or "")
            step = float(found[4]) if found[4] else 10.0**-decimals
            return Number(float(found[1]), float(found[3]), step, decimals)
        if sign == "<":
            found = self.match(_USE, "<rule>")
            return Use(found[1], found[2] or "", found[3] or "")
        raise self.fail(f"unexpected {sign!r}")

    def choice(self) -> Choice:
        options: list[tuple[Node, ...]] = []
        while not options or self.source[self.at] == "|":
            self.at += 1
            options.append(self.sequence("|]"))
            if self.at >= len(self.source):
                raise self.fail("expected ']'")
        self.close("]")
        return Choice(tuple(options))

    def close(self, sign: str) -> None:
        if self.source[self.at : self.at + 1] != sign:
            raise self.fail(f"expected {sign!r}")
        self.at += 1


def parse_production(source: str, where: str) -> Production:
    """The production that one line of a grammar file holds.

    Raises:
        CorpusError: The line breaks the notation.
    """
    weight = _WEIGHT.match(source)
    topics = _TOPICS.search(source)
    parser = _Parser(
        source[weight.end() if weight else 0 : topics.start() if topics else None], where
    )
    return Production(
        int(weight[1]) if weight else 1,
        parser.sequence(""),
        source,
        frozenset(topics[1]) if topics else frozenset(),
    )


def parse_rules(text: str, where: str, *, several: bool = False) -> Rules:
    """The rules of a grammar file; with `several`, a line holds productions parted by `;`.

    Raises:
        CorpusError: A line breaks the notation or stands outside a rule, or a rule occurs twice.
    """
    rules: dict[str, list[Production]] = {}
    current: list[Production] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        here = f"{where}, line {number}"
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip().removesuffix(":")
            if name in rules:
                raise CorpusError(f"{here}: the rule {name!r} occurs twice. Merge the two.")
            current = rules[name] = []
        elif current is None:
            raise CorpusError(f"{here}: a production stands before the first rule. Name it.")
        else:
            parts = line.split(";") if several else [line]
            current += [parse_production(p.strip(), here) for p in parts if p.strip()]
    return {name: tuple(productions) for name, productions in rules.items()}
