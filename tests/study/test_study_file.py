"""The study file: defaults, overrides, and every fault told at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.study.data import load_notes
from fedmedlora.study.study_file import load_study


def faults(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return str(caught.value).splitlines()


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


MINIMAL = """
name = "least"
[[sites]]
name = "north"
corpus = "hospitals/north"
[[strategies]]
name = "fedavg"
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return write(tmp_path / "study.toml", MINIMAL)


# What is accepted ----------------------------------------------------------------------------


def test_a_name_a_site_and_a_strategy_are_enough(minimal: Path) -> None:
    study = load_study(minimal)

    assert study.federation.rounds == 3
    assert study.model.base == "smollm2-135m"
    assert study.path_of(study.sites[0]) == minimal.parent / "hospitals" / "north"


def test_the_root_in_the_file_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "s.toml", MINIMAL + '[data]\nroot = "../notes"\n')
    monkeypatch.chdir(tmp_path / "deep")

    assert load_study(Path("s.toml")).data.root == tmp_path / "notes"


def test_the_root_of_an_override_is_relative_to_the_working_directory(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert load_study(minimal, ["data.root=notes"]).data.root == tmp_path / "elsewhere" / "notes"
    assert load_study(minimal, ["data.root=2024"]).data.root == tmp_path / "elsewhere" / "2024"
    assert load_study(minimal, ["data.root=/notes"]).data.root == Path("/notes")


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda s: s.seed == 7),
        ("name=other", lambda s: s.name == "other"),
        ('name="quoted"', lambda s: s.name == "quoted"),
        ("training.epochs=2", lambda s: s.training.epochs == 2),
        ("lora.rank=4", lambda s: s.lora.rank == 4),
        ("training.learning_rate=2e-4", lambda s: s.training.learning_rate == 2e-4),
        ("model.base=org/model-1.5B", lambda s: s.model.base == "org/model-1.5B"),
        ("model.base=a=b", lambda s: s.model.base == "a=b"),
        ("data.artificial=true", lambda s: s.data.artificial is True),
        ("sites.0.name=south", lambda s: s.sites[0].name == "south"),
        ('sites.0.labels=["drug"]', lambda s: s.sites[0].labels == ("drug",)),
        ("strategies.0.size=entities", lambda s: s.strategies[0].size == "entities"),
        (
            "server_notes.notes_per_site=2",
            lambda s: s.server_notes and s.server_notes.notes_per_site == 2,
        ),
        ('evaluation.presets=["lenient"]', lambda s: s.evaluation.presets == ("lenient",)),
        (
            'cohorts=[{name="far", corpus="far"}]',
            lambda s: [c.name for c in s.cohorts] == ["far"],
        ),
    ],
)
def test_an_override_reaches_tables_list_items_and_new_tables(
    minimal: Path, override: str, read: Any
) -> None:
    assert not read(load_study(minimal))
    assert read(load_study(minimal, [override]))


def test_the_last_of_two_overrides_wins(minimal: Path) -> None:
    assert load_study(minimal, ["seed=1", "seed=2"]).seed == 2


