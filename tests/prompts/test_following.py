"""A copy with faults, followed through its source."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.prompts.following import follow

TEXTS = st.text("ab <x", max_size=60) | st.lists(
    st.sampled_from(["nopain,", "fever", "aspirin81mg", "x"]), max_size=12
).map("".join)


@settings(deadline=None)
@given(answer=TEXTS, source=TEXTS)
def test_places_rise_and_hold_the_same_character(answer: str, source: str) -> None:
    places = follow(answer, source)
    found = [place for place in places if place >= 0]

    assert len(places) == len(answer)
    assert found == sorted(set(found))
    assert all(
        source[place] == char for place, char in zip(places, answer, strict=True) if place >= 0
    )


@given(source=TEXTS)
def test_a_faultless_copy_is_followed_throughout(source: str) -> None:
    assert follow(source, source) == list(range(len(source)))


FIRST, SECOND, THIRD = "nopaintoday.", "givenaspirin81mg.", "dischargedhome."


@pytest.mark.parametrize(
    ("answer", "followed"),
    [
        (FIRST + THIRD, FIRST + THIRD),  # a sentence is left out
        (FIRST + "seenbyDrNobody." + SECOND + THIRD, FIRST + SECOND + THIRD),  # one is invented
        (FIRST + FIRST + SECOND + THIRD, FIRST + SECOND + THIRD),  # one is repeated
        ("Hereitis:" + FIRST + SECOND + THIRD, FIRST + SECOND + THIRD),  # words in front
        (SECOND + FIRST + THIRD, SECOND + THIRD),  # two change places
        (FIRST + "givenasprin81mg." + THIRD, FIRST + "givenasprin81mg." + THIRD),  # a letter less
        (FIRST + "tookaspirin81mg." + THIRD, FIRST + "aspirin81mg." + THIRD),  # another word
    ],
)
def test_after_a_fault_the_source_is_found_again(answer: str, followed: str) -> None:
    source = FIRST + SECOND + THIRD
    places = follow(answer, source)

    assert "".join(source[place] for place in places if place >= 0) == followed


@pytest.mark.parametrize("unit", ["x", "nopain,", "abcdefgh"])
def test_long_texts_full_of_faults_are_followed_in_linear_time(unit: str, grows_linearly) -> None:
    def there_and_back(length: int) -> None:
        source = unit * (length // len(unit))
        answer = "".join("z" if index % 5 == 0 else char for index, char in enumerate(source))
        follow(answer, source)
        follow(source, answer)

    assert grows_linearly(there_and_back, 20_000)
