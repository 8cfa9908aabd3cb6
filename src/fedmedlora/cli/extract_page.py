"""The page of `extract --to html`: its documents, and what its head says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.jsonl import JsonlReader
from fedmedlora.report.viewer import write_marked_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedmedlora.study.extraction_page import PageWriter


def page_writer(adapter: str, model: str | None) -> PageWriter:
    """Writes the page of notes that this adapter marked, under the name that the user knows."""

    def write(page: Path, documents: Path, settings: Mapping[str, Any]) -> None:
        facts = [
            ("Adapter", f"{adapter}, sha256 {settings['adapter']}"),
            ("Base model", f"{f'{model}, ' if model else ''}sha256 {settings['base_model']}"),
            ("Labels asked for", ", ".join(settings["labels"])),
            ("Lowest probability", _or_none(settings["threshold"])),
            ("Bonus of tags that open", _bonuses(settings["open_bonus"])),
            ("Decoder, prompt", f"{settings['decoder']}, {settings['prompt']}"),
        ]
        write_marked_page(page, lambda: JsonlReader(documents), facts)

    return write


def _bonuses(by_task: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {bonus:g}" for task, bonus in by_task.items()) or "none"


def _or_none(threshold: float | None) -> str:
    return "none was set" if threshold is None else f"{threshold:g}"
