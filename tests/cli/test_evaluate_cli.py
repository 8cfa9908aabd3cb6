"""`fedmedlora evaluate` as a user or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmedlora import __version__
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.evaluation.presets import PRESETS

TEXT = "Takes metoprolol 50 mg daily, no chest pain."


def entity(id: str, label: str, start: int, end: int) -> dict[str, Any]:
    return {"id": id, "label": label, "start": start, "end": end, "text": TEXT[start:end]}


def write(path: Path, entities: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"id": "n1", "text": TEXT, "entities": entities, **more}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path


def twice(path: Path) -> None:
    """The note of the file a second time, under another id."""
    line = path.read_text("utf-8")
    path.write_text(line + line.replace('"n1"', '"n2"'), encoding="utf-8")


GOLD = [
    entity("T1", "drug", 6, 16),
    entity("T2", "strength", 17, 22),
    entity("T3", "problem", 33, 43),
]
FOUND = [
    entity("T1", "drug", 6, 16),
    entity("T2", "strength", 17, 19),
    entity("T3", "problem", 38, 43),
]
LINK = [{"id": "R1", "label": "modifies", "head": "T2", "tail": "T1"}]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    gold = write(tmp_path / "gold.jsonl", GOLD, relations=LINK)
    found = write(tmp_path / "found.jsonl", FOUND, relations=LINK)
    return ["evaluate", "--gold", str(gold), "--predicted", str(found)]


def test_json_holds_what_the_contract_says(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--json"]) == 0

    result = json.loads(capsys.readouterr().out)

    def counts(tp: int, fp: int, fn: int, f1: float) -> dict[str, Any]:
        ratios = {"precision": f1, "recall": f1, "f1": f1, "f1_ci95": None}
        return {"tp": tp, "fp": fp, "fn": fn, **ratios}

    one_of_two, right, wrong = counts(1, 1, 1, 0.5), counts(1, 0, 0, 1.0), counts(0, 1, 1, 0.0)
    boundary = {"kind": "boundary", "count": 1}
    assert result == {
        "preset": "strict",
        "version": __version__,
        "documents": 1,
        "entities": {
            "micro": one_of_two,
            "macro_f1": 0.5,
            "labels": {"problem": wrong, "drug": right},
        },
        "modifiers": {
            "micro": wrong,
            "macro_f1": 0.0,
            "labels": {"strength": wrong},
        },
        "relations": {
            "micro": wrong,
            "macro_f1": 0.0,
            "pairs": {"strength-drug": wrong},
            "gold_entities": {"micro": counts(0, 0, 0, 0.0), "macro_f1": 0.0, "pairs": {}},
        },
        "unaligned_predictions": 0,
        "hallucination_rate": 0.0,
        "parse_failure_rate": None,
        "truncation_rate": None,
        "errors": [
            {**boundary, "gold": "problem", "predicted": "problem"},
            {**boundary, "gold": "strength", "predicted": "strength"},
        ],
    }


def test_lenient_forgives_boundaries_in_every_block(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "lenient", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    blocks = [result[name]["micro"]["f1"] for name in ("entities", "modifiers", "relations")]
    assert blocks == [1.0, 1.0, 1.0]


def test_all_gives_every_preset_by_name(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "all", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    assert list(result) == list(PRESETS)
    assert all(result[name]["preset"] == name for name in PRESETS)


def test_further_figures_stand_in_their_block_under_their_own_names(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "all", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)
    for block, labels in (("entities", "labels"), ("modifiers", "labels"), ("relations", "pairs")):
        for preset, further in (("paper", "lenient"), ("n2c2-2018", "strict")):
            assert set(result[preset][block][further]) == {"micro", "macro_f1", labels}
        assert result["paper"][block]["lenient"]["micro"]["f1"] == 1.0
        assert result["i2b2-2010"][block]["inexact"]["micro"]["f1"] == 1.0
    assert result["partial"]["entities"]["micro"]["tp"] == 1.5
    assert result["partial"]["entities"]["categories"]["type"]["correct"] == 2


def test_a_second_prediction_set_is_compared_figure_by_figure(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gold = files[2]

    assert run_app(app, [*files, "--against", gold, "--json"]) == 0

    compared = json.loads(capsys.readouterr().out)["against"]
    assert [d["figure"] for d in compared] == ["entities", "modifiers", "relations"]
    assert compared[0] == {
        "figure": "entities",
        "f1": 0.5,
        "against_f1": 1.0,
        "difference": -0.5,
        "ci95": None,  # of one document there is none
        "p": 1.0,  # one document: swapping or not makes the same difference
        "p_holm": 1.0,
    }


def test_errors_are_written_to_a_file_without_a_word_of_the_note(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "errors.jsonl"

    assert run_app(app, [*files, "--errors", str(path)]) == 0

    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["kind"], line["gold"]["id"]) for line in lines] == [
        ("boundary", "T2"),
        ("boundary", "T3"),
    ]
    everything = path.read_text("utf-8") + "".join(capsys.readouterr())
    assert not any(word in everything for word in ("metoprolol", "50 mg", "chest", "pain"))


def test_errors_never_overwrite_the_notes(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(files[2]).read_bytes()

    assert run_app(app, [*files, "--errors", files[2]]) == 2

    assert Path(files[2]).read_bytes() == before
    assert "--errors" in capsys.readouterr().err


def test_everything_for_people_fits_into_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    labels = ["reference_range", "test", "problem"]
    many = [
        {"id": f"T{i}", "label": labels[i % 3], "start": 5 * i, "end": 5 * i + 3, "text": "xxx"}
        for i in range(1200)
    ]
    links = [
        {"id": f"R{i}", "label": "modifies", "head": f"T{3 * i}", "tail": f"T{3 * i + 1}"}
        for i in range(360)
    ]
    wrong = [{**e, "label": "problem"} if e["id"].endswith("1") else e for e in many]
    long = {"text": "x" * 6_000, "relations": links}
    lost = {"unaligned_predictions": {"test": 7}, "num_windows": 9, "num_truncated": 1}
    gold = write(tmp_path / "gold.jsonl", many, **long)
    found = write(tmp_path / "found.jsonl", wrong, **long, metadata=lost)

    command = ["evaluate", "--gold", str(gold), "--predicted", str(found), "--against", str(gold)]
    assert run_app(app, [*command, "--preset", "all"]) == 0

    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert "…" not in out
    for expected in ("reference_range-test", "gold entities, micro", "cut off: 11.1%", "p, Holm"):
        assert expected in out
    assert "mistakes: 0 boundary, 80 type, " in out


def test_gold_notes_without_a_prediction_are_told(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gold = Path(files[2])
    second = {"id": "n2", "text": TEXT, "entities": GOLD}
    gold.write_text(gold.read_text("utf-8") + json.dumps(second) + "\n", encoding="utf-8")

    assert run_app(app, [*files, "--against", str(gold), "--json"]) == 0

    captured = capsys.readouterr()
    assert "--predicted lacks 1 of the gold notes: all their mentions" in captured.err
    assert "--against" not in captured.err
    assert json.loads(captured.out)["entities"]["micro"]["fn"] == 3


def test_long_names_break_but_no_figure_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    own = [entity("T1", "Psychological_assessment_by_questionnaire", 6, 16)]
    other = [entity("T2", "Therapeutic_procedure_without_a_drug", 17, 22)]
    link = [{"id": "R1", "label": "follows", "head": "T1", "tail": "T2"}]
    gold = write(tmp_path / "gold.jsonl", own + other, relations=link)
    twice(gold)

    assert run_app(app, ["evaluate", "--gold", str(gold), "--predicted", str(gold)]) == 0

    out = capsys.readouterr().out
    assert "…" not in out
    # Three names, two blocks, gold entities.
    assert out.count("100.0 100.0 100.0 100.0 to 100.0") == 6


def test_notes_without_a_mention_leave_nothing_to_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = write(tmp_path / "gold.jsonl", [])

    assert run_app(app, ["evaluate", "--gold", str(gold), "--predicted", str(gold)]) == 0

    assert "Nothing to score: no mention on either side." in capsys.readouterr().out


def test_the_table_names_the_preset_the_documents_and_the_interval(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, files) == 0

    out = capsys.readouterr().out
    assert f"preset strict, documents: 1, fedmedlora {__version__}" in out
    assert "entities, micro" in out
    assert "in points" in out
    [line] = [line for line in out.splitlines() if line.strip().startswith("entities, micro")]
    assert line.split()[2:] == ["1", "1", "1", "50.0", "50.0", "50.0"]  # one note: no interval


def test_two_notes_have_an_interval_in_points_as_in_the_report(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (files[2], files[4]):
        twice(Path(path))

    assert run_app(app, files) == 0

    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.strip().startswith("entities, micro")]
    assert line.split()[2:] == ["2", "2", "2", *3 * ["50.0"], "50.0", "to", "50.0"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_the_folder_that_extract_wrote_is_taken_as_it_is(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    write_jsonl(tmp_path / "out" / f"documents{suffix}", read_jsonl(Path(files[4])))
    (tmp_path / "out" / "extraction.json").write_text("{}", encoding="utf-8")

    assert run_app(app, [*files, "--json"]) == 0
    of_file = capsys.readouterr().out
    assert run_app(app, [*files[:4], str(tmp_path / "out"), "--json"]) == 0

    assert capsys.readouterr().out == of_file


def test_an_unknown_preset_is_told_all_names_and_the_nearest(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*files, "--preset", "Lenien"]) == 2

    err = capsys.readouterr().err
    assert all(name in err for name in (*PRESETS, "all"))
    assert "Did you mean lenient?" in err


def test_predictions_in_another_order_give_the_same_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def corpus(name: str, numbers: list[int], mentions: list[dict[str, Any]]) -> str:
        lines = [{"id": f"n{n}", "text": TEXT, "entities": mentions[n % 3 :]} for n in numbers]
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return str(path)

    gold = corpus("gold.jsonl", list(range(9)), GOLD)
    printed = []
    for name, order in (("same", [0, 1, 2, 4, 5, 7]), ("other", [7, 4, 0, 5, 2, 1])):
        found = corpus(f"{name}.jsonl", order, FOUND)
        errors = tmp_path / f"{name}-errors.jsonl"
        command = ["evaluate", "--gold", gold, "--predicted", found, "--errors", str(errors)]
        assert run_app(app, [*command, "--preset", "all", "--json"]) == 0
        captured = capsys.readouterr()
        assert "lacks 3 of the gold notes" in captured.err
        printed.append((captured.out, errors.read_text("utf-8")))
    assert printed[0] == printed[1]


def test_help_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["evaluate", "--help"]) == 0

    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS)
    assert "Example" in out


def test_a_corpus_with_a_card_is_scored_on_its_annotated_labels_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "site" / "documents.jsonl", GOLD[:1])
    (tmp_path / "site" / "corpus.toml").write_text(
        'name = "site"\ndocuments = "documents.jsonl"\nannotated_labels = ["drug", "route"]\n'
        "annotated_relations = []\n",
        encoding="utf-8",
    )
    found = write(tmp_path / "found.jsonl", FOUND, relations=LINK)

    command = ["evaluate", "--gold", str(tmp_path / "site"), "--predicted", str(found), "--json"]
    assert run_app(app, command) == 0

    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert list(result["entities"]["labels"]) == ["drug"]
    assert result["entities"]["micro"]["fp"] == 0
    assert list(result["modifiers"]["labels"]) == ["route"]
    assert result["relations"]["pairs"] == {}
    assert "not annotated for it: problem, strength" in captured.err


def test_a_schema_file_says_which_labels_are_entities(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = tmp_path / "own.toml"
    schema.write_text(
        'name = "own"\nversion = "v1"\n[entity_labels]\nstrength = "how much"\n', encoding="utf-8"
    )

    assert run_app(app, [*files, "--schema", str(schema), "--json"]) == 0

    assert list(json.loads(capsys.readouterr().out)["entities"]["labels"]) == ["strength"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--preset", "loose", "expected one of strict, lenient"),
        ("--labels", "drgu", "unknown: drgu"),
        ("--labels", " , ", "expected names with commas"),
        ("--gold", "nowhere.jsonl", "not found"),
        ("--schema", "nowhere.toml", "does not exist"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    files: list[str],
    option: str,
    value: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = run_app(app, [*files, option, value])

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_notes_that_do_not_fit_together_fail_without_showing_a_word_of_them(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"id": "n1", "text": "Stopped warfarin."}) + "\n", encoding="utf-8")

    assert run_app(app, [*files[:-1], str(other), "--json"]) == 1

    captured = capsys.readouterr()
    assert "n1" in captured.err
    assert "warfarin" not in captured.err + captured.out
    assert "metoprolol" not in captured.err + captured.out
