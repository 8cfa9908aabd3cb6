"""Round records survive the trip through a line of JSON."""

from __future__ import annotations

import json

from fedmedlora.core.records import RoundRecord


def test_a_round_record_is_the_same_after_a_line_of_json() -> None:
    record = RoundRecord(
        arm="fedavg",
        round_index=2,
        sites=("north", "south"),
        failed={"west": "timeout"},
        weights={"north": 0.1 + 0.2, "south": 0.7},
        validation_loss={"north": 1e-17},
        bytes_up={"north": 2**40},
        elapsed_seconds=1.5,
        notes={"temperature": [1.0, 2.0]},
    )

    assert RoundRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
