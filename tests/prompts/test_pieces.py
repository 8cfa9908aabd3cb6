"""Pieces: every character once, short, and cut where annotators put boundaries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.prompts.pieces import cut
from fedmedlora.testing.generators import note_texts

MOST = 64


def slow_cut(text: str) -> list[tuple[int, int, int]]:
    """The rule in plain steps: up to 64 white-space characters, then a word, a number or one."""
    found = []
    start = 0
    while start < len(text):
        core = start
        while core < len(text) and text[core].isspace() and core - start < MOST:
            core += 1
        end = core
        if core < len(text) and not text[core].isspace():
            end = core + 1
            for kind in (str.isdecimal, lambda c: c.isalnum() and not c.isdecimal()):
                if kind(text[core]):
                    while end < len(text) and kind(text[end]) and end - core < MOST:
                        end += 1
        found.append((start, end, core - start))
        start = end
    return found


@settings(deadline=None)
@given(note_texts())
def test_pieces_follow_the_rule_and_cover_every_character(text: str) -> None:
    pieces = cut(text)

    assert [(p.start, p.end, p.num_space) for p in pieces] == slow_cut(text)
    assert "".join(text[p.start : p.end] for p in pieces) == text


@settings(deadline=None)
@given(st.text(st.sampled_from("a \t\n5<é\u0301"), max_size=400))
def test_no_piece_is_long(text: str) -> None:
    assert all(0 < p.end - p.start <= 2 * MOST for p in cut(text))


def test_dose_and_unit_are_apart_and_white_space_goes_with_the_next_word() -> None:
    text = "on aspirin 81mg (q6h),\r\n\tno\u00a0e\u0301 <problem> 😀 "
    words = [text[p.start : p.end] for p in cut(text)]

    assert words == [
        *("on", " aspirin", " 81", "mg", " (", "q", "6", "h", ")", ",", "\r\n\tno"),
        *("\u00a0e", "\u0301", " <", "problem", ">", " 😀", " "),
    ]
    assert cut(text)[-1].core_start == len(text)  # white space alone has no core


def test_an_empty_text_has_no_pieces() -> None:
    assert cut("") == []


@pytest.mark.parametrize("unit", ["a", " ", "\u0301", "😀", "<problem>", " a", " " * 65 + "a"])
def test_a_long_line_is_cut_in_linear_time(unit: str, grows_linearly) -> None:
    def cut_line(length: int) -> None:
        text = unit * (length // len(unit))
        assert cut(text)[-1].end == len(text)

    assert grows_linearly(cut_line, 40_000)
