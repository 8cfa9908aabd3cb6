"""The literal prompts, frozen: a released format is never edited, it gets a new version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import Example
from fedmedlora.core.schema import TaskSchema, default_schema
from fedmedlora.prompts.registry import FORMATS, get_format

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"
NOTE = "Chest pain since Monday.\nAspirin 81 mg daily; troponin < 0.01."

COMPACT_PROMPT = """\
Copy the text and tag each problem, treatment, test, drug.
Text:
Chest pain since Monday.
Aspirin 81 mg daily; troponin < 0.01.
Tagged:
"""
COMPACT_ANSWER = """\
<problem>Chest pain</> since Monday.<drug>
Aspirin</> 81 mg daily;<test> troponin</> < 0.01."""

HTML_PROMPT = """\
### Task
Copy the input text and mark up each entity with an HTML span tag. Do not change the text.

### Entity Markup Guides
Use <span class="problem"> to mark a disease, symptom, sign, injury or other abnormal finding.
Use <span class="treatment"> to mark a procedure, operation, device or therapy that is not a drug.
Use <span class="test"> to mark a laboratory test, measurement, scan or examination.
Use <span class="drug"> to mark a medication, by generic, brand or class name.

### Input Text:
Chest pain since Monday.
Aspirin 81 mg daily; troponin < 0.01.

### Output Text:
"""
HTML_ANSWER = """\
<span class="problem">Chest pain</span> since Monday.
<span class="drug">Aspirin</span> 81 mg daily; <span class="test">troponin</span> < 0.01."""

JSON_PROMPT = """\
List each problem, treatment, test, drug in the text as JSON, in the order of the text:
[{"text": "the exact words", "label": "problem or treatment or test or drug", "occurrence": 1}]
"occurrence" is 2 where the same words stand in the text for the second time, and so on.
Text:
Chest pain since Monday.
Aspirin 81 mg daily; troponin < 0.01.
JSON:
"""
JSON_ANSWER = """\
[{"text": "Chest pain", "label": "problem", "occurrence": 1},
 {"text": "Aspirin", "label": "drug", "occurrence": 1},
 {"text": "troponin", "label": "test", "occurrence": 1}]"""

GOLDEN = {
    "compact": ("compact-v1", COMPACT_PROMPT, COMPACT_ANSWER),
    "html": ("html-v1", HTML_PROMPT, HTML_ANSWER),
    "json": ("json-v1", JSON_PROMPT, JSON_ANSWER),
}


def example(name: str) -> Example:
    entities = (
        Entity.at("T1", "problem", 0, 10),
        Entity.at("T2", "drug", 25, 32),
        Entity.at("T3", "test", 46, 54),
    )
    document = Document("note", NOTE, entities)
    labels = tuple(default_schema().entity_labels)
    return get_format(name).render(document, Span(0, len(NOTE)), labels)


def test_every_format_is_frozen_here() -> None:
    assert set(GOLDEN) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_prompt_and_answer_are_these_to_the_letter(name: str) -> None:
    made = example(name)

    assert (get_format(name).id, made.prompt.text, made.completion_text) == GOLDEN[name]


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_shows_prompt_and_answer_to_the_letter(name: str) -> None:
    made = example(name)
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)

    assert made.prompt.text in blocks
    assert made.completion_text + "\n" in blocks
    assert f"`{get_format(name).id}`" in PAGE.read_text("utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_the_prompt_asks_for_the_labels_in_question_and_no_other(name: str) -> None:
    document = Document("note", "Chest pain.", (Entity.at("T1", "problem", 0, 10),))
    made = get_format(name).render(document, Span(0, 11), ("drug",))
    words = made.prompt.instruction + made.prompt.cue

    assert "drug" in words
    assert not any(label in words for label in ("problem", "treatment", "test"))
    assert made.completion_text == ("[]" if name == "json" else "Chest pain.")
    assert (made.num_entities, made.num_lost) == (0, 0)


def test_html_takes_the_definitions_of_another_schema() -> None:
    schema = TaskSchema("mine", "v2", {"gene": "a gene or protein"}, {}, {})
    prompt = get_format("html", schema).prompt(Document("d", "BRCA1"), Span(0, 5), ("gene",))

    assert 'Use <span class="gene"> to mark a gene or protein.\n' in prompt.text


def test_an_unknown_format_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'yaml': expected one of compact, html, json"):
        get_format("yaml")
