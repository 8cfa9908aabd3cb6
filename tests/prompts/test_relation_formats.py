"""The literal prompts of the relation task, frozen as those of the entity task are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import Example
from fedmedlora.prompts.registry import FORMATS
from fedmedlora.prompts.relation_formats import get_relation_format

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"
NOTE = "Severe chest pain and nausea since Monday.\nNo fever. Aspirin 81 mg daily."
LABELS = ("severity", "bodyloc", "temporal", "negation", "strength", "frequency")

COMPACT_LINKED_PROMPT = """\
Copy the text without its marks and tag each severity, bodyloc, temporal, negation, strength, \
frequency, with the numbers of the marked entities that it belongs to.
Text:
Severe<1 problem> chest pain</> and<2 problem> nausea</> since Monday.
No<3 problem> fever</>.<4 drug> Aspirin</> 81 mg daily.
Tagged:
"""
COMPACT_LINKED_ANSWER = """\
<severity>Severe</1><bodyloc> chest</1> pain and nausea<temporal> since Monday</1,2>.<negation>
No</3> fever. Aspirin<strength> 81 mg</4><frequency> daily</0>."""

COMPACT_PROMPT = """\
Copy the text without its marks and tag each severity, bodyloc, temporal, negation, strength, \
frequency.
Text:
Severe<1 problem> chest pain</> and<2 problem> nausea</> since Monday.
No<3 problem> fever</>.<4 drug> Aspirin</> 81 mg daily.
Tagged:
"""
COMPACT_ANSWER = """\
<severity>Severe</><bodyloc> chest</> pain and nausea<temporal> since Monday</>.<negation>
No</> fever. Aspirin<strength> 81 mg</><frequency> daily</>."""

HTML_LINKED_PROMPT = """\
### Task
Copy the input text without the span tags of its given entities, and mark up each modifier of \
these entities with an HTML span tag. Do not change the text.

### Entity Markup Guides
Use <span class="severity"> to mark how severe a problem is.
Use <span class="bodyloc"> to mark the body part or site of a problem.
Use <span class="temporal"> to mark a date, time or duration of a problem, treatment or test.
Use <span class="negation"> to mark a word that says that something is absent.
Use <span class="strength"> to mark the amount of substance in one unit of a drug.
Use <span class="frequency"> to mark how often a drug is taken.
In each tag, write the numbers of the entities that it belongs to: of="1", of="1,3", or of="0" \
for none.

### Input Text:
Severe <span class="problem" id="1">chest pain</span> and <span class="problem" \
id="2">nausea</span> since Monday.
No <span class="problem" id="3">fever</span>. <span class="drug" id="4">Aspirin</span> 81 mg \
daily.

### Output Text:
"""
HTML_LINKED_ANSWER = """\
<span class="severity" of="1">Severe</span> <span class="bodyloc" of="1">chest</span> pain and \
nausea <span class="temporal" of="1,2">since Monday</span>.
<span class="negation" of="3">No</span> fever. Aspirin <span class="strength" of="4">81 mg</span> \
<span class="frequency" of="0">daily</span>."""

HTML_PROMPT = """\
### Task
Copy the input text without the span tags of its given entities, and mark up each modifier of \
these entities with an HTML span tag. Do not change the text.

### Entity Markup Guides
Use <span class="severity"> to mark how severe a problem is.
Use <span class="bodyloc"> to mark the body part or site of a problem.
Use <span class="temporal"> to mark a date, time or duration of a problem, treatment or test.
Use <span class="negation"> to mark a word that says that something is absent.
Use <span class="strength"> to mark the amount of substance in one unit of a drug.
Use <span class="frequency"> to mark how often a drug is taken.

### Input Text:
Severe <span class="problem" id="1">chest pain</span> and <span class="problem" \
id="2">nausea</span> since Monday.
No <span class="problem" id="3">fever</span>. <span class="drug" id="4">Aspirin</span> 81 mg \
daily.

### Output Text:
"""
HTML_ANSWER = """\
<span class="severity">Severe</span> <span class="bodyloc">chest</span> pain and nausea <span \
class="temporal">since Monday</span>.
<span class="negation">No</span> fever. Aspirin <span class="strength">81 mg</span> <span \
class="frequency">daily</span>."""

GOLDEN = {
    ("compact", True): ("compact-relations-v1", COMPACT_LINKED_PROMPT, COMPACT_LINKED_ANSWER),
    ("compact", False): ("compact-relations-v1", COMPACT_PROMPT, COMPACT_ANSWER),
    ("html", True): ("html-relations-v1", HTML_LINKED_PROMPT, HTML_LINKED_ANSWER),
    ("html", False): ("html-relations-v1", HTML_PROMPT, HTML_ANSWER),
}
CASES = pytest.mark.parametrize(("name", "linked"), GOLDEN)


def example(name: str, *, linked: bool) -> Example:
    """Severity and place of one problem, a time of two, and a frequency that nobody linked."""

    def at(name: str, label: str, words: str) -> Entity:
        start = NOTE.index(words)
        return Entity.at(name, label, start, start + len(words))

    entities = (
        at("T1", "problem", "chest pain"),
        at("T2", "problem", "nausea"),
        at("T3", "problem", "fever"),
        at("T4", "drug", "Aspirin"),
        at("M1", "severity", "Severe"),
        at("M2", "bodyloc", "chest"),
        at("M3", "temporal", "since Monday"),
        at("M4", "negation", "No"),
        at("M5", "strength", "81 mg"),
        at("M6", "frequency", "daily"),
    )
    links = (("M1", "T1"), ("M2", "T1"), ("M3", "T1"), ("M3", "T2"), ("M4", "T3"), ("M5", "T4"))
    relations = tuple(Relation(f"R{i}", "modifies", *link) for i, link in enumerate(links))
    document = Document("note", NOTE, entities, relations)
    return get_relation_format(name).render(document, Span(0, len(NOTE)), LABELS, linked=linked)


def test_every_format_that_can_be_trained_has_a_form_for_relations_that_is_frozen_here() -> None:
    assert {name for name, _ in GOLDEN} == set(FORMATS) - {"json"}
    with pytest.raises(ConfigError, match="has no form for relations; expected compact or html"):
        get_relation_format("json")


@CASES
def test_prompt_and_answer_are_these_to_the_letter(name: str, linked: bool) -> None:
    made = example(name, linked=linked)

    found = (get_relation_format(name).id, made.prompt.text, made.completion_text)
    assert found == GOLDEN[name, linked]
    assert (made.num_entities, made.num_lost) == (6, 0)


@CASES
def test_the_page_shows_prompt_and_answer_to_the_letter(name: str, linked: bool) -> None:
    made = example(name, linked=linked)
    page = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)

    assert made.prompt.text in blocks
    assert made.completion_text + "\n" in blocks
    assert f"`{get_relation_format(name).id}`" in page