# What is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("rounds", "--set rounds: expected KEY=VALUE"),
        ("=3", "--set : expected KEY=VALUE"),
        ("sites.7.name=x", "--set sites.7.name: there is no '7' in the study file"),
        ("sites.x=1", "--set sites.x: there is no such key in the study file"),
        ("name.first=x", "--set name.first: there is no such key in the study file"),
        ("name.a.b=x", "--set name.a.b: there is no 'a' in the study file"),
    ],
)
def test_an_override_of_nothing_is_a_fault(minimal: Path, override: str, reason: str) -> None:
    assert any(reason in fault for fault in faults(minimal, override))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("federation.round=3", "federation.round: unknown key. Did you mean rounds?"),
        ("colour=red", "colour: unknown key. Expected some of name, seed, about"),
        ("federation.rounds=many", 'federation.rounds: expected a whole number, got "many"'),
        ("federation.rounds=0", "federation.rounds: expected more than 0, got 0"),
        ("federation.rounds=1.5", "federation.rounds: expected a whole number, got"),
        ("federation.rounds=true", "federation.rounds: expected a whole number, got"),
        ("federation.rounds='3'", "federation.rounds: expected a whole number, got"),
        ("training.epochs='1'", 'training.epochs: expected a number, got "1"'),
        ("data.artificial=yes", 'data.artificial: expected true or false, got "yes"'),
        ("seed=2024-01-01", 'seed: expected a whole number, got "2024-01-01"'),
        ("federation.codec=int8", 'federation.codec: expected "fp32" or "bf16", got "int8"'),
        ("federation.min_sites=2", "federation.min_sites: 2, but the arm fedavg has 1 site."),
        ("training.learning_rate=inf", "training.learning_rate: expected a finite number, got"),
        ("training.learning_rate=nan", "training.learning_rate: expected"),
        ("training.learning_rate=-1", "training.learning_rate: expected more than 0, got -1"),
        ("training.negatives=2", "training.negatives: expected at most 1, got 2"),
        ("lora=3", "lora: expected a table, [lora], got 3"),
        ("data=3", "data: expected a table, [data], got 3"),
        ("sites=[]", "sites: expected at least 1 [[sites]], got []"),
        ("sites=3", "sites: expected tables, each below a line [[sites]], got 3"),
        (
            'strategies="fedavg"',
            'expected tables, each below a line [[strategies]], got "fedavg". Write '
            '[[strategies]], and below it name = "fedavg".',
        ),
        ('strategies="fedprx"', 'Write [[strategies]], and below it name = "fedprox".'),
        ('strategies=["uniform"]', 'Write [[strategies]], and below it name = "uniform".'),
        (
            'server_notes={notes_per_site=1, sites="north"}',
            'server_notes.sites: expected a list, such as ["...", "..."], got "north". Write sites '
            '= ["north"].',
        ),
        ("sites.0.labels=[]", "sites.0.labels: expected at least 1 item, got []"),
        ("sites.0.group=(", "north: group is not a regular expression with one group"),
        ("sites.0.group=a.b", "north: group is not a regular expression with one group"),
        ("model.base=./none", "model.base: ./none: no such file or folder"),
        ("model.base=none.gguf", "model.base: none.gguf: no such file or folder"),
        ("sites.0.corpus=3", "sites.0.corpus"),
        ("lora.target_modules=[]", "lora.target_modules: expected at least 1 item"),
        ("evaluation.presets=[]", "evaluation.presets: expected at least 1 item"),
        ('evaluation.presets=["strict", "strict"]', "evaluation.presets: strict occurs twice"),
        (
            'evaluation.presets=["near"]',
            'evaluation.presets.0: expected "strict" or "lenient", got "near"',
        ),
        (
            "strategies.0.name=fedbest",
            "strategies.0: no strategy is called 'fedbest'. Expected one of fedavg, uniform,",
        ),
        ("strategies.0.name=fedmedlora", "'fedmedlora'. Did you mean 'fedmedlora-plus'?"),
        ("strategies.0.name=FedAvg", "no strategy is called 'FedAvg'. Did you mean 'fedavg'?"),
        (
            'strategies=[{name="fedmedlora-plus", mode="referenc"}]',
            """"cross-eval", got "referenc". Did you mean 'reference'?""",
        ),
        ('strategies=[{mode="paper"}]', "strategies.0: name is missing; expected that of a strat"),
        ("rounds=3", "rounds: unknown key here; it belongs to [federation]"),
        ("training.rounds=3", "training.rounds: unknown key here; it belongs to [federation]"),
        ("model.seed=3", "model.seed: unknown key here; it belongs to the top of the file"),
        ("federation.processes=many", 'expected a whole number, "auto" or "gpus", got "many"'),
        ("tasks=entities", 'got "entities". Write tasks = ["entities"]'),
        ('cohorts=[{name="x"}]', 'cohorts.0.corpus: missing. Write corpus = "FOLDER"'),
        ("strategies.0.mode=paper", "strategies.0.mode: unknown key. Expected some of name, size"),
        ('strategies=[{name="fedavg"}, {name="fedavg"}]', "fedavg is listed more than once"),
        *(
            (f"strategies=[{{{strategy}}}]", "expected [server_notes], got none")
            for strategy in (
                'name="fedmedlora-plus", mode="reference"',
                'name="fedmedlora-plus", mode="learned"',
                'name="greedy-soup"',
            )
        ),
        ("split.train=0.9", "split: the shares add up to 1.2; expected 1"),
        ("split.test=0", "split.test: expected more than 0, got 0"),
        ('server_notes.sites=["south"]', "server_notes.sites: 'south' is not a training site"),
        ('cohorts=[{name="north", corpus="x"}]', "'north' is used for more than one site"),
        ('cohorts=[{name="a", corpus="hospitals/north"}]', "trained on at one place and tested"),
        ('cohorts=[{name="a", corpus="x/../hospitals/north"}]', "trained on at one place"),
        ("name=a/b", "name 'a/b': expected letters, digits"),
        ("name=", "name '': expected letters, digits"),
        ("sites.0.name=.hidden", "name '.hidden': expected letters"),
        ("sites.0.name=a--b", "name 'a--b': expected letters"),
        ('sites.0.name="two words"', "name 'two words': expected letters"),
        ('sites.0.name="line\\nend"', "name 'line\\nend': expected letters"),
        ("sites.0.name=pooled", "name 'pooled': stands for the notes of all sites"),
        (f"sites.0.name={'x' * 65}", "at most 64"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    minimal: Path, override: str, reason: str
) -> None:
    found = faults(minimal, override)

    assert any(reason in fault for fault in found), found


