"""The corpus commands, as a user or a script runs them."""

import json

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl

NOTE = Document(
    "n1",
    "Aspirin daily.\r\nNo pain \U0001f600.",
    (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "frequency", 8, 13)),
    (Relation("R1", "modifies", "T2", "T1"),),
)


@pytest.fixture
def hospitals(tmp_path):
    for name in ("north", "south"):
        write_jsonl(tmp_path / "all" / name / "documents.jsonl", [NOTE, Document("n2", "")])
        card = CorpusCard(name, "documents.jsonl", ("drug", "frequency"), ("modifies",))
        write_card(tmp_path / "all" / name, card)
    return tmp_path / "all"


@pytest.fixture
def run(capfd):
    def run_command(*arguments):
        code = run_app(app, ["corpus", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_validate_says_nothing_is_wrong_and_exits_0(run, hospitals):
    code, out, err = run("validate", hospitals / "north")
    assert (code, err) == (0, "")
    assert out == f"{hospitals / 'north'}: 2 documents, no fault\n"


def test_validate_lists_file_line_and_reason_of_every_fault_and_exits_1(run, hospitals):
    path = hospitals / "north" / "documents.jsonl"
    path.write_text(path.read_text() + '{"id": "n3"}\n{"id": "n4", "text": 4}\n')
    code, out, _ = run("validate", hospitals)
    assert code == 1
    assert out.splitlines() == [
        f"{path}:3: the document has no 'text'; expected a string.",
        f"{path}:4: the document: 'text' is of type int; expected a string.",
        f"{hospitals / 'north'}: 2 faults (1 missing-key, 1 wrong-type)",
        f"{hospitals / 'south'}: 2 documents, no fault",
    ]
    code, out, _ = run("validate", path, "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["num_documents"], told["num_bad_notes"], told["num_faults"]) == (2, 2, 2)
    assert told["faults"][0]["file"] == str(path)
    assert [fault["line"] for fault in told["faults"]] == [3, 4]


def test_validate_reads_another_format_by_name_and_says_so_where_it_was_not_named(run, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n{"id": 2, "text": "x", "label": [[0, 2, "drug"]]}\n')
    code, out, _ = run("validate", path, "--from", "doccano")
    assert code == 1
    assert out.splitlines() == [
        f"{path}:2: entity 'T0': offsets 0 to 2 do not lie in the text of 1 characters.",
        f"{path}: 1 fault (1 offset)",
    ]
    code, out, _ = run("validate", path)
    assert code == 1
    assert out.splitlines()[-1].endswith("If they are in another format, name it: --from.")
    assert run("validate", path, "--from", "brat")[0] == 2


def test_validate_takes_another_schema_or_any_label(run, tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [NOTE])
    schema = tmp_path / "schema.toml"
    schema.write_text('name = "mine"\nversion = "v1"\n[entity_labels]\ndrug = "a drug"\n')
    assert run("validate", tmp_path / "d.jsonl")[0] == 0
    code, out, _ = run("validate", tmp_path / "d.jsonl", "--schema", schema)
    assert code == 1
    assert "'frequency' is not in the schema mine-v1" in out
    assert run("validate", tmp_path / "d.jsonl", "--schema", schema, "--any-label")[0] == 0
    schema.write_text("name = 3\n")
    assert run("validate", tmp_path / "d.jsonl", "--schema", schema)[0] == 2


def test_convert_goes_both_ways_and_accounts_for_the_notes(run, hospitals, tmp_path):
    code, out, err = run(
        "convert", hospitals / "north", "--from", "jsonl", "--to", "brat", "--out", tmp_path / "b"
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "read     2 notes, 2 entities, 1 relation",
        f"written  2 notes, 2 entities, 1 relation -> {tmp_path / 'b'}",
        "skipped  0 notes",
    ]
    arguments = ("--from", "brat", "--to", "jsonl", "--out", tmp_path / "c.jsonl", "--json")
    code, out, _ = run("convert", tmp_path / "b", *arguments)
    assert (code, json.loads(out)["num_written"]) == (0, 2)
    assert read_jsonl(tmp_path / "c.jsonl") == [NOTE, Document("n2", "")]


def test_convert_refuses_bad_notes_or_skips_and_counts_them(run, tmp_path):
    path = tmp_path / "d.jsonl"
    write_jsonl(path, [NOTE])
    path.write_bytes(path.read_bytes() + b"{\n")
    arguments = ("convert", path, "--from", "jsonl", "--to", "brat", "--out", tmp_path / "b")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert f"{path}:2: not JSON from column 2 on" in err
    assert "--skip-bad-notes" in err
    assert not (tmp_path / "b").exists()
    code, out, _ = run(*arguments, "--skip-bad-notes")
    assert code == 0
    assert "skipped  1 note\n" in out
    assert f"{path}:2: not JSON" in out


def test_summarize_shows_counts_by_corpus_and_as_json(run, hospitals):
    code, out, err = run("summarize", hospitals)
    assert (code, err) == (0, "")
    for word in ("north", "south", "drug", "frequency-drug", "divergence"):
        assert word in out
    code, out, _ = run("summarize", hospitals / "north", hospitals / "south", "--json")
    told = json.loads(out)
    assert [corpus["name"] for corpus in told["corpora"]] == ["north", "south"]
    assert told["corpora"][0]["entities"] == {"drug": 1, "frequency": 1}
    assert told["corpora"][0]["num_sentences"] == 2
    assert told["divergence"] == [{"first": "north", "second": "south", "bits": 0.0}]


def test_artificial_hospitals_are_valid_and_the_same_for_the_same_seed(run, tmp_path):
    for name in ("a", "b"):
        code, out, _ = run(
            "synthesize",
            "--out",
            tmp_path / name,
            "--sites",
            2,
            "--notes",
            4,
            "--seed",
            7,
            "--json",
        )
        assert code == 0
    folders = sorted((tmp_path / "b").iterdir())
    assert sorted(json.loads(out)["sites"]) == [str(folder) for folder in folders]
    assert len(folders) == 2
    assert run("validate", tmp_path / "a")[0] == 0
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", "nowhere"),
        ("validate",),
        ("summarize",),
        ("convert", ".", "--from", "paper", "--to", "brat", "--out", "x"),
        ("synthesize",),
        ("synthesize", "--out", "x", "--notes", "0"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert err
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_a_corpus_is_wrong_usage(run, tmp_path):
    code, _, err = run("validate", tmp_path)
    assert code == 2
    assert "no corpus here" in err


@pytest.mark.parametrize("command", ["synthesize", "convert", "summarize", "validate"])
def test_the_help_of_each_command_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: fedmedlora corpus {command}" in " ".join(out.split())


def test_summarize_names_notes_that_two_corpora_share(run, tmp_path):
    text = "The patient takes aspirin every morning and has no chest pain since then."
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [Document(f"{name}1", text), Document("x", "y")])
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    code, out, _ = run("summarize", *paths)
    assert code == 0
    assert "nearly the same (100%): a a1, b b1\n1 pair of notes" in out
    assert "aspirin" not in out
    told = json.loads(run("summarize", *paths, "--json")[1])
    assert told["near_duplicates"] == [
        {"first": "a", "first_id": "a1", "second": "b", "second_id": "b1", "similarity": 1.0}
    ]


def test_convert_maps_labels_and_says_what_became_of_everything(run, tmp_path):
    note = Document(
        "n1",
        NOTE.text,
        (
            Entity.at("T1", "Rx", 0, 7),
            Entity.at("T2", "Often", 8, 13),
            Entity.at("T3", "Age", 16, 18),
        ),
        (Relation("R1", "Of", "T2", "T1"), Relation("R2", "Of", "T3", "T1")),
    )
    write_jsonl(tmp_path / "n.jsonl", [note])
    (tmp_path / "m.toml").write_text(
        '[[entities]]\nfrom = "Rx"\nto = "drug"\n[[entities]]\nfrom = "Often"\nto = "frequency"\n'
        '[[relations]]\nfrom = "Of"\nmodifier = "Arg1"\nto = "modifies"\n'
    )
    common = ("convert", tmp_path / "n.jsonl", "--from", "jsonl", "--map", tmp_path / "m.toml")
    code, out, err = run(*common, "--to", "bio", "--out", tmp_path / "bio")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "read     1 note, 3 entities, 2 relations",
        f"written  1 note, 2 entities, 0 relations -> {tmp_path / 'bio'}",
        "skipped  0 notes",
        "mapped   1 x Often -> frequency",
        "mapped   1 x Rx -> drug",
        "mapped   1 x relation Of -> modifies",
        "dropped  1 x 'Age': no rule",
        "dropped  1 x relation Of: one of its mentions was dropped",
        "lost     1 x relation",
        "lost     1 x white space of a note: one blank between tokens when read",
        "Lost is what the target format cannot hold.",
    ]
    code, out, _ = run(*common, "--to", "jsonl", "--out", tmp_path / "j", "--json")
    told = json.loads(out)
    assert told["mapped"] == {
        "Often -> frequency": 1,
        "Rx -> drug": 1,
        "relation Of -> modifies": 1,
    }
    assert (told["num_entities_read"], told["num_entities"], told["num_relations"]) == (3, 2, 1)
    card = (tmp_path / "j" / "corpus.toml").read_text()
    assert 'annotated_labels = ["drug", "frequency"]' in card
    assert run("validate", tmp_path / "j")[0] == 0


@pytest.mark.parametrize("target", ["brat", "bio", "doccano", "label-studio"])
def test_what_was_converted_into_a_folder_is_opened_by_its_card(run, hospitals, tmp_path, target):
    out = tmp_path / "out"
    arguments = ("--from", "jsonl", "--to", target, "--out", out)
    assert run("convert", hospitals / "north", *arguments)[0] == 0
    code, told, _ = run("validate", out, "--json")
    assert (code, json.loads(told)["num_documents"]) == (0, 2)
    back = ("--from", target, "--to", "jsonl", "--out", tmp_path / "back.jsonl")
    assert run("convert", out, *back)[0] == 0
    notes = read_jsonl(tmp_path / "back.jsonl")
    assert [[e.label for e in n.entities] for n in notes] == [["drug", "frequency"], []]


def test_convert_refuses_an_unknown_mapping_and_a_source_of_another_kind(run, hospitals, tmp_path):
    arguments = ("convert", hospitals / "north", "--to", "bio", "--out", tmp_path / "out")
    code, _, err = run(*arguments, "--from", "jsonl", "--map", "macrobat")
    assert (code, "no such mapping" in err) == (2, True)
    code, _, err = run(*arguments, "--from", "doccano")
    assert (code, "holds jsonl, not doccano" in err) == (2, True)
    path = hospitals / "north" / "documents.jsonl"
    code, _, err = run("convert", path, *arguments[2:], "--from", "i2b2-2010")
    assert (code, "expected a folder of i2b2-2010 files" in err) == (2, True)
