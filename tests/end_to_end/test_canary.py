"""No note text leaves a site, and none reaches a log, an error or a run record.

A word that stands nowhere else is planted in every note; then everything that was shown, logged,
written or sent is searched for it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.codec import CODECS
from fedmedlora.adapters.exchange import SiteFailure, SiteUpdate, decode, encode
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.pipe import Pipe

CANARY = "quobblefinch"
BOTH = 'tasks=["entities", "relations"]'


@pytest.fixture(scope="module")
def planted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with the canary at the end of every note: as a modifier, and as its entity."""
    folder = shutil.copytree(study.parent, tmp_path_factory.mktemp("planted") / "study")
    for path in folder.glob("hospitals/*/documents.jsonl"):
        lines = []
        for line in path.read_text("utf-8").splitlines():
            note = json.loads(line)
            for name, label in (("T998", "severity"), ("T999", "problem")):
                start = len(note["text"]) + 1
                note["text"] += f" {CANARY}"
                entity = {"id": name, "label": label, "start": start}
                entity |= {"end": start + len(CANARY), "text": CANARY}
                note["entities"].append(entity)
            link = {"id": "R999", "label": "modifies", "head": "T998", "tail": "T999"}
            note["relations"].append(link)
            lines.append(json.dumps(note, ensure_ascii=False))
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "study.toml"


