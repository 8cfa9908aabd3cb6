"""Sentence boundaries: they cover every character, and stand where a reader of notes sees them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.corpora.sentences import sentence_spans

PIECES = [
    " ", "\n", "\r\n", "\r", "\t", ".", "?", "!", ")", '"', ":", ";", "-", "1", "2.5", "Dr.",
    "q.d.", "pain", "Pain", "Plan:", "\u2022", "\x0b", "\x85", "\u2028", "\u00a0", "\U0001f600",
    "word " * 12,
]  # fmt: skip


def sentences(text):
    return [text[span.start : span.end] for span in sentence_spans(text)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=40))
def test_sentences_cover_every_character_once_and_in_order(text):
    spans = sentence_spans(text)
    assert "".join(text[s.start : s.end] for s in spans) == text
    assert [s.start for s in spans[1:]] == [s.end for s in spans[:-1]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_sentence_is_blank_unless_the_note_is(text):
    if text.strip():
        assert all(sentence.strip() for sentence in sentences(text))
    else:
        assert len(sentences(text)) == (1 if text else 0)


EXAMPLES = {
    "stops": ["No fever. ", "denies chest pain! ", "Nausea? ", "(Mild.) ", "Home."],
    "titles": ["Seen by Dr. Roe and Mrs. Poe vs. plan. ", "Stable."],
    "initials": ["Discussed with A. B. Smith today. ", "Agrees."],
    "dosing": ["Aspirin 81 mg p.o. q.d. for pain, 2.5 mg b.i.d. as needed. ", "Stop."],
    "dosing at the end": ["Takes 5 mg b.i.d. ", "Denies pain."],
    "units": ["Weight 70 kg. ", "Height 180 cm. and stable."],
    "decimals": ["INR 2.5 today, K 3.9. ", "Repeat."],
    "versions and sites": ["Lesion at T.10 and www.example.org seen. ", "Done."],
    "numbers at the end": ["Pain 5. ", "No fever at 37. ", "Next."],
    "numbered list": ["1. Aspirin daily\n", "2. Lisinopril. ", "Well tolerated\n", "10) Home"],
    "bullets": ["- chest pain\n", "- cough\n", "\u2022 fever"],
    "headings": ["PLAN:\n", "Rest and fluids\n", "Allergies: none\n", "Follow up"],
    "blank lines": ["\n\nFirst part\r\n\r\n", "second part\r\n \r\n"],
    "wrapped prose": [
        "The patient was admitted with a history of chest pain and shortness\n"
        "of breath which had been worsening over the last three days before\n"
        "admission. ",
        "He was given oxygen and a\n",
        "drip.",
    ],
    "long lines that are paragraphs": ["word " * 40 + "end\n", "lower case goes on\n", "and on"],
    "only white space": [" \n\t\r\n "],
    "quotes": ['He said "no pain." ', "Then left."],
    "stops in a row": ["Well... ", "better now?! ", "Good."],
    "a lonely mark": ["INR ? 2.5 today"],
}


@pytest.mark.parametrize("what", EXAMPLES)
def test_boundaries_stand_where_a_reader_of_notes_sees_them(what):
    assert sentences("".join(EXAMPLES[what])) == EXAMPLES[what]


@pytest.mark.parametrize(
    "unit",
    ["a", ".", ". ", "\n", " ", ".)", "1. ", "\r\n- a", ":a ", "a: ", "\t", "A.b", "Dr. ", " \n"],
)
def test_the_time_grows_with_the_length_only(unit, grows_linearly):
    def cut(length: int) -> None:
        text = "." + unit * (length // len(unit)) + "x"
        assert sentence_spans(text)[-1].end == len(text)

    assert grows_linearly(cut, 60_000)
