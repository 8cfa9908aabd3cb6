"""The page as a browser and a reader get it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import RunStoreError
from fedmedlora.core.records import RoundRecord
from fedmedlora.report.page import write_report

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "</title><script>alert('x')</script>\"&amp;"


class Page(HTMLParser):
    """Elements, ids and visible text; fails where an end tag does not fit."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attribute(self, name: str) -> list[str]:
        return [v for _, attrs in self.elements if (v := attrs.get(name)) is not None]


def rendered(*runs: Path, out: Path | None = None) -> tuple[str, Page]:
    html = write_report(runs, out).read_text("utf-8")
    return html, Page(html)


def points(value: float) -> str:
    return f"{abs(100 * value):.1f}"


def test_the_page_loads_nothing_and_forbids_loading(make_run: MakeRun) -> None:
    html, page = rendered(make_run())

    policies = [a for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert [p["content"] for p in policies] == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ]
    assert page.attribute("src") == page.attribute("srcset") == page.attribute("onclick") == []
    assert all(target.startswith("#") for target in page.attribute("href"))
    assert not {"script", "link", "iframe", "object", "base"} & {t for t, _ in page.elements}
    assert not re.search(r"url\(|@import|https?:|//\w", html)


def test_every_score_of_the_run_is_on_the_page(make_run: MakeRun, scores: Any) -> None:
    _, page = rendered(make_run(scores))

    numbers = set(re.findall(r"\d+\.\d", page.text))
    expected = set()
    for result in scores["results"]:
        cell = result["scores"]
        expected |= {points(cell["micro"]["f1"]), points(cell["macro_f1"])}
        expected |= {points(label["f1"]) for label in cell["labels"].values()}
    for row in scores["summary"]:
        expected |= {points(v) for v in (row["macro_f1"], *row["ci95"])}
    for row in scores["comparisons"]:
        expected |= {points(v) for v in (row["difference"], *row["ci95"])}
    assert len(expected) > 100
    assert expected <= numbers


