"""The pages on strategies and laws say what docstrings and settings say."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from docs.methods.render import FOLDER, configs, described, options, pages
from fedmedlora.testing.declared import DECLARED
from fedmedlora.testing.laws import LAWS


@pytest.mark.parametrize("name", pages())
def test_a_committed_page_is_what_is_written_now(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == pages()[name], "run: python docs/methods/render.py"


def test_every_strategy_has_a_section_with_all_of_its_options() -> None:
    page = pages()["strategies.md"]
    for config in configs():
        name = config.model_fields["name"].default
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None
        assert f"| [`{name}`](#{name}) |" in page
        for label in ("**Sends**", "**Limits**", "**Reference**", "```text"):
            assert label in section[1]
        fields = [f for f in config.model_fields if f not in ("name", "tuning")]
        assert all(f"| `{field}` |" in section[1] for field in fields)


def test_every_law_and_every_exception_is_told() -> None:
    page = pages()["laws.md"]
    assert all(f"| {law} | " in page for law in LAWS)
    assert all(f"| {name} | " in page for name in DECLARED)
    assert all(r in page for d in DECLARED.values() for r in d.exceptions.values())


def test_an_option_or_a_strategy_without_words_is_an_error() -> None:
    class Silent(BaseModel):
        size: int = 3

    class Terse:
        """Do something.

        Update:    x <- x
        Limits:    many
        """

    with pytest.raises(ValueError, match=r"Silent\.size"):
        options(Silent)
    with pytest.raises(ValueError, match="Terse"):
        described(Terse)
