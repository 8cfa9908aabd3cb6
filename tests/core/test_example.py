"""A prompt and an answer are the concatenation of their parts, nothing added."""

from __future__ import annotations

from fedmedlora.core.document import Span
from fedmedlora.core.example import Example, Prompt, Segment


def test_nothing_is_put_between_the_parts_of_a_prompt_or_an_answer() -> None:
    prompt = Prompt("n", Span(0, 6), ("drug",), "Mark drugs: ", "<b>\r\n ", "\nAnswer:")
    answer = (Segment("<b>", tag=False), Segment("[d]", tag=True), Segment("\r\n ", tag=False))

    assert prompt.text == "Mark drugs: <b>\r\n \nAnswer:"
    assert Example(prompt, answer, "entities", 1).completion_text == "<b>[d]\r\n "
