"""The figures that we want to reach, and whether a measurement reaches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Target:
    """One figure: `bound` is what must be reached, `stretch` what we would really like."""

    id: str
    what: str
    unit: str
    bound: float
    stretch: float | None
    at_least: bool = True

    def reaches(self, value: float, bound: float) -> bool:
        """Whether a value is on the right side of a bound of this target."""
        return value >= bound if self.at_least else value <= bound


_GENERATE = "against transformers.generate, entity task, html prompt"
_HELPED = "the instruction's cache shared by all rows; prompt lookup where a sentence is alone"
_TRL = "local training, examples/s, html prompt, against TRL's SFTTrainer"
_BERT = "sentences/s of a BERT-base shape, token classification, divided by ours (compact prompt)"
_MERGE = "10 sites, Llama-3.1-8B shapes, rank 16, product merge, 2 cores"
TARGETS = {
    target.id: target
    for target in (
        Target("T1a", f"CPU: sentences/s, html prompt, {_GENERATE}", "x", 6, 9),
        Target("T1b", f"CPU: the same, one sentence at a time for both, {_GENERATE}", "x", 5, 10),
        Target("T1c", f"CPU: sentences/s, compact prompt, {_GENERATE}", "x", 8, 12),
        Target("T1a+", f"T1a with generate helped: {_HELPED}", "x", 6, 9),
        Target("T1b+", f"T1b with generate helped: {_HELPED}", "x", 5, 10),
        Target("T1c+", f"T1c with generate helped: {_HELPED}", "x", 8, 12),
        Target("T2a+", f"T2a with generate helped: {_HELPED}", "x", 8, None),
        Target("T2c+", f"T2c with generate helped: {_HELPED}", "x", 8, None),
        Target("T2a", f"GPU: sentences/s, html prompt, {_GENERATE}", "x", 8, None),
        Target("T2c", f"GPU: sentences/s, compact prompt, {_GENERATE}", "x", 8, None),
        Target(
            "E-choice",
            "bfloat16: the worst choice of verified copying below the best step by step",
            "logits",
            0.5,
            None,
            at_least=False,
        ),
        Target(
            "E-F1",
            "the difference in strict F1 between the two, over all notes of all cohorts",
            "points",
            0.5,
            None,
            at_least=False,
        ),
        Target("T3-float32", f"CPU: {_BERT}, float32", "x", 6, 4, at_least=False),
        Target("T3-bfloat16", f"CPU: {_BERT}, bfloat16", "x", 6, 4, at_least=False),
        Target("T4", f"CPU: {_TRL}", "x", 4, 6),
        Target(
            "T4-loss",
            "the same in float32: the largest difference between the losses of a step",
            "%",
            2,
            None,
            at_least=False,
        ),
        Target("T5", f"GPU: {_TRL}", "x", 2, 4),
        Target("T6", "peak memory, 50 simulated sites against 1", "x", 1.10, 1.05, at_least=False),
        Target("T7", "a round's time outside local training", "%", 3, 1, at_least=False),
        Target("T8", f"{_MERGE}, from file to file with screening", "s", 10, None, at_least=False),
        Target("T8-alone", f"{_MERGE}, the merge alone, in memory", "s", 10, 3, at_least=False),
        Target("T8-memory", "peak memory of T8", "GiB", 1, None, at_least=False),
        Target("T8-dense", "the same against a dense SVD of the mean product", "x", 50, None),
        Target(
            "T12",
            "reading and validating annotated notes, plain JSON lines, one thread",
            "MB/s",
            20,
            40,
        ),
        Target("T12-load", "the same, all documents kept in memory", "MB/s", 20, 40),
        Target(
            "T13",
            "document bootstrap, 10,000 draws of 1,000 documents, one thread",
            "s",
            0.5,
            0.1,
            at_least=False,
        ),
        Target(
            "T13-interval",
            "the ends of its interval and of scipy's: the largest distance on any documents",
            "points",
            0.1,
            None,
            at_least=False,
        ),
        Target(
            "memory-plan",
            "the peak memory planned for a study against what it took, worst of all settings",
            "%",
            10,
            None,
            at_least=False,
        ),
        Target(
            "memory-plan-unseen",
            "the same, worst of the settings that no constant was fitted to",
            "%",
            10,
            None,
            at_least=False,
        ),
        Target(
            "T11-help",
            "fedmedlora --help against importing typer and rich, processor time",
            "x",
            2,
            None,
            at_least=False,
        ),
        Target(
            "T23-evaluate",
            "evaluate --json of 20,000 notes, 25 MB gold and 25 MB predicted, one thread",
            "s",
            20,
            None,
            at_least=False,
        ),
        Target("T23-evaluate-memory", "peak memory of it", "MB", 150, None, at_least=False),
        Target(
            "T23-summarize", "corpus summarize of the gold notes", "s", 10, None, at_least=False
        ),
        Target("T23-summarize-memory", "peak memory of it", "MB", 150, None, at_least=False),
        Target("T15", "CPU: useful training tokens/s against a plain loop with peft", "x", 3, 5),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A target's value, and the single measurements that it is the median of."""

    value: float
    measurements: Sequence[float]


def judge(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Plain rows for the record: each target with its value, its bounds and whether they are met.

    Raises:
        ConfigError: A benchmark measured a target that there is not.
    """
    if unknown := sorted(set(measured) - set(TARGETS)):
        raise ConfigError(f"targets: unknown {', '.join(unknown)}; see benchmarks/harness.")
    rows = []
    for name, found in measured.items():
        target = TARGETS[name]
        rows.append(
            {
                "id": name,
                "what": target.what,
                "unit": target.unit,
                "value": found.value,
                "measurements": list(found.measurements),
                "direction": "at least" if target.at_least else "at most",
                "target": target.bound,
                "met": target.reaches(found.value, target.bound),
                "stretch": target.stretch,
                "stretch_met": target.stretch is not None
                and target.reaches(found.value, target.stretch),
            }
        )
    return rows