class Wire:
    """Every message that went through the wall between server and sites."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, bytes]] = []

    def tap(self, direction: str, site: str, data: bytes) -> None:
        self.messages.append((direction, site, data))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(
        "fedmedlora.study.run.InProcessRuntime",
        lambda *args, **options: InProcessRuntime(*args, **options, tap=wire.tap),
    )
    return wire


@pytest.fixture
def watched(
    planted: Path, wire: Wire, tmp_path: Path, call, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Any]]:
    """Runs a command; at the end of the test nothing that it left behind may hold the canary."""
    shown: list[str] = []

    def run(*arguments: object) -> Any:
        with caplog.at_level(logging.DEBUG):
            called = call(*arguments)
        shown.extend((called.out, called.err))
        return called

    yield run
    assert shown
    shown.append(caplog.text)
    assert not [text for text in shown if CANARY in text.lower()]
    assert not [message for *_, message in wire.messages if CANARY.encode() in message.lower()]
    for path in tmp_path.rglob("*"):
        assert CANARY not in path.name
        if path.is_file() and path.parent.name != "predictions":
            assert CANARY.encode() not in path.read_bytes().lower(), path


SMALL = ("arms.centralized=false", "arms.zero_shot=false", "arms.single_site=false")


@pytest.mark.parametrize(
    ("codec", "options", "num_updates", "num_files"),
    [
        ("fp32", (), 20, 29),
        ("bf16", SMALL, 12, 10),
        ("bf16", (*SMALL, BOTH), 12, 20),
    ],
    ids=["all-arms", "federated-arms", "two-tasks"],
)
def test_a_whole_study_leaves_note_text_in_its_predictions_only(
    planted: Path,
    watched,
    wire: Wire,
    tmp_path: Path,
    codec: str,
    options: tuple[str, ...],
    num_updates: int,
    num_files: int,
) -> None:
    options = (f"federation.codec={codec}", *options)

    called = watched(
        "study", "run", planted, "--out", tmp_path, *(x for o in options for x in ("--set", o))
    )

    assert called.code == 0, called.err
    predictions = list((called.run / "predictions").iterdir())
    assert len(predictions) == num_files
    # They hold the notes by design, so the search would find the word if it were elsewhere.
    assert all(CANARY in path.read_text("utf-8") for path in predictions)
    up = [(site, data) for direction, site, data in wire.messages if direction == "up"]
    assert len(up) == num_updates
    for site, data in up:
        message = decode(data)
        assert isinstance(message, SiteUpdate)
        assert message.site == site
        assert encode(message, CODECS[codec]) == data


def test_worker_processes_say_nothing_of_notes(
    planted: Path,
    watched,
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    receive = Pipe.receive

    def tapped(self: Pipe) -> tuple[dict[str, Any], bytes]:
        message, data = receive(self)
        wire.messages.append(("up", "worker", json.dumps(message).encode() + data))
        return message, data

    monkeypatch.setattr(Pipe, "receive", tapped)
    options = (*SMALL, "federation.processes=2", "federation.rounds=1")
    settings = [x for o in (*options, 'strategies=[{name="fedavg"}]') for x in ("--set", o)]

    called = watched("study", "run", planted, "--out", tmp_path, *settings)

    assert called.code == 0, called.err
    assert sum(b'"reply"' in message for *_, message in wire.messages) == 3
    shown = capfd.readouterr()  # of the workers' own output, too
    assert CANARY not in (shown.out + shown.err).lower()


def note_text() -> str:
    """What a careless message of a library would hold."""
    return f"cannot process 'seen for {CANARY} today'"


def failing(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it


TRAINING = "fedmedlora.training.site.train_locally"
CARELESS = [
    ValueError(note_text()),
    KeyError(CANARY),
    UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, note_text()),
    MemoryError(note_text()),
    OSError(5, note_text()),
    ExceptionGroup(note_text(), [ValueError(note_text())]),
]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        *((TRAINING, error) for error in CARELESS),
        ("fedmedlora.training.site.example_losses", CARELESS[0]),
        ("fedmedlora.training.local.token_losses", CARELESS[0]),
        ("fedmedlora.training.local.pack", CARELESS[0]),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_site_that_fails_sends_a_code_and_names_the_place_only(
    planted: Path,
    watched,
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    monkeypatch.setattr(place, failing(error))

    called = watched("study", "run", planted, "--out", tmp_path, "--set", "arms.zero_shot=false")

    assert called.code == 1
    assert type(error).__name__ in called.err
    replies = [decode(data) for direction, _, data in wire.messages if direction == "up"]
    code = "out-of-memory" if isinstance(error, MemoryError) else "error"
    assert replies == [SiteFailure("alder-icu", code)]


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("fedmedlora.inference.copy_decoder.draft", ()),
        ("fedmedlora.study.predictions.score_cell", ()),
        ("fedmedlora.study.prepare.site_examples", ()),
        ("fedmedlora.study.predictions.document_line", ()),
        ("fedmedlora.study.server_notes.example_losses", ()),
        ("fedmedlora.study.data.render_relation_documents", (BOTH,)),
        ("fedmedlora.inference.relation_extractor.given_entities", (BOTH,)),
        ("fedmedlora.study.predictions.score_tasks", (BOTH,)),
        (
            "fedmedlora.study.run.rules_on_gold",
            (BOTH, "arms.zero_shot=false", "federation.rounds=1"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "two-tasks" if BOTH in value else "",
)
def test_a_failure_outside_training_names_its_kind_only(
    planted: Path,
    watched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    options: tuple[str, ...],
) -> None:
    monkeypatch.setattr(place, failing(RuntimeError(note_text())))
    quick = ("arms.single_site=false", "arms.centralized=false", *options)
    settings = [word for option in quick for word in ("--set", option)]

    called = watched("study", "run", planted, "--out", tmp_path, *settings)

    assert called.code == 1
    assert "unexpected RuntimeError" in called.err


def test_a_loss_that_is_no_number_is_told_without_notes(
    planted: Path, watched, wire: Wire, tmp_path: Path
) -> None:
    options = ("--set", "training.learning_rate=1e30", "--set", "arms.zero_shot=false")

    called = watched("study", "run", planted, "--out", tmp_path, *options)

    assert called.code == 1
    assert "the loss is not a number" in called.err
    replies = [decode(data) for direction, _, data in wire.messages if direction == "up"]
    assert replies[-1] == SiteFailure("alder-icu", "error")


def test_ctrl_c_shows_no_notes(
    planted: Path, watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmedlora.training.local.pack", failing(KeyboardInterrupt()))

    called = watched("study", "run", planted, "--out", tmp_path)

    assert called.code == 130
    assert "To go on" in called.err


def damage_json(text: str) -> bytes:
    return text.replace('"entities"', '"entities', 1).encode()


def damage_offset(text: str) -> bytes:
    return text.replace('"start": ', '"start": 1', 1).encode()


def damage_end(text: str) -> bytes:
    return text.replace('"end": ', '"end": 999', 1).encode()


def damage_encoding(text: str) -> bytes:
    return text.encode().replace(CANARY.encode(), CANARY.encode() + b"\xff", 1)


def damage_nul(text: str) -> bytes:
    return text.encode().replace(CANARY.encode(), CANARY.encode() + b"\0", 1)


def damage_key(text: str) -> bytes:
    return text.replace('"text"', '"txt"', 1).encode()


def damage_id(text: str) -> bytes:
    return text.replace('"T1"', '"T999"').encode()


def damage_link(text: str) -> bytes:
    return text.replace('"tail": "T999"', '"tail": "T9999"', 1).encode()


def damage_duplicate(text: str) -> bytes:
    return (text + text.splitlines()[0] + "\n").encode()


@pytest.mark.parametrize(
    "damage",
    [
        damage_json,
        damage_offset,
        damage_end,
        damage_encoding,
        damage_nul,
        damage_key,
        damage_id,
        damage_link,
        damage_duplicate,
    ],
    ids=lambda damage: damage.__name__,
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_damaged_notes_are_named_by_file_and_line_before_anything_is_written(
    planted: Path, watched, tmp_path: Path, damage: Callable[[str], bytes], command: str
) -> None:
    folder = tmp_path / "hospitals"
    shutil.copytree(planted.parent / "hospitals" / "elm-eye", folder / "elm-eye")
    notes = folder / "elm-eye" / "documents.jsonl"
    notes.write_bytes(damage(notes.read_text("utf-8")))
    out = ("--out", tmp_path / "runs") if command == "run" else ()
    place = f"cohorts.1.corpus={folder / 'elm-eye'}"

    called = watched("study", command, planted, *out, "--set", place)

    shutil.rmtree(folder)  # it holds the canary, of course
    assert called.code == 2
    assert called.out == ""
    assert f"{notes}:" in called.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.json", f'[{{"id": 1, "data": {{"text": "{CANARY}', ("label-studio",)),
        ("a.jsonl", f'{{"text": "{CANARY}", "label": [[0, 5, "{CANARY}"', ("doccano",)),
        ("a.jsonl", f'{{"id": "n", "text": "{CANARY}', ("jsonl",)),
        ("a.json", f'{{"{CANARY}": "{CANARY}', ("kiwi-json",)),
        ("a.bio", f"{CANARY} {CANARY} {CANARY}\n", ("bio",)),
    ],
)
def test_what_is_said_about_a_broken_file_of_notes_holds_none_of_its_text(
    watched, tmp_path: Path, name: str, content: str, options: tuple[str, ...]
) -> None:
    source = tmp_path / "predictions" / name  # the one folder that may hold the canary
    source.parent.mkdir()
    source.write_text(content, "utf-8")

    called = watched(
        *("corpus", "convert", source, "--from", *options),
        *("--to", "jsonl", "--out", tmp_path / "out"),
    )

    assert called.code != 0
    assert str(source) in called.err
