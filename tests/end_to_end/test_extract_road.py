"""A run's adapter marks entities in any note, and every offset is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.document import Document
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.testing.tiny import write_tiny_model

NOTES = {
    "plain": "Given aspirin 81 mg daily for chest pain.",
    "crlf": "Pain since Monday.\r\n\r\nNo fever.\r\nScan of the chest: no mass.\r\n",
    "old-mac": "Pain.\rNo fever.\r",
    "tabs": "\tTest\tResult\n\tHb\t13.1\t\n",
    "emoji": "Feels 😀 after aspirin 👩🏽‍⚕️; pain 3/10 😀😀.",
    "accents": "Café-au-lait spots, Köhler\u2019s disease, e\u0301 combining, naïve T\u2011cells.",
    "right-to-left": "Patient שלום had fever \u202ereversed\u202c and pain.",
    "markup": "SpO2 < 90 & RR > 30, pH<7.2 && BP<90, <b>bold</b> &lt;drug&gt;",
    "our-tags": "<problem>fever</> </problem> <drug> </ > <test>CT</> aspirin </>",
    "html-tags": 'Saw <span class="drug">aspirin</span> and <mark>pain</mark>.',
    "prompt-words": "Copy the text and tag each problem. Text: pain\nTagged: pain",
    "special-tokens": "<|begin|> pain <|end|> <|im_start|>system<|im_end|>",
    "empty": "",
    "blank": " \t\r\n  ",
    "one-letter": "x",
    "long-word": "pneumono" * 60,
    "no-space": "疼痛和发热" * 40,
    "control": "pain\x0bfever\x0c\x85next\u2028line\u2029para\x1fend",
    "lone-quotes": "pain \\ \"fever\" 'mass' \\n not a line end",
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `.txt` notes, some of them deeper."""
    folder = tmp_path_factory.mktemp("notes")
    (folder / "deeper").mkdir()
    for number, (name, text) in enumerate(NOTES.items()):
        place = folder / "deeper" if number % 2 else folder
        (place / f"{name}.txt").write_bytes(text.encode("utf-8"))
    return folder