def test_links_inside_the_page_lead_somewhere(make_run: MakeRun) -> None:
    _, page = rendered(make_run(), make_run())

    ids = page.attribute("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.attribute("href")} <= set(ids)
    assert "#run-2" in page.attribute("href")


def test_the_manifest_says_with_what_the_run_was_made(make_run: MakeRun) -> None:
    run = make_run()
    _, page = rendered(run)

    for fact in (run.name, "smollm2-135m", "compact-v1", "clinical-ie-v1", "rank", "Python"):
        assert fact in page.text
    assert re.search(r"Configuration, sha256 [0-9a-f]{64}", page.text)
    assert "Research software, not a medical device." in page.text
    assert "shares at least one character" in page.text


@pytest.mark.parametrize("config", [{"artificial": True}, {"data": {"artificial": True}}])
def test_artificial_notes_are_called_artificial(make_run: MakeRun, config: dict[str, Any]) -> None:
    _, page = rendered(make_run(config=config))

    assert "The notes of this study are artificial." in page.text


def test_what_the_study_says_of_itself_stands_at_the_top_and_is_only_text(
    make_run: MakeRun,
) -> None:
    text, _ = rendered(make_run(config={"about": "Size S <b>of</b> three."}))

    assert "<p>Size S &lt;b&gt;of&lt;/b&gt; three.</p>" in text


def test_real_notes_are_not_called_artificial(make_run: MakeRun) -> None:
    _, page = rendered(make_run(config={"name": "real"}))

    assert "artificial" not in page.text


def test_hostile_names_are_shown_and_do_nothing(make_run: MakeRun, scores: Any) -> None:
    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {HOSTILE if k == "drug" else k: renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        harmless = ("demo", "fedavg", "triage", "drug", "external", "lenient", "clinical-ie-v1")
        return HOSTILE if value in harmless else value

    names = ("fedavg", "icu", HOSTILE)
    record = RoundRecord(
        arm=HOSTILE,
        round_index=1,
        sites=names,
        failed={HOSTILE + "2": HOSTILE},
        weights=dict.fromkeys(names, 1 / 3),
        train_loss=dict.fromkeys(names, 1.0),
        bytes_up=dict.fromkeys(names, 10),
    )
    configs: list[dict[str, Any]] = [{"name": HOSTILE, HOSTILE: {"x": HOSTILE}}, {"name": "other"}]
    runs = [make_run(renamed(scores), rounds=[record], config=config) for config in configs]

    for html, page in (rendered(runs[0]), rendered(*runs)):
        assert "<script" not in html
        assert not {"script", "img"} & {tag for tag, _ in page.elements}
        assert HOSTILE in page.text


def test_control_characters_and_lone_surrogates_in_names_do_not_break_the_page(
    make_run: MakeRun, scores: Any
) -> None:
    run = make_run(scores)
    text = (run / "scores.json").read_text("utf-8")
    hostile = text.replace('"study": "demo"', r'"study": "a\u0000b\ud800c\u202ed"')
    (run / "scores.json").write_text(hostile, encoding="utf-8")

    html, page = rendered(run)

    assert "a\ufffdb\ufffdc\ufffdd" in page.text
    assert not set("\x00\u202e") & set(html)


def test_cells_that_are_missing_are_shown_as_missing(make_run: MakeRun, scores: Any) -> None:
    scores["results"] = [
        r for r in scores["results"] if (r["arm"], r["cohort"]) != ("fedavg", "triage")
    ]
    scores["summary"] = [
        r for r in scores["summary"] if (r["arm"], r["setting"]) != ("fedavg", "external")
    ]
    _, page = rendered(make_run(scores))

    tips = [word for word in page.words if word.startswith("fedavg: ")]
    assert len(tips) == 2 * 4  # strict and lenient, on the other four cohorts
    assert ("td", {"class": "none"}) in page.elements


def test_a_run_with_nothing_but_arms_has_a_page(make_run: MakeRun, scores: Any) -> None:
    empty = scores | {"results": [], "summary": [], "comparisons": [], "cohorts": []}
    _, page = rendered(make_run(empty, rounds=[], config={"name": "bare"}))

    assert "no summary" in page.text
    assert "no round was run" in page.text


def test_a_single_test_note_gets_no_interval_and_no_verdict(make_run: MakeRun, scores: Any) -> None:
    for cohort in scores["cohorts"]:
        if cohort["setting"] == "external":
            cohort["documents"] = 1
    for row in (*scores["summary"], *scores["comparisons"]):
        if row["setting"] == "external":
            row["ci95"] = [0.12345, 0.12345]
    _, page = rendered(make_run(scores))

    num_pairs = len([c for c in scores["comparisons"] if c["setting"] == "external"])
    assert page.text.count("too few notes") == num_pairs
    assert "12.3 to 12.3" not in page.text
    assert "nothing can be concluded" in page.text
    assert "Few test notes." in page.text


def test_enough_test_notes_get_no_warning(make_run: MakeRun, scores: Any) -> None:
    for cohort in scores["cohorts"]:
        cohort["documents"] = 10
    _, page = rendered(make_run(scores))

    assert "ew test notes" not in page.text
    assert "too few notes" not in page.text


def test_a_base_model_on_disk_is_named_without_its_folders(make_run: MakeRun, scores: Any) -> None:
    scores["base_model"] = "/some/where/llama-8b/"
    _, page = rendered(make_run(scores))

    assert "adapters of llama-8b on" in page.text
    assert "Base model /some/where/llama-8b/" in page.text  # in the manifest, in full


def test_failures_are_listed(make_run: MakeRun) -> None:
    _, page = rendered(make_run())

    assert "uniform 2 ward timeout" in page.text


def test_ties_for_the_best_score_are_all_marked(make_run: MakeRun, scores: Any) -> None:
    for row in scores["summary"]:
        tied = row["arm"] in ("fedavg", "uniform")
        row["macro_f1"] = 0.7 if tied else 0.3
        row["ci95"] = [0.65, 0.75] if tied else [0.25, 0.35]
    scores["summary"][0]["ci95"] = [0.25, 0.71]
    _, page = rendered(make_run(scores))

    marks = [a["class"] for t, a in page.elements if t == "td" and "class" in a]
    columns = 4
    assert marks.count("number best") == 2 * columns
    assert marks.count("number close") == 1


def test_an_unfinished_run_is_refused_and_nothing_is_written(make_run: MakeRun) -> None:
    run = make_run(finished=False)

    with pytest.raises(RunStoreError, match="not finished; resume with: fedmedlora study resume"):
        write_report([run])
    assert not list(run.glob("re*.*"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunStoreError, match="not a run directory"):
        write_report([tmp_path])


def test_several_runs_are_compared_beside_the_first_and_their_configs_told_apart(
    make_run: MakeRun,
) -> None:
    first = make_run(config={"name": "demo", "seed": 1, "lora": {"rank": 16}})
    second = make_run(config={"name": "demo", "seed": 1, "lora": {"rank": 8}})

    path = write_report([first, second, first])

    page = Page(path.read_text("utf-8"))
    assert path == first.parent / "report.html"
    assert "Comparison of 2 runs" in page.text
    assert "lora.rank 16 8" in page.text
    assert "seed 1 1" not in page.text


def test_the_same_run_gives_the_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()

    pages = [write_report([run], tmp_path / name).read_bytes() for name in ("a", "b")]

    assert pages[0] == pages[1]


def test_rounds_that_moved_no_bytes_do_not_break_the_figures(
    make_run: MakeRun, rounds: list[RoundRecord]
) -> None:
    still = [replace(r, bytes_up={}, bytes_down={}, elapsed_seconds=0.0) for r in rounds[:-3]]
    first, *others = rounds[-3:]
    _, page = rendered(
        make_run(rounds=[*still, replace(first, bytes_up={}, bytes_down={}), *others])
    )

    assert "Since the start" in page.text
