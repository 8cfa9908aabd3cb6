"""Mapping files: what their rules mean, and what is said about a wrong one."""

import re
import tomllib
from pathlib import Path

import pytest

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.mapping import load_mapping, parse_mapping, shipped_mappings

SHIPPED = ["chia", "glaucoma-ohsu", "i2b2-2010", "kiwi", "maccrobat", "n2c2-2018"]


def parse(text):
    return parse_mapping(tomllib.loads(text), "m.toml")


def test_the_mappings_for_the_known_corpora_ship_with_the_package():
    assert shipped_mappings() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_mapping_has_no_fault_and_gives_labels_of_the_schema(name):
    mapping = load_mapping(name)
    assert mapping.name == name
    assert mapping.labels
    assert set(mapping.labels) <= set(default_schema().labels)


def test_a_mapping_is_found_by_name_by_name_with_underscores_and_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[entities]]\nfrom = "Rx"\nto = "drug"\n')
    assert load_mapping(str(path)).labels == ("drug",)
    assert load_mapping("glaucoma_ohsu") == load_mapping("glaucoma-ohsu")
    with pytest.raises(ConfigError, match="no such mapping file"):
        load_mapping(str(tmp_path / "other.toml"))
    with pytest.raises(ConfigError, match=r"macrobat: no such mapping; expected .* maccrobat"):
        load_mapping("macrobat")


def test_labels_stand_in_the_order_of_the_schema():
    text = """
    [[entities]]
    from = ["uncertain", "route"]
    keep = true
    [[entities]]
    from = "Rx"
    to = "drug"
    [[entities]]
    from = "Age"
    drop = "not wanted"
    [[relations]]
    from = "Has"
    modifier = "Arg1"
    to = "modifies"
    [[relations]]
    from = "Is"
    drop = "not wanted"
    """
    assert parse(text).labels == ("drug", "route", "uncertain")
    assert parse(text).relation_labels == ("modifies",)


RULE = '[[entities]]\nfrom = "Rx"\nto = "drug"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"no \[\[entities\]\] rule"),
        ("entities = 3", r"entities is not a list of tables"),
        ("rules = 3\n" + RULE, "unknown key 'rules'"),
        (RULE + "text_matchs = 'a'", "entities rule 1: unknown key 'text_matchs'"),
        (RULE + "text_matches = '('", "entities rule 1: text_matches is not a regular expr"),
        (RULE + "text_matches = 3", "entities rule 1: text_matches is not a regular expr"),
        (RULE + "word_list = 'test'", "there is no word list 'test'"),
        (RULE + "keep = true", "exactly one of 'to', 'keep' and 'drop'"),
        ('[[entities]]\nfrom = "Rx"', "exactly one of 'to', 'keep' and 'drop'"),
        ('[[entities]]\nfrom = "Rx"\nkeep = false', "keep is not true"),
        ('[[entities]]\nto = "drug"', "from is missing"),
        ('[[entities]]\nfrom = [3]\nto = "drug"', "from is missing, empty or neither"),
        ('[[entities]]\nfrom = "Rx"\nto = "medicine"', "'medicine' is not in clinical-ie-v1"),
        (RULE + "modifies = { typ = 'Rx' }", "rule 1: modifies: unknown key 'typ'"),
        (RULE + "attribute = { value = 'x' }", "attribute: name is missing"),
        (RULE + "[[relations]]\nfrom = 'Has'\nto = 'modifies'", "modifier is missing"),
        (RULE + "[[relations]]\nfrom = 'Has'\nto = 'm'\nmodifier = 'Arg3'", "neither Arg1 nor"),
        (RULE + "[[relations]]\nto = 'm'\nmodifier = 'Arg1'", "either 'from' or 'group'"),
        (RULE + "[[relations]]\ngroup = 'g'\nto = 'm'", "a group needs modifier_type"),
        (RULE + "[[relations]]\nfrom = 'g'\ndrop = 'x'\nsame_line = 1", "same_line is not true"),
        ("max_cover_characters = -1\n" + RULE, "max_cover_characters is not a whole number"),
        ("max_cover_characters = true\n" + RULE, "max_cover_characters is not a whole number"),
    ],
)
def test_a_wrong_mapping_is_refused_with_the_rule(text, fault):
    with pytest.raises(ConfigError, match=r"m\.toml: .*" + fault):
        parse(text)


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse('[[entities]]\nfrom = "A"\n[[entities]]\nto = "drug"\n')
    assert len(str(caught.value).splitlines()) == 2


def test_labels_of_ones_own_are_taken_with_pairs_of_ones_own():
    mapping = parse('[[entities]]\nfrom = "x"\nto = "gene"\n[allowed_pairs]\ngene = ["locus"]\n')
    assert mapping.labels == ("gene",)
    assert mapping.allowed_pairs == {"gene": ("locus",)}


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff")
    (tmp_path / "b.toml").write_text("a = = 3")
    for name in ("a.toml", "b.toml"):
        with pytest.raises(ConfigError, match="not TOML"):
            load_mapping(str(tmp_path / name))


def test_the_page_about_mapping_files_shows_one_that_works_and_names_every_key():
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text("utf-8")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    [example] = [text for text in examples if "[[entities]]" in text]
    assert parse(example).labels == ("treatment", "test", "drug", "duration", "temporal")
    with pytest.raises(ConfigError) as caught:
        parse("x = 1\n[[entities]]\ny = 1\n[[relations]]\nz = 1\n")
    told = re.findall(r"unknown key .*; expected (.*)\.", str(caught.value))
    known = {key for keys in told for key in keys.split(", ")}
    assert len(told) == 3
    named = re.compile(r"`(?:\[\[)?(\w+)|^(?:\[+)?(\w+)\b", re.MULTILINE)
    assert known <= {word for match in named.findall(page) for word in match}