def test_a_study_without_any_arm_is_a_fault(minimal: Path) -> None:
    off = [f"arms.{arm}=false" for arm in ("zero_shot", "single_site", "centralized")]

    assert any("nothing to do" in fault for fault in faults(minimal, "strategies=[]", *off))
    assert load_study(minimal, off)
    assert load_study(minimal, ["strategies=[]"])


BOTH = 'tasks=["entities", "relations"]'
TWO_SITES = 'sites=[{name="a", corpus="a", tasks=["entities"]}, {name="b", corpus="b"}]'


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (['tasks=["relations", "relations"]'], "tasks: relations occurs twice"),
        ([BOTH, 'arms.tasks=["mix", "mix"]'], "arms.tasks: mix occurs twice"),
        (['sites.0.tasks=["relations"]'], "north: tasks: relations is not a task of the study"),
        (['arms.tasks=["relations"]'], "arms.tasks: relations is not a task of the study"),
        ([BOTH, 'sites.0.tasks=["entities"]'], "tasks: no site trains relations; expected at"),
        (
            ['sites.0.tasks=["coding"]'],
            'sites.0.tasks.0: expected "entities" or "relations", got "coding"',
        ),
        (
            [BOTH, 'sites=[{name="a", corpus="a"}, {name="a.relations", corpus="b"}]'],
            "name 'a.relations': stands for a part of site 'a'",
        ),
        (
            [BOTH, TWO_SITES, 'server_notes.sites=["a"]'],
            "server_notes.sites: none of them trains relations",
        ),
        (
            [
                'strategies=[{name="fedavg"}, {name="fedavg", size="entities"}]',
                'arms.tasks=["mix", "entities"]',
            ],
            "arms: two are called fedavg-entities",
        ),
        (
            [BOTH, TWO_SITES, 'arms.tasks=["mix", "relations"]', "federation.min_sites=2"],
            "federation.min_sites: 2, but the arm fedavg-relations has 1 site.",
        ),
        (["training.relation_share=1.5"], "training.relation_share"),
        (["training.relation_share=most"], "training.relation_share"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tasks_that_nobody_can_train_are_told_before_a_run(
    minimal: Path, overrides: list[str], reason: str
) -> None:
    found = faults(minimal, *overrides)

    assert any(reason in fault for fault in found), found


def test_tasks_of_sites_and_arms_are_accepted_where_they_fit(minimal: Path) -> None:
    arms = 'arms.tasks=["mix", "entities", "relations"]'
    assert load_study(minimal, [BOTH, TWO_SITES, arms, "federation.min_sites=1"])
    study = load_study(minimal, [BOTH, 'server_notes.sites=["north"]', arms])
    assert study.tasks_of(study.sites[0]) == ("entities", "relations")
    # Each of two clients of one site counts.
    assert load_study(minimal, [BOTH, 'federation={min_sites=2, clients="task"}'])
    assert load_study(minimal, ["training.relation_share=tokens"])


def sites(number: int) -> str:
    tables = ", ".join(f'{{name="s{n}", corpus="s{n}"}}' for n in range(number))
    return f"sites=[{tables}]"


def faults_of_file(path: Path, *overrides: str) -> list[str]:
    """Without those of the notes, which are not there."""
    return [fault for fault in faults(path, *overrides) if fault.startswith(f"{path}: ")]


KRUM = 'strategies=[{name="multi-krum"}]'


def test_multi_krum_with_too_few_sites_is_told_before_a_run(minimal: Path) -> None:
    (fault,) = faults_of_file(minimal, KRUM, sites(4))

    assert "arm multi-krum: multi-krum: to withstand 1 bad site it needs 5; expected" in fault
    assert "got 4" in fault
    assert load_study(minimal, [KRUM, sites(5)])
    assert load_study(minimal, ['strategies=[{name="multi-krum", num_bad=0}]', sites(3)])
    # An arm of one task has fewer sites than that of both.
    fewer = [BOTH, KRUM, sites(5), 'sites.4.tasks=["entities"]']
    assert load_study(minimal, fewer)
    (fault,) = faults_of_file(minimal, *fewer, 'arms.tasks=["mix", "relations"]')
    assert "arm multi-krum-relations" in fault


@pytest.mark.parametrize("name", ["flexlora", "fedmedlora-plus"])
def test_ranks_of_sites_fit_the_sites_and_the_study(minimal: Path, name: str) -> None:
    def ranks(table: str) -> str:
        return f'strategies=[{{name="{name}", ranks={{{table}}}}}]'

    assert faults_of_file(minimal, ranks("north=17, south=2")) == [
        f"{minimal}: {name}: ranks: 'south' is not a training site; expected some of north.",
        f"{minimal}: {name}: rank of north: expected at most the study's, 16, got 17. "
        "Raise lora.rank, or lower the site's.",
    ]
    assert load_study(minimal, [ranks("north=16")])
    assert load_study(minimal, [ranks("north=17"), "lora.rank=17"])
    # Where the study's own rank is wrong, nothing is concluded from it.
    assert not any(f"{name}: " in f for f in faults(minimal, ranks("north=17"), "lora.rank=0"))


def test_options_of_a_strategy_make_arms_of_their_own(minimal: Path) -> None:
    two = '[{name="fedavg"}, {name="fedavg", size="entities"}]'
    three = (
        '[{name="fedmedlora-plus"}, {name="fedmedlora-plus", mode="paper"}, '
        '{name="fedmedlora-plus", mode="paper", validation_loss="sequence"}]'
    )

    assert load_study(minimal, [f"strategies={two}"])
    assert load_study(minimal, [f"strategies={three}", "server_notes={}"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"name = [", "not TOML"),
        (b'name = "K\xf6ln"', "byte 9 is not UTF-8"),
        (b'name = "a"\nname = "b"', "not TOML"),
        (b"", 'name: missing. Write name = "..."'),
    ],
)
def test_a_file_that_is_no_study_is_told(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(data)

    found = faults(path)

    assert any(fault.startswith(str(path)) and reason in fault for fault in found)


def test_all_faults_of_file_overrides_and_notes_are_told_at_once_and_nothing_is_written(
    bare_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hospitals = bare_study.parent / "hospitals"
    empty = hospitals / "empty"
    empty.mkdir()
    notes = read_jsonl(hospitals / "elm-eye" / "documents.jsonl")
    write_jsonl(empty / "documents.jsonl", [n.with_entities(()) for n in notes])
    write_card(empty, CorpusCard("empty", "documents.jsonl", ("problem",)))
    text = bare_study.read_text("utf-8")
    text = text.replace("rounds = 2", "rounds = 'two'\ncolour = 1").replace("[lora]", "[lore]")
    text += '\n[[sites]]\nname = "empty"\ncorpus = "empty"\n'
    text += '\n[[sites]]\nname = "gone"\ncorpus = "gone"\n'
    text += '\n[[cohorts]]\nname = "empty"\ncorpus = "elm-eye"\nlabels = ["drug", "mood"]\n'
    text += '\n[[cohorts]]\nname = 3\ncorpus = "far"\n'
    text += '\n[[strategies]]\nname = "fedavg"\n'
    bare_study.write_text(text, "utf-8")
    before = sorted(bare_study.parent.rglob("*"))
    runs = bare_study.parent / "runs"
    options = ["--set", "split.train=0.9", "--set", "nonsense", "--out", str(runs)]

    for command in (["run", *options], ["check", *options[:-2]]):
        assert run_app(app, ["study", command[0], str(bare_study), *command[1:]]) == 2

        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert all(line.startswith("error: ") for line in lines)
        for reason in (
            "federation.rounds: expected a whole number, got",
            "federation.colour: unknown key",
            "lore: unknown key",
            "cohorts.3.name: expected a string in quotes, got 3",
            "--set nonsense: expected KEY=VALUE",
            "split: the shares add up to 1.2",
            "name 'empty' is used for more than one site, cohort or corpus",
            "fedavg is listed more than once",
            f"gone: {hospitals / 'gone'}: not found",
            "site empty: has no training note with an annotated entity",
            "labels: 'mood' is not an entity label that the corpus annotates",
        ):
            assert sum(reason in line for line in lines) == 1, (reason, captured.err)
        assert len(lines) == 11
        assert sorted(bare_study.parent.rglob("*")) == before


def test_what_follows_from_a_fault_only_is_not_told(bare_study: Path) -> None:
    # Without a right [server_notes] the strategy that needs it is not a second fault, and so on.
    assert len(faults(bare_study, "server_notes.notes_per_site=0")) == 1
    assert len(faults(bare_study, "federation.min_sites=3", "sites.0.labels=3")) == 1
    assert len(faults(bare_study, 'server_notes.sites=["alder-icu"]', "sites.0.labels=3")) == 1
    assert len(faults(bare_study, "split.train=x")) == 1
    assert len(faults(bare_study, "data.artificial=maybe")) == 1


BRAT = 'sites=[{name="north", corpus="north"}]'


def faults_of_notes(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_notes(load_study(path, overrides))
    return str(caught.value).splitlines()


def test_notes_without_a_card_are_told_the_line_to_write(minimal: Path) -> None:
    note = Document("n1", "aspirin", (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "form", 0, 7)))
    write_brat(minimal.parent / "north", [replace(note, id=f"n{i}") for i in range(9)])

    (fault,) = faults_of_notes(minimal, BRAT)

    assert 'Below its name in the study file write labels = ["drug"]' in fault
    labels = 'sites=[{name="north", corpus="north", labels=["drug"], group="(.)$"}]'
    assert load_study(minimal, [labels]).sites[0].labels == ("drug",)


def test_a_misspelt_label_or_modifier_of_a_site_is_told_with_the_right_one(minimal: Path) -> None:
    note = Document("n1", "aspirin", (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "form", 0, 7)))
    write_brat(minimal.parent / "north", [replace(note, id=f"n{i}") for i in range(9)])
    misspelt = 'sites=[{name="north", corpus="north", labels=["drugs"], modifiers=["forms"]}]'

    label, modifier = faults_of_notes(minimal, misspelt)

    assert label.endswith("Did you mean 'drug'?")
    assert modifier.endswith("Did you mean 'form'?")


def test_a_label_that_is_misspelt_in_a_card_is_told_with_its_line(minimal: Path) -> None:
    note = Document("n1", "aspirin", (Entity.at("T1", "drug", 0, 7),))
    texts = [replace(note, id=f"n{i}", text=f"aspirin {i}") for i in range(9)]
    write_jsonl(minimal.parent / "north" / "d.jsonl", texts)
    card = CorpusCard("north", "d.jsonl", ("drug", "problm", "Age"), ("modifies",))
    write_card(minimal.parent / "north", card)

    (fault,) = faults_of_notes(minimal, BRAT)

    assert "corpus.toml:3: annotated_labels names 'problm'" in fault
    assert fault.endswith("Did you mean 'problem'?")


@pytest.mark.parametrize(
    ("override", "table"),
    [
        ('sites="north"', "[[sites]]"),
        ('cohorts="north"', "[[cohorts]]"),
        ('server_notes={notes_per_site=1, corpora="north"}', "[[server_notes.corpora]]"),
    ],
)
def test_nobody_is_told_to_write_a_list_of_names_where_tables_are_expected(
    minimal: Path, override: str, table: str
) -> None:
    (fault,) = (fault for fault in faults(minimal, override) if "expected tables" in fault)

    assert fault.endswith(f'expected tables, each below a line {table}, got "north".')


@pytest.mark.parametrize("role", ["internal", "training", "site", "extern"])
def test_roles_and_labels_that_a_study_has_no_use_for_are_no_faults_of_it(
    minimal: Path, role: str
) -> None:
    note = Document("n1", "aspirin", (Entity.at("T1", "drug", 0, 7),))
    texts = [replace(note, id=f"n{i}", text=f"aspirin {i}") for i in range(9)]
    write_jsonl(minimal.parent / "north" / "d.jsonl", texts)
    labels = ("drug", "indication", "value", "dose", "Age")
    write_card(minimal.parent / "north", CorpusCard("north", "d.jsonl", labels, role=role))

    (site,) = load_notes(load_study(minimal, [BRAT])).sites

    assert site.labels == ("drug",)
