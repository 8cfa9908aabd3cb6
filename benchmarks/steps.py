"""What a small training step costs beside a larger one, and what fewer operations gain.

The network as a site trains it, and the same with norms, gates and rotation as the model's own file
writes them, in turns. Time is that of the processor, so that the machine may be in use.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from benchmarks.harness.timing import interleave_charged, ratio, seconds_of
from benchmarks.ways.lessons import make_lessons, window_examples
from benchmarks.ways.trainers import Ours, Precision, Setting, Setup, base_model
from fedmedlora.models.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    layers: int = 30
    """Of a random network as wide as `hidden`; fewer tell the same of a layer."""
    hidden: int = 576
    precision: Precision = "float32"
    kernel: Kernel = "torch"
    examples: tuple[int, ...] = (2, 7)
    """Windows of 64 source tokens in a step: about 320 and 1,024 tokens of text and answer."""
    repetitions: int = 5
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "layers": 1,
    "hidden": 192,
    "examples": (1,),
    "repetitions": 1,
    "rank": 2,
    "alpha": 4.0,
}
PLAIN, LEAN = "as the model's file writes it", "as we train it"


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured, in one thread; see the module."""
    torch.set_num_threads(1)
    setup = Setup(
        config.model,
        "cpu",
        1,
        config.rank,
        config.alpha,
        config.learning_rate,
        config.seed,
        config.kernel,
        (config.hidden, config.layers),
    )
    with patch("fedmedlora.models.lora.make_lean"):
        plain = Ours(setup, config.precision)
    ways = {PLAIN: plain, LEAN: Ours(setup, config.precision)}
    tokenizer = base_model(setup, config.precision).tokenizer
    rows = []
    for count in config.examples:
        lessons = make_lessons(window_examples(tokenizer, 64, count, config.seed), 1, config.seed)
        setting = Setting(config.precision)
        train: dict[str, Callable[[], object]] = {
            name: partial(way.train, lessons, setting) for name, way in ways.items()
        }
        for work in train.values():
            seconds_of(work)
        taken = interleave_charged(train, config.repetitions).processor
        own = sum(example.num_own_tokens for example in lessons.examples)
        speeds = {name: own / statistics.median(times) for name, times in taken.items()}
        gain = ratio(taken[PLAIN], taken[LEAN]).value
        say(f"{own} tokens: {speeds[PLAIN]:.0f} and {speeds[LEAN]:.0f} tokens/s, {gain:.2f} times")
        rows.append([own, speeds[PLAIN], speeds[LEAN], gain])
    return {
        "tables": [
            {
                "title": f"A training step in {config.precision}, {config.layers} layers",
                "columns": ["tokens", f"{PLAIN}, tokens/s", f"{LEAN}, tokens/s", "ratio"],
                "rows": rows,
                "note": "Tokens without instructions; seconds of the processor.",
            }
        ]
    }
