"""`study new` writes a study file that works as it is and says what it cannot show."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.runs.store import RunStore
from fedmedlora.study.data import load_notes
from fedmedlora.study.new_study import write_new_study
from fedmedlora.study.run import start_study
from fedmedlora.study.study_file import load_study

# A tiny model and less of everything: what the file says otherwise stays.
QUICK = (
    "model.dtype=float32",
    "model.kernel=torch",
    "model.threads=1",
    "lora.rank=2",
    "prompt.window_tokens=32",
    "federation.rounds=1",
    "training.max_tokens=400",
    "training.max_validation_tokens=200",
    "evaluation.max_characters=160",
    "evaluation.draws=50",
    "arms.single_site=false",
    "arms.centralized=false",
)


@pytest.fixture
def hospitals(tmp_path: Path, tiny_study: Path) -> Path:
    shutil.copytree(tiny_study.parent / "hospitals", tmp_path / "hospitals")
    return tmp_path / "hospitals"


@pytest.fixture
def runs(tiny_study: Path, tmp_path: Path) -> Callable[[Path], RunStore]:
    def run(study: Path) -> RunStore:
        config = load_study(study, [*QUICK, f"model.base={tiny_study.parent / 'model'}"])
        return start_study(config, tmp_path / "runs", SilentObserver())

    return run


def notes(*labels: str, number: int = 9) -> list[Document]:
    text = "aspirin and a scan daily"
    entities = tuple(Entity.at(f"T{i}", label, 0, 7) for i, label in enumerate(labels, 1))
    return [Document(f"n{i}", f"{text} {i}", entities) for i in range(number)]


def test_a_folder_of_hospitals_becomes_a_study_that_runs_as_it_is(
    hospitals: Path, runs: Callable[[Path], RunStore]
) -> None:
    written = write_new_study(hospitals.parent / "study.toml", [hospitals])

    # The roles in their cards say who trains.
    assert [part.name for part in written.sites] == ["alder-icu", "birch-clinic", "cedar-dictation"]
    assert [part.name for part in written.cohorts] == ["dogwood-triage", "elm-eye"]
    assert written.strategies == ("fedavg", "fedmedlora-plus")
    scores = runs(written.path).read_json("scores.json")
    assert {arm["name"] for arm in scores["arms"]} >= {"fedavg", "fedmedlora-plus-reference"}


def test_every_key_is_explained_right_before_it(hospitals: Path) -> None:
    write_new_study(hospitals.parent / "study.toml", [hospitals])

    lines = (hospitals.parent / "study.toml").read_text("utf-8").splitlines()
    keys = [n for n, line in enumerate(lines) if " = " in line and line[0] not in "#"]
    of_entries = ("name", "corpus", "mode")  # explained above the table that they stand in
    bare = [
        lines[n]
        for n in keys
        if not lines[n].startswith(of_entries) and not lines[n - 1].startswith("#")
    ]
    assert keys
    assert bare == []
    assert all(len(line) <= 100 for line in lines)


def test_brat_folders_and_bare_files_get_the_labels_that_occur(
    tmp_path: Path, hospitals: Path, runs: Callable[[Path], RunStore]
) -> None:
    source = read_jsonl(hospitals / "alder-icu" / "documents.jsonl")
    write_brat(tmp_path / "in" / "north", source)
    write_jsonl(tmp_path / "in" / "south.jsonl", notes("drug", "severity"))
    (tmp_path / "in" / "east").mkdir()
    shutil.copy(tmp_path / "in" / "south.jsonl", tmp_path / "in" / "east" / "any.jsonl")
    out = tmp_path / "deep" / "er" / "study.toml"
    sites = [tmp_path / "in" / "north", tmp_path / "in" / "south.jsonl"]

    written = write_new_study(out, sites, [tmp_path / "in" / "east"])

    text = out.read_text("utf-8")
    assert 'corpus = "../../in/north"' in text
    held = {entity.label for note in source for entity in note.entities}
    labels = [x for x in ("problem", "treatment", "test", "drug") if x in held]
    assert f"labels = {json.dumps(labels)}" in text
    assert 'labels = ["drug"]' in text
    assert text.count("# CHECK THIS: the labels that occur in its notes.") == 3
    assert [part.says_labels for part in (*written.sites, *written.cohorts)] == [False] * 3
    assert runs(out).has("scores.json")


def test_a_corpus_with_labels_of_its_own_is_told_which_and_what_to_do(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "north.jsonl", notes("Medication", "Two words"))

    with pytest.raises(ConfigError) as caught:
        write_new_study(tmp_path / "study.toml", [tmp_path / "north.jsonl"])

    assert "got 'Medication', (not shown, as it may be words of a note)" in str(caught.value)
    assert "corpus convert --map" in str(caught.value)
    assert not (tmp_path / "study.toml").exists()


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path, hospitals: Path) -> None:
    out = tmp_path / "study.toml"
    out.write_text("mine", "utf-8")

    with pytest.raises(ConfigError, match="already exists; it was left unchanged"):
        write_new_study(out, [hospitals])

    assert out.read_text("utf-8") == "mine"


def test_one_site_alone_is_told_that_it_is_no_federation(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "north.jsonl", notes("drug", number=3))

    written = write_new_study(tmp_path / "study.toml", [tmp_path / "north.jsonl"])

    text = (tmp_path / "study.toml").read_text("utf-8").replace("\n#  ", "").replace("\n#", "")
    assert written.strategies == ("fedavg",)
    assert "one training site only" in text
    assert "a score on one note can show nothing" in text
    assert "there is no held-out cohort" in text
    assert "To add one, remove the # from these three lines:" in text
    assert "(fedmedlora-plus) is left out: it needs at least two sites" in text
    assert len(load_notes(load_study(tmp_path / "study.toml")).sites[0].validation) == 1


def test_too_few_notes_for_any_study_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "north.jsonl", notes("drug", number=1))

    with pytest.raises(ConfigError, match="not written, as no study can be made") as caught:
        write_new_study(tmp_path / "study.toml", [tmp_path / "north.jsonl"])

    assert "site north: has no test note" in str(caught.value)
    assert "A site needs notes of two patients" in str(caught.value)
    assert not (tmp_path / "study.toml").exists()


def test_only_sites_with_validation_notes_give_some_to_the_server(
    tmp_path: Path, runs: Callable[[Path], RunStore]
) -> None:
    write_jsonl(tmp_path / "north.jsonl", notes("drug", number=30))
    write_jsonl(tmp_path / "south.jsonl", notes("drug", number=2))
    sites = [tmp_path / "north.jsonl", tmp_path / "south.jsonl"]

    write_new_study(tmp_path / "study.toml", sites)

    server = load_study(tmp_path / "study.toml").server_notes
    assert server is not None
    assert (server.sites, server.notes_per_site) == (("north",), 3)
    assert runs(tmp_path / "study.toml").has("scores.json")


def test_notes_of_the_servers_own_are_named_with_their_labels(tmp_path: Path) -> None:
    for name in ("north", "south", "public"):
        write_jsonl(tmp_path / f"{name}.jsonl", notes("drug"))

    write_new_study(
        tmp_path / "study.toml",
        [tmp_path / "north.jsonl", tmp_path / "south.jsonl"],
        server=[tmp_path / "public.jsonl"],
    )

    server = load_study(tmp_path / "study.toml").server_notes
    assert server is not None
    assert [(own.name, own.labels) for own in server.corpora] == [("public", ("drug",))]
    assert server.sites == ()


def test_names_that_a_study_does_not_take_are_changed(tmp_path: Path) -> None:
    for folder, name in (("a", "St. Mary's -- ICU"), ("b", "pooled"), ("c", "pooled")):
        write_jsonl(tmp_path / folder / "d.jsonl", notes("drug"))
        write_card(tmp_path / folder, CorpusCard(name, "d.jsonl", ("drug",)))

    write_new_study(tmp_path / "my study.toml", [tmp_path / name for name in "abc"])

    study = load_study(tmp_path / "my study.toml")
    assert study.name == "my-study"
    text = (tmp_path / "my study.toml").read_text("utf-8")
    assert "# What its runs and its report are called.\n" in text
    commands = [line.split("   ")[1] for line in text.splitlines() if "#   fed" in line]
    assert [shlex.split(command)[3] for command in commands] == ["my study.toml"] * 2
    assert [site.name for site in study.sites] == ["St.-Mary-s-ICU", "pooled-2", "pooled-3"]


def test_a_folder_without_a_card_gives_a_site_its_name_whatever_its_file_is_called(
    tmp_path: Path,
) -> None:
    files = {"north": "documents.jsonl", "south": "notes.jsonl", "east": "documents.jsonl.gz"}
    for folder, file in (*files.items(), ("west", "notes.jsonl")):
        write_jsonl(tmp_path / folder / file, notes("drug"))
    sites = [tmp_path / name for name in files]

    written = write_new_study(tmp_path / "study.toml", sites, [tmp_path / "west"])

    study = load_study(tmp_path / "study.toml")
    assert [site.name for site in study.sites] == ["north", "south", "east"]
    assert [cohort.name for cohort in study.cohorts] == ["west"]
    assert [part.num_notes for part in written.sites] == [9, 9, 9]
    text = (tmp_path / "study.toml").read_text("utf-8")
    assert 'corpus = "north"\n' in text
    assert 'corpus = "south/notes.jsonl"\n' in text
    assert [site.name for site in load_notes(study).sites] == ["north", "south", "east"]


def test_notes_for_the_server_of_one_site_are_told_to_be_of_no_use(tmp_path: Path) -> None:
    for name in ("north", "public"):
        write_jsonl(tmp_path / f"{name}.jsonl", notes("drug"))

    written = write_new_study(
        tmp_path / "study.toml", [tmp_path / "north.jsonl"], server=[tmp_path / "public.jsonl"]
    )

    assert "--server-notes is not used: Fed-MedLoRA+ needs at least two sites." in written.warnings
    assert written.to_json()["server_notes"] == []
    assert load_study(tmp_path / "study.toml").server_notes is None


def test_advice_on_too_few_notes_is_given_for_too_few_notes_only(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "north" / "d.jsonl", notes("drug"))
    write_card(tmp_path / "north", CorpusCard("north", "d.jsonl", ("drug", "problm")))

    with pytest.raises(ConfigError, match="Did you mean 'problem'") as caught:
        write_new_study(tmp_path / "study.toml", [tmp_path / "north"])

    assert str(caught.value).endswith("not written, as no study can be made of these notes.")


@pytest.mark.parametrize("spelt", [lambda x: ["--site", x], lambda x: [f"--site={x}"]])
def test_the_command_takes_several_folders_after_one_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spelt: Callable[[str], list[str]]
) -> None:
    for name in ("north", "south", "east", "west"):
        write_jsonl(tmp_path / name / "d.jsonl", notes("drug"))
        write_card(tmp_path / name, CorpusCard(name, "d.jsonl", ("drug", "problem")))
    folders = {name: str(tmp_path / name) for name in ("north", "south", "east", "west")}
    out = tmp_path / "study.toml"
    command = ["study", "new", *spelt(folders["north"]), folders["south"]]
    command += ["--cohort", folders["east"], folders["west"], "--out", str(out)]

    assert run_app(app, [*command, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert [site["name"] for site in told["sites"]] == ["north", "south"]
    assert [cohort["name"] for cohort in told["cohorts"]] == ["east", "west"]
    assert told["sites"][0]["labels"] == ["problem", "drug"]
    assert told["study"] == str(out)
    assert run_app(app, command) == 2
    assert "already exists; it was left unchanged" in capsys.readouterr().err
    out.unlink()
    assert run_app(app, command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_a_faulty_note_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    first = notes("drug")[0]
    write_jsonl(tmp_path / "north.jsonl", [first])
    line = (tmp_path / "north.jsonl").read_bytes()
    (tmp_path / "north.jsonl").write_bytes(line + line)

    with pytest.raises(ValueError, match="occurs twice, first in line 1"):
        write_new_study(tmp_path / "study.toml", [tmp_path / "north.jsonl"])

    assert not (tmp_path / "study.toml").exists()
