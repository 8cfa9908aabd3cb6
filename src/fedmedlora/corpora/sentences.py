"""Sentence boundaries by rules made for clinical notes: lists, headings, abbreviations, decimals.

The spans cover every character: the white space after a sentence belongs to it. All rules look at
a bounded stretch around a line end or a stop, so that the time grows with the length of the note
and with nothing else.
"""

from __future__ import annotations

import re

from fedmedlora.core.document import Span

_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\n|\r|\Z)")
# A run of stops with closing brackets or quotes, then white space on the same line.
_STOP = re.compile(r"(?<![.?!])([.?!]++)[)\]\"'\u201d\u2019\u00bb]*+[^\S\r\n]++(?=[^\r\n])")
_MARK = r"[(]?(?:[0-9]{1,2}|[A-Za-z]|[ivxIVX]{2,4})"
# A line that starts something new: a bullet, a number or letter of a list, a short heading.
_ITEM = re.compile(
    rf"""[^\S\r\n]*+(?:
        [-*\u2022\u00b7\u25e6\u25aa\u2013\u2014>\#+]+[^\S\r\n]
      | [\u2022\u00b7\u25e6\u25aa]
      | {_MARK}[.)][^\S\r\n]
      | [^\s:]{{1,30}}(?:[ ][^\s:]{{1,30}}){{0,5}}:(?:\s|\Z)
    )""",
    re.VERBOSE,
)
_ITEM_MARK = re.compile(_MARK)
_LAST_WORD = re.compile(r"[^\s(\[{\"'\u201c\u2018/,;:]*\Z")
_FIRST_WORD = re.compile(r"[(\[{\"'\u201c\u2018]*([^\s]?)")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]")
_LETTERS = re.compile(r"[A-Za-z]")

_LOOKBACK = 32
_MIN_WRAP_CHARS, _MAX_WRAP_CHARS, _WRAP_SLACK_CHARS = 50, 132, 4

# Words that the next word belongs to, so that their stop never ends a sentence.
_LEADING = """
al approx c.o ca cf d.o.b dept dob dr drs dx e.g ed eds eg est ext fig figs fr fx gen h.o hosp ht hx
i.e ie incl excl jr mr mrs ms prof pt pts q r.o resp rev rx s.p sp spp sr st
subsp sx tab temp tx univ var viz vol vs w.o wt y.o yo
"""
# Words whose stop ends a sentence only where the next word starts like one.
_TRAILING = """
a.c a.m abd am amp ant apr aug ave b.i.d bid bilat blvd cap caps cc cm co corp d dec dist dl etc
feb fri ft g gm gms gr h h.s hr hrs i.m i.v im in inc inf inj iv jan jul jun kg lat lb lbs ltd m
mar max mcg med mg min mins ml mm mo mon mos neg no nos nov oct oz p.c p.m p.o p.r p.r.n pm po pos
post prn prox q.d q.h q.hs q.i.d q.o.d qd qhs qid qod s.c s.l s.q sat sc sec secs sep sept sl sol
soln sq sun sup supp susp t.i.d tabs thu thurs tid tue tues u ug units wed wk wks yr yrs
"""
_LEADING_WORDS = frozenset(_LEADING.split())
_TRAILING_WORDS = frozenset(_TRAILING.split())


def sentence_spans(text: str) -> list[Span]:
    """Sentences in text order that together cover every character; none for an empty text."""
    if not text:
        return []
    lines = [match.span() for match in _LINE.finditer(text) if match.end() > match.start()]
    width = _wrap_width(lines)
    ends = [len(text)]
    for index, (start, end) in enumerate(lines):
        ends.extend(
            match.end()
            for match in _STOP.finditer(text, start, end)
            if _stop_ends_sentence(text, start, match)
        )
        if index + 1 < len(lines) and _line_ends_sentence(
            text, start, end, lines[index + 1], width
        ):
            ends.append(end)
    return _without_blank_sentences(text, ends)


def _wrap_width(lines: list[tuple[int, int]]) -> int | None:
    """The width at which the note's lines are broken; None where a line is a paragraph or item."""
    longest = max(end - start for start, end in lines)
    return longest if _MIN_WRAP_CHARS <= longest <= _MAX_WRAP_CHARS else None


def _stop_ends_sentence(text: str, line_start: int, match: re.Match[str]) -> bool:
    if match[1] != ".":
        return not text[match.start() - 1 : match.start()].isspace()  # "INR ? 2.5" is one
    before = text[max(line_start, match.start() - _LOOKBACK) : match.start()]
    found = _LAST_WORD.search(before)
    word = found[0].lower() if found else ""
    if _ITEM_MARK.fullmatch(before.strip()) and match.start() - line_start < _LOOKBACK:
        return False  # the number of a list item
    following = _FIRST_WORD.match(text, match.end())
    first = following[1] if following else ""
    if word in _LEADING_WORDS:
        return False
    if _INITIALS.fullmatch(word) or word in _TRAILING_WORDS:
        return len(word) > 1 and first.isupper()
    if not _LETTERS.search(word):
        return not first.islower()
    return True


def _line_ends_sentence(
    text: str, start: int, end: int, following: tuple[int, int], width: int | None
) -> bool:
    """Whether the sentence stops with the line, and the next line does not carry it on."""
    last = text[max(start, end - _LOOKBACK) : end].rstrip()[-1:]
    head = text[following[0] : min(following[1], following[0] + _MAX_WRAP_CHARS)]
    if width is None or not last or last in ".?!:;" or head.isspace() or _ITEM.match(head):
        return True
    first_word = head.split(maxsplit=1)[0]
    # A broken line is one that had no room for the next word.
    return end - start + len(first_word) + _WRAP_SLACK_CHARS < width


def _without_blank_sentences(text: str, ends: list[int]) -> list[Span]:
    """The spans between the ends; a blank one goes to the sentence before, or else after it."""
    spans: list[Span] = []
    start = before = 0
    for end in sorted(set(ends)):
        blank = text[before:end].isspace()
        before = end
        if blank and spans:
            spans[-1] = Span(spans[-1].start, end)
        elif not blank:
            spans.append(Span(start, end))
        start = end if spans else 0
    return spans or [Span(0, len(text))]
