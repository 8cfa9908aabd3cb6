"""The benchmark of scoring measures whole processes and says how it judged them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scoring
from benchmarks.run import main
from fedmedlora.core.errors import ConfigError


def test_each_command_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert main(["scoring", "--quick", "--out", str(tmp_path / "r.json")]) == 0

    record = json.loads((tmp_path / "r.json").read_text("utf-8"))
    targets = {row["id"]: row["value"] for row in record["targets"]}
    [table] = record["results"]["tables"]
    rows = {row[0]: row for row in table["rows"]}
    assert targets["T23-evaluate-memory"] == rows["evaluate --json"][3]
    # Not this process's memory, which holds torch.
    assert 10 < targets["T23-evaluate-memory"] < 200
    assert 0 < targets["T23-summarize"] == rows["corpus summarize"][1]


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluate ended with 2"):
        scoring._process(scoring._COMMAND, ["evaluate", "--gold", "nowhere"], tmp_path)
