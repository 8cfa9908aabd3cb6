"""What was tried to make a training step faster below the level of our own code.

`torch.compile` of decoder layers, its compile time counted; and weights that oneDNN packs once.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.timing import interleave, seconds_of
from benchmarks.ways.lessons import make_lessons, sentence_examples
from benchmarks.ways.trainers import Ours, Precision, Setting, Setup, base_model
from fedmedlora.models.kernels import onednn_takes_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    threads: int = 2
    layers: int = 3
    """So many of the model's layers are compiled; every layer compiles for itself."""
    examples: int = 8
    steps: int = 2
    repetitions: int = 3
    tokens: tuple[int, ...] = (64, 320, 1024)
    """Rows of the products with packed weights."""
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "threads": 1,
    "layers": 0,
    "examples": 2,
    "steps": 1,
    "repetitions": 1,
    "tokens": (8,),
    "rank": 2,
    "alpha": 4.0,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    torch.set_num_threads(config.threads)
    return {"tables": [_compiled(config, say), _packed(config, say)]}


def _compiled(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    setup = Setup(
        config.model,
        "cpu",
        config.threads,
        config.rank,
        config.alpha,
        config.learning_rate,
        config.seed,
    )
    precision: Precision = "float32" if config.model == "tiny" else "bfloat16"
    tokenizer = base_model(setup, precision).tokenizer
    examples = sentence_examples(tokenizer, "compact", config.examples, config.seed, 96)
    lessons = make_lessons(examples, config.steps, config.seed)
    ways = {"as it is": Ours(setup, precision), "compiled": Ours(setup, precision)}
    layers = ways["compiled"].layers[: config.layers]
    for layer in layers:
        layer.compile(dynamic=True)
    train = {name: partial(way.train, lessons, Setting(precision)) for name, way in ways.items()}
    first = {name: seconds_of(work) for name, work in train.items()}
    say(f"first round: {first['as it is']:.1f} s, compiled {first['compiled']:.1f} s")
    taken = interleave(train, config.repetitions)
    step = {name: statistics.median(times) / config.steps for name, times in taken.items()}
    num_layers = max(1, len(layers))
    cost = (first["compiled"] - first["as it is"]) / num_layers
    gain = (step["as it is"] - step["compiled"]) / num_layers
    say(f"a layer takes {cost:.1f} s to compile and gains {1e3 * gain:.2f} ms a step")
    return {
        "title": f"torch.compile of {len(layers)} decoder layers, shapes dynamic",
        "columns": [
            "step as it is, s",
            "step compiled, s",
            "compiling a layer, s",
            "gain of a layer a step, s",
        ],
        "rows": [[step["as it is"], step["compiled"], cost, gain]],
    }


def _packed(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(config.seed)
    # oneDNN packs no bfloat16 weight for a processor without such instructions.
    dtype = torch.bfloat16 if onednn_takes_bfloat16() else torch.float32
    weight = torch.randn(1536, 576, generator=generator).to(dtype)
    rows = []
    with torch.inference_mode():
        for tokens in config.tokens:
            states = torch.randn(tokens, 576, generator=generator).to(dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
            plain: Any = partial(torch.nn.functional.linear, states, weight)
            ready: Any = partial(
                torch.ops.mkldnn._linear_pointwise, states, packed, None, "none", [], ""
            )
            for work in (plain, ready):
                seconds_of(work)
            taken = interleave({"plain": plain, "packed": ready}, 15)
            work_done = 2 * tokens * weight.numel() / 1e9
            rows.append([tokens, *(work_done / statistics.median(t) for t in taken.values())])
    say("products with packed weights measured")
    name = str(dtype).removeprefix("torch.")
    return {
        "title": f"A {name} product of 1536 x 576, GFLOP/s: the weight as it lies, or packed once",
        "columns": ["tokens", "as it lies", "packed"],
        "rows": rows,
    }
