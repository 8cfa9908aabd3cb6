"""How a study's attention is computed: chosen when the base model is there, said and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.errors import ModelError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.attention_choice import AttentionChoice
from fedmedlora.study import prepare, run
from fedmedlora.study.study_file import load_study

pytestmark = pytest.mark.usefixtures("without_work")


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run._Run, "finish", lambda _: None)


def recorded(store: Any) -> tuple[str, dict[str, Any]]:
    environment = json.loads((store.path / "environment.json").read_text())
    return store.config["model"]["attention"], environment["attention"]


def test_a_run_on_a_cpu_records_the_plain_way(tiny_study: Path, tmp_path: Path) -> None:
    config = load_study(tiny_study, ['model.device="cpu"'])
    store = run.start_study(config, tmp_path, SilentObserver())

    reason = "FlexAttention is for GPUs"
    assert recorded(store) == ("plain", {"name": "plain", "reason": reason, "error": None})


def test_what_was_chosen_is_what_a_resumed_run_asks_for(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def choose(_: Any, wanted: str) -> AttentionChoice:
        asked.append(wanted)
        return AttentionChoice("flex", "FlexAttention is off by 2.0e-07", 2e-7)

    monkeypatch.setattr(prepare, "choose_attention", choose)
    store = run.start_study(load_study(tiny_study), tmp_path, SilentObserver())
    run.resume_study(store.path, SilentObserver())

    assert recorded(store)[0] == recorded(store)[1]["name"] == "flex"
    assert asked == ["auto", "flex"]


def test_flex_attention_is_refused_where_it_cannot_be_had(tiny_study: Path, tmp_path: Path) -> None:
    config = load_study(tiny_study, ['model.device="cpu"', 'model.attention="flex"'])

    with pytest.raises(ModelError, match=r'model\.attention = "flex": FlexAttention is for GPUs'):
        run.start_study(config, tmp_path, SilentObserver())
