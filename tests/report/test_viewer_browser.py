"""The viewer in a real browser, if there is one: the script runs, and nothing else does."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.evaluate import evaluate_presets
from fedmedlora.evaluation.presets import STRICT
from fedmedlora.report.viewer import Scored, write_scored_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Arcs are drawn of what is in sight, once there is a frame.
    *("--window-size=1200,3000", "--run-all-compositor-stages-before-draw"),
)
HACK = "<img src=x onerror=\"document.title='HACKED'\"></script><script>document.title='HACKED'"
TEXT = f"😀 {HACK}\r\nSevere ankle pain,\rnone in the knee."


class Dom(HTMLParser):
    """What the browser made of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self.texts: list[str] = []
        self._in_text = self._in_title = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "div" and ("class", "text") in attrs:
            self._in_text = True
            self.texts.append("")
        self._in_title = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        self._in_text = self._in_text and tag != "div"
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_text:
            self.texts[-1] += data
        if self._in_title:
            self.title += data


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to show the page")
def test_the_filters_and_arcs_work_and_hostile_text_stays_text(tmp_path: Path) -> None:
    start = TEXT.index("Severe")
    pain = Entity.at("T1", "problem", start, start + 17)
    severe = Entity.at("T2", HACK, start, start + 6)
    gold = Document(HACK, TEXT, (pain, severe), (Relation("R1", "modifies", "T2", "T1"),))
    predicted = gold.with_entities([severe])
    page = tmp_path / "page.html"
    scores = [Scored(evaluate_presets([gold], [predicted], [STRICT], num_draws=10)[0])]
    write_scored_page(page, [gold], [predicted], scores, [("Gold", HACK)])

    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = subprocess.run(
        [str(CHROMIUM), *FLAGS, profile, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    dom = Dom(shown.stdout.decode())

    assert dom.title.startswith("1 note, gold and predicted")
    assert not [tag for tag, _ in dom.tags if tag == "img"]
    assert dom.texts == [TEXT, TEXT]
    bar = next(attrs for _, attrs in dom.tags if attrs.get("id") == "bar")
    assert "hidden" not in bar
    assert [attrs["class"] for tag, attrs in dom.tags if tag == "path"][:2] == [
        "arc bad missed",
        "head bad missed",
    ]