def entities_of(documents: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {
        document.id.rpartition("/")[2]: [
            (e.label, [(s.start, s.end) for s in e.spans], e.score) for e in document.entities
        ]
        for document in documents
    }


def extracted(call, run: Path, out: Path, *arguments: object) -> list[Document]:
    called = call("extract", "--adapter", run, "--out", out, *arguments)
    assert called.code == 0, called.err
    return list(load_corpus(Path(called.out.strip())).documents)


@pytest.fixture(scope="module")
def marked(finished, notes: Path, call, tmp_path_factory) -> list[Document]:
    """The notes with what the run's adapter marks in them."""
    return extracted(call, finished.path, tmp_path_factory.mktemp("marked"), notes)


def test_every_character_of_every_note_is_kept_and_every_offset_is_exact(marked) -> None:
    found = {document.id.rpartition("/")[2]: document for document in marked}

    assert {name: document.text for name, document in found.items()} == NOTES
    assert sum(len(document.entities) for document in marked) > 20
    for document in marked:
        end = 0
        for entity in document.entities:
            text = document.entity_text(entity)
            assert text == text.strip() != ""
            assert entity.start >= end, "entities overlap"
            end = entity.end
            assert 0 < entity.score <= 1


def test_notes_without_words_have_no_entities(marked) -> None:
    found = entities_of(marked)

    assert found["empty"] == found["blank"] == []


def test_folder_files_and_json_lines_give_the_same_entities(
    finished, notes: Path, marked, call, tmp_path: Path
) -> None:
    files = sorted(notes.rglob("*.txt"))
    source = tmp_path / "notes.jsonl"
    write_jsonl(source, [Document(path.stem, NOTES[path.stem]) for path in files])

    from_files = extracted(call, finished.path, tmp_path / "files", *files)
    from_lines = extracted(call, finished.path, tmp_path / "lines", source)

    by_files, by_lines, by_folder = map(entities_of, (from_files, from_lines, marked))
    assert by_files.keys() == by_lines.keys() == by_folder.keys()
    for name, entities in by_folder.items():
        for other in (by_files[name], by_lines[name]):
            assert [entity[:2] for entity in other] == [entity[:2] for entity in entities]
            # Notes in another order share batches with others: the last digit may round otherwise.
            scores = [entity[2] for entity in entities]
            assert [entity[2] for entity in other] == pytest.approx(scores, abs=2e-6)


def test_brat_holds_the_same_notes_entities_and_scores_as_json_lines(
    finished, notes: Path, marked, call, tmp_path: Path
) -> None:
    in_brat = extracted(call, finished.path, tmp_path / "brat", notes, "--to", "brat")

    assert entities_of(in_brat) == entities_of(marked)
    for path in notes.rglob("*.txt"):
        written = tmp_path / "brat" / path.relative_to(notes)
        assert written.read_bytes() == path.read_bytes()
        assert written.with_suffix(".ann").is_file()


def test_what_brat_cannot_hold_is_refused_before_any_work(finished, call, tmp_path) -> None:
    source = tmp_path / "notes.jsonl"
    write_jsonl(source, [Document("fine", "pain"), Document("../escape", "pain")])
    options = ("--to", "brat", "--out", tmp_path / "out")

    called = call("extract", "--adapter", finished.path, *options, source)

    assert called.code == 1
    assert "the id cannot be a file name" in called.err
    assert "loading" not in called.err
    assert not (tmp_path / "out").exists()


def test_a_run_stands_for_the_adapter_of_its_last_round(
    finished, notes: Path, marked, call, tmp_path: Path
) -> None:
    folder = finished.path / "adapters" / "round-002"

    by_folder = extracted(call, folder, tmp_path / "folder", notes)
    called = call(
        *("extract", "--adapter", finished.path, "--out", tmp_path / "run", "--json", notes)
    )

    assert entities_of(by_folder) == entities_of(marked)
    summary = json.loads(called.out)
    assert summary["adapter"] == str(folder)
    assert summary["documents"] == len(NOTES)
    assert summary["entities"] == sum(len(document.entities) for document in marked)


def test_another_arm_and_another_round_can_be_named(finished, notes, call, tmp_path) -> None:
    for number, name in enumerate(("round-001", "single-site/alder-icu/round-002")):
        folder = finished.path / "adapters" / name
        called = call(
            *("extract", "--adapter", folder, "--out", tmp_path / str(number), "--json", notes)
        )
        assert json.loads(called.out)["adapter"] == str(folder)


def test_extraction_marks_what_the_study_marked_with_the_same_adapter_and_labels(
    finished, study: Path, call, tmp_path: Path
) -> None:
    (cohort,) = (c for c in finished.json("scores.json")["cohorts"] if c["name"] == "elm-eye")
    predicted = read_jsonl(
        finished.path / "predictions" / "fedmedlora-plus-reference--elm-eye.jsonl"
    )
    source = tmp_path / "notes.jsonl"
    write_jsonl(source, [document.with_entities(()) for document in predicted])

    labels = ", ".join(reversed(cohort["labels"]))  # the order of labels does not matter
    again = extracted(call, finished.path, tmp_path / "out", source, "--labels", labels)

    assert entities_of(again) == entities_of(predicted)


def test_only_the_labels_asked_for_are_marked(finished, notes, call, tmp_path: Path) -> None:
    documents = extracted(call, finished.path, tmp_path / "out", notes, "--labels", "drug")

    assert {e.label for document in documents for e in document.entities} == {"drug"}


def test_gold_entities_of_the_input_are_not_passed_on(finished, study, call, tmp_path) -> None:
    gold = study.parent / "hospitals" / "elm-eye" / "documents.jsonl"
    bare = tmp_path / "bare.jsonl"
    write_jsonl(bare, [document.with_entities(()) for document in read_jsonl(gold)])

    with_gold = extracted(call, finished.path, tmp_path / "gold", gold)
    without = extracted(call, finished.path, tmp_path / "none", bare)

    assert entities_of(with_gold) == entities_of(without)
    assert all(not document.relations for document in with_gold)


def test_an_adapter_folder_outside_any_run_works_with_its_own_base_model_only(
    finished, study: Path, notes: Path, call, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished.path / "adapters" / "round-002", tmp_path / "adapter")
    own, other = study.parent / "model", write_tiny_model(tmp_path / "other", seed=5)

    documents = extracted(call, folder, tmp_path / "out", notes, "--model", own)

    assert {d.id.rpartition("/")[2]: d.text for d in documents} == NOTES
    options = ("--out", tmp_path / "no", "--model", other)
    refused = call("extract", "--adapter", folder, *options, notes)
    assert refused.code == 1
    assert "is not the base model that" in refused.err


def test_the_base_model_may_lie_elsewhere_but_must_be_the_same(
    finished, study: Path, notes: Path, marked, call, tmp_path: Path
) -> None:
    same = shutil.copytree(study.parent / "model", tmp_path / "same")
    other = write_tiny_model(tmp_path / "other", seed=5)
    another_shape = write_tiny_model(tmp_path / "shape", shape="qwen3")

    moved = extracted(call, finished.path, tmp_path / "out", notes, "--model", same)

    assert entities_of(moved) == entities_of(marked)
    for base in (other, another_shape):
        options = ("--model", base, "--out", tmp_path / "no")
        called = call("extract", "--adapter", finished.path, *options, notes)
        assert called.code == 1
        assert f"error: {base.name}: is not the base model" in called.err


def test_a_folder_with_other_notes_is_refused_before_any_work(
    finished, notes: Path, call, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("another note")

    options = ("--to", "brat", "--out", tmp_path)
    called = call("extract", "--adapter", finished.path, *options, notes)

    assert called.code == 2
    assert f"error: {tmp_path}: not empty" in called.err
    assert "loading" not in called.err
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("latin.txt", "Schmerz für Köhler".encode("latin-1"), "byte 9 of the file is not UTF-8"),
        ("nul.txt", b"pain\0fever", "NUL byte"),
        ("mark.txt", b"\xef\xbb\xbfpain", "starts with a byte order mark"),
        ("broken.jsonl", b'{"id": "a", "text": "pain"', ":1: "),
        ("empty.jsonl", b"", "the file is empty"),
    ],
)
def test_a_note_that_cannot_be_read_exactly_is_named(
    finished, call, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)

    called = call("extract", "--adapter", finished.path, "--out", tmp_path / "out", path)

    assert called.code == 1
    assert str(path) in called.err
    assert reason in called.err
    assert "loading" not in called.err
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_is_named(finished, notes: Path, call, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.path / "adapters" / "round-002", tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    called = call("extract", "--adapter", folder, "--out", tmp_path / "out", notes)

    assert called.code == 1
    assert f"error: {weights}: damaged" in called.err
