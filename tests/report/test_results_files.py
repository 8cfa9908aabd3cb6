"""`results.csv` and `results.json`: every number once, where a script looks for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.records import RoundRecord
from fedmedlora.report.page import write_report

MakeRun = Callable[..., Path]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_one_row_for_each_arm_cohort_preset_and_label(
    make_run: MakeRun, scores: Any
) -> None:
    run = make_run(scores)
    write_report([run])

    rows = {(r["arm"], r["cohort"], r["preset"], r["label"]): r for r in table(run)}
    expected = {
        (r["arm"], r["cohort"], r["preset"], label): r
        for r in scores["results"]
        for label in ("micro", "macro", *r["scores"]["labels"])
    }
    assert set(rows) == set(expected)
    assert len(table(run)) == len(expected)
    for (*_, label), row in zip(expected, map(rows.get, expected), strict=True):
        assert row is not None
        cell = expected[row["arm"], row["cohort"], row["preset"], label]["scores"]
        if label == "macro":
            assert float(row["f1"]) == cell["macro_f1"]
            assert row["tp"] == row["f1_ci95_low"] == ""
            continue
        figures = cell["micro"] if label == "micro" else cell["labels"][label]
        names = ("tp", "fp", "fn", "precision", "recall", "f1")
        assert [float(row[name]) for name in names] == [figures[name] for name in names]
        ends = [row["f1_ci95_low"], row["f1_ci95_high"]]
        if label == "micro":
            assert [float(end) for end in ends] == figures["f1_ci95"]
        else:
            assert ends == ["", ""]


def test_of_a_single_note_no_interval_is_written_even_if_an_older_run_has_one(
    make_run: MakeRun, scores: Any
) -> None:
    name = scores["cohorts"][0]["name"]
    scores["cohorts"][0]["documents"] = 1
    run = make_run(scores)
    write_report([run])

    told = [row for row in table(run) if row["label"] == "micro"]
    assert {bool(row["f1_ci95_low"]) for row in told if row["cohort"] == name} == {False}
    assert all(row["f1_ci95_high"] for row in told if row["cohort"] != name)


def test_rows_say_where_they_come_from(make_run: MakeRun) -> None:
    run = make_run()
    write_report([run])

    rows = table(run)
    assert {(r["run"], r["study"], r["seed"]) for r in rows} == {(run.name, "demo", "0")}
    assert {r["strategy"] for r in rows if r["arm"] == "fedmedlora-plus-reference"} == {
        "fedmedlora-plus"
    }
    assert {(r["site"], r["condition"]) for r in rows if r["arm"] == "single-site/icu"} == {
        ("icu", "single-site")
    }
    assert {(r["setting"], r["documents"]) for r in rows if r["cohort"] == "eye"} == {
        ("external", "14")
    }


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_no_name_is_a_formula_to_a_spreadsheet(make_run: MakeRun, scores: Any, name: str) -> None:
    scores["study"] = name
    run = make_run(scores)
    write_report([run])

    assert {r["study"] for r in table(run)} == {"'" + name}


def test_json_holds_the_scores_as_they_were_and_the_costs(make_run: MakeRun, scores: Any) -> None:
    run = make_run(scores)
    write_report([run])

    (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
    assert entry["run"] == run.name
    for key in ("study", "arms", "cohorts", "results", "summary", "comparisons"):
        assert entry[key] == scores[key]
    assert len(entry["config_sha256"]) == 64


def test_costs_are_sums_over_sites_and_rounds_and_whole_models_need_every_transfer(
    make_run: MakeRun,
) -> None:
    def record(round_index: int, size: int | None) -> RoundRecord:
        return RoundRecord(
            arm="fedavg",
            round_index=round_index,
            sites=("icu", "ward"),
            bytes_up={"icu": 10, "ward": 20},
            bytes_down={"icu": 5, "ward": 6},
            site_seconds={"icu": 1.0, "ward": 2.0},
            elapsed_seconds=4.0,
            notes={} if size is None else {"full_model_bytes": size},
        )

    def cost(records: list[RoundRecord]) -> dict[str, Any]:
        run = make_run(rounds=records)
        write_report([run])
        (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
        (found,) = [c for c in entry["costs"] if c["arm"] == "fedavg"]
        return dict(found)

    known = cost([record(1, 1000), record(2, 1000)])
    assert (known["num_rounds"], known["seconds"], known["site_seconds"]) == (2, 8.0, 6.0)
    assert (known["bytes_up"], known["bytes_down"]) == (60, 22)
    assert known["full_model_bytes"] == 8 * 1000
    # Five cohorts, counted once each although there are two presets.
    assert known["extraction_seconds"] == pytest.approx(5 * 2.5 + (10 + 12 + 9 + 14 + 13) / 10)
    assert cost([record(1, 1000), record(2, None)])["full_model_bytes"] is None


def test_what_an_arm_without_federation_hands_to_itself_is_no_traffic(make_run: MakeRun) -> None:
    record = RoundRecord("centralized", 1, ("pool",), bytes_up={"pool": 7}, bytes_down={"pool": 7})
    run = make_run(rounds=[record])
    write_report([run])

    (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
    (cost,) = [c for c in entry["costs"] if c["arm"] == "centralized"]
    assert cost["bytes_up"] == cost["bytes_down"] == 0
    assert ">7 B<" not in (run / "report.html").read_text("utf-8")


def test_extraction_times_beside_the_scores_are_read(make_run: MakeRun, scores: Any) -> None:
    for result in scores["results"]:
        del result["extraction_seconds"]
    run = make_run(scores)
    lines = [{"arm": "fedavg", "cohort": c, "seconds": s} for c, s in (("eye", 2.5), ("icu", 4))]
    (run / "extraction.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report([run])

    (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
    seconds = {cost["arm"]: cost["extraction_seconds"] for cost in entry["costs"]}
    assert seconds["fedavg"] == 6.5
    assert seconds["uniform"] is None


def test_the_size_of_the_whole_model_may_stand_in_the_scores(
    make_run: MakeRun, scores: Any
) -> None:
    record = RoundRecord("fedavg", 1, ("icu",), bytes_up={"icu": 7}, bytes_down={"icu": 7})
    run = make_run(scores | {"full_model_bytes": 500}, rounds=[record])
    write_report([run])

    (entry,) = json.loads((run / "results.json").read_text("utf-8"))["runs"]
    assert [c["full_model_bytes"] for c in entry["costs"] if c["arm"] == "fedavg"] == [1000]
