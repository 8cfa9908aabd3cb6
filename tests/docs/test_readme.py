"""README is true: its files exist, its commands parse, its examples are accepted as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.jsonl import read_jsonl
from fedmedlora.study.data import load_notes
from fedmedlora.study.study_file import load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PACKAGES = ROOT / "src" / "fedmedlora"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def only(found: list[str]) -> str:
    (one,) = found
    return one


COMMANDS = [
    line for block in blocks("bash") for line in block.splitlines() if line.startswith("fedmedlora")
]
TREE = only([block for block in blocks("text") if block.startswith("src/fedmedlora/")])
WHERE = re.search(r"^\| question \| file \|\n.*?\n\n", README, re.MULTILINE | re.DOTALL)


def test_the_tree_lists_every_package_once_and_nothing_else() -> None:
    listed = re.findall(r"^  (\w+)/ +\S", TREE, re.MULTILINE)

    there = {path.parent.name for path in PACKAGES.glob("*/__init__.py")}
    assert sorted(listed) == sorted(there)
    assert len(listed) == len(TREE.splitlines()) - 1


def test_every_file_that_the_table_points_to_is_there() -> None:
    assert WHERE is not None
    rows = WHERE[0].strip().splitlines()[2:]
    pointers = [re.findall(r"`([^`]+)`", row.split("|")[2]) for row in rows]

    assert all(pointers)
    missing = [path for row in pointers for path in row if not (ROOT / path).is_file()]
    assert missing == []


def test_there_are_commands_to_check() -> None:
    words = {" ".join(line.split()[1:3]) for line in COMMANDS}

    assert {"corpus validate", "study check", "study run", "study resume"} <= words


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_with_its_options(
    line: str, command_faults: Callable[[str], list[str]]
) -> None:
    assert command_faults(line) == []


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text("utf-8")]
    used = {t for page in pages for t in re.findall(r"(?:^|`)make ([a-z-]+)", page, re.MULTILINE)}

    assert {"demo", "test", "check"} <= used <= targets


def test_the_example_corpus_is_valid_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = only([block for block in blocks("toml") if "annotated_labels" in block])
    (tmp_path / "corpus.toml").write_text(card, "utf-8")
    (tmp_path / "documents.jsonl").write_text(only(blocks("json")), "utf-8")

    code = run_app(app, ["corpus", "validate", str(tmp_path)])

    assert code == 0, capsys.readouterr()


@pytest.fixture
def own_notes(tmp_path: Path) -> Path:
    """The folders that README's steps speak of; `south` is a BRAT folder, the others have cards."""
    card = only([block for block in blocks("toml") if "annotated_labels" in block])
    note = json.loads(only(blocks("json")))
    notes = [note | {"id": f"note-{n}", "text": f"{note['text']} {n}"} for n in range(60)]
    for name in ("north", "east"):
        folder = tmp_path / "notes" / name
        folder.mkdir(parents=True)
        (folder / "corpus.toml").write_text(card.replace("north", name), "utf-8")
        (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, notes)), "utf-8")
    write_brat(tmp_path / "notes" / "south", read_jsonl(folder / "documents.jsonl"))
    return tmp_path


def step(start: str) -> list[str]:
    return only([line for line in COMMANDS if line.startswith(start)]).split()[1:]


def test_readmes_steps_with_own_notes_lead_to_a_study_also_with_a_brat_folder(
    own_notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own_notes)

    for command in ("corpus validate", "corpus summarize", "study new"):
        assert run_app(app, step(f"fedmedlora {command}")) == 0, capsys.readouterr()
    written = load_study(Path("study.toml"))
    example = only([block for block in blocks("toml") if "[[sites]]" in block])
    Path("study.toml").write_text(example, "utf-8")
    shown = load_study(Path("study.toml"))

    assert load_notes(written).cohorts
    assert load_notes(shown).cohorts
    for part in ("name", "seed", "data", "cohorts", "strategies", "server_notes", "federation"):
        assert getattr(written, part) == getattr(shown, part)
    paths = [[study.path_of(site) for site in study.sites] for study in (written, shown)]
    assert paths[0] == paths[1]
    # README's notes hold two of the labels only.
    labels = [[site.labels for site in study.sites] for study in (written, shown)]
    assert labels == [
        [None, ("problem", "drug")],
        [None, ("problem", "treatment", "test", "drug")],
    ]


def test_the_example_study_is_accepted_and_says_what_the_text_says(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(only([block for block in blocks("toml") if "[[sites]]" in block]), "utf-8")

    study = load_study(path)

    assert [study.path_of(site) for site in study.sites] == [
        tmp_path / "notes" / "north",
        tmp_path / "notes" / "south",
    ]
    assert [cohort.name for cohort in study.cohorts] == ["east"]
    assert [strategy.name for strategy in study.strategies] == ["fedavg", "fedmedlora-plus"]
