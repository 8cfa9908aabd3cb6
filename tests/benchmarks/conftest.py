"""A tiny model with sentences of artificial notes for it, and one quick run of each benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run import main
from benchmarks.ways import models
from benchmarks.ways.sentences import Sentence, artificial_notes, by_length, sentences_of
from fedmedlora.models.load import BaseModel
from fedmedlora.testing.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def sentences(base: BaseModel) -> list[Sentence]:
    """Five held-out sentences of different length: three of one hospital, two of the other."""
    notes = artificial_notes("external", 12, seed=0)
    found = by_length(sentences_of(notes, base.tokenizer, count=40, max_source_tokens=40))
    triage, eye = ([s for s in found if (len(s.labels) == n)] for n in (4, 3))
    return by_length([*triage[::7][:3], *eye[::2][:2]])


@dataclass(frozen=True)
class QuickRun:
    """What `run.py NAME --quick` wrote."""

    path: Path
    record: dict[str, Any]


@pytest.fixture(scope="session")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """A quick run of the extraction benchmark."""
    folder = tmp_path_factory.mktemp("records")
    path = folder / "extraction.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CACHE", folder / "cache")
        code = main(["extraction", "--quick", "--out", str(path), "--set", "repetitions=3"])
    assert code == 0
    return QuickRun(path, json.loads(path.read_text("utf-8")))
