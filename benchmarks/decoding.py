"""What was tried to make verified copying faster, each way beside the others on the same sentences.

Drafts of several lengths; one decoder or two in threads; windows let in by and by or at once. And
the kernels behind a pass: products by their number of tokens in bfloat16 and int8, attention fused
or as two products and a softmax.
"""

from __future__ import annotations

import statistics
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from benchmarks.harness.timing import interleave, seconds_of
from benchmarks.ways.adapters import Training
from benchmarks.ways.models import FormatName, Models
from benchmarks.ways.sentences import artificial_notes, by_length, sentences_of
from fedmedlora.inference import copy_decoder
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.drafts import FEW_PASSES, FEW_TOKENS, DraftLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.inference.decoder import WindowAnswer
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared, on what, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    threads: int = 2
    sentences: int = 96
    batch_size: int = 64
    repetitions: int = 5
    train_examples: int = 256
    """The adapter is that of `extraction.py`, from the cache or trained now."""
    train_examples_a_step: int = 4
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0
    tokens: tuple[int, ...] = (8, 32, 128, 512, 2048)


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "threads": 1,
    "sentences": 8,
    "batch_size": 4,
    "repetitions": 1,
    "train_examples": 8,
    "rank": 2,
    "alpha": 4.0,
    "tokens": (8,),
}

DRAFTS = {
    "few tokens (default)": FEW_TOKENS,
    "label and end never guessed": DraftLimits(0, 3, 12),
    "two guesses, 16 tokens": DraftLimits(2, 4, 16),
    "two guesses, the whole source": DraftLimits(2, 4, 96),
    "few passes": FEW_PASSES,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    torch.set_num_threads(config.threads)
    training = Training(
        config.train_examples,
        config.train_examples_a_step,
        config.rank,
        config.alpha,
        config.learning_rate,
        config.seed,
    )
    dtype = "float32" if config.model == "tiny" else "bfloat16"
    given: dict[FormatName, Any] = {"html": None, "compact": None}
    models = Models(config.model, dtype, "cpu", given, training, say)
    tables = [_drafts(config, models, name, say) for name in ("html", "compact")]
    return {"dtype": dtype, "tables": [*tables, *_kernels(config, say)]}


def _drafts(
    config: Config, models: Models, name: FormatName, say: Callable[[str], None]
) -> dict[str, Any]:
    base, tags = models.merged(name, models.dtype)
    notes = artificial_notes("external", config.sentences // 2 + 2, config.seed)
    found = sentences_of(notes, models.tokenizer, count=config.sentences, max_source_tokens=96)
    prompts = [tags.prompt(s.document, s.span, s.labels) for s in by_length(found)]
    decoders = {
        title: CopyDecoder(base, tags, batch_size=config.batch_size, limits=limits)
        for title, limits in DRAFTS.items()
    }
    ways: dict[str, Callable[[], object]] = {
        title: partial(_decode, decoder, prompts) for title, decoder in decoders.items()
    }
    for title, most in (
        ("two workers of one thread each", None),
        ("all windows let in at once", 1 << 30),
    ):
        decoders[title] = CopyDecoder(base, tags, batch_size=config.batch_size, limits=FEW_TOKENS)
        ways[title] = (
            partial(_let_in, decoders[title], prompts, most)
            if most
            else partial(_two_workers, base, tags, config.batch_size, prompts)
        )
    taken = interleave(ways, config.repetitions)
    rows = []
    for title, seconds in taken.items():
        count = config.repetitions * len(prompts)
        speed = len(prompts) / statistics.median(seconds)
        decoder = decoders[title]
        rows.append([title, speed, decoder.num_passes / count, decoder.num_fed_tokens / count])
        say(f"{name}, {title}: {speed:.1f} sentences/s")
    columns = ["drafts", "sentences/s", "passes a sentence", "fed tokens a sentence"]
    return {"title": f"Drafts, {name} prompt", "columns": columns, "rows": rows}


def _decode(decoder: CopyDecoder, prompts: Sequence[Prompt]) -> list[WindowAnswer]:
    return decoder.decode(prompts, lambda _: None)


def _let_in(decoder: CopyDecoder, prompts: Sequence[Prompt], most: int) -> list[WindowAnswer]:
    """With as many new tokens in a pass as there are."""
    with patch.object(copy_decoder, "_MANY_TOKENS", most):
        return _decode(decoder, prompts)


def _two_workers(base: BaseModel, tags: TagFormat, rows: int, prompts: Sequence[Prompt]) -> None:
    """Every second window by another decoder, side by side in threads of their own."""
    num_threads = torch.get_num_threads()
    pair = [
        CopyDecoder(base, tags, batch_size=max(1, rows // 2), limits=FEW_TOKENS) for _ in range(2)
    ]

    def work(number: int) -> None:
        torch.set_num_threads(1)
        _decode(pair[number], prompts[number::2])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    torch.set_num_threads(num_threads)


def _kernels(config: Config, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Products and attention at the sizes of SmolLM2-135M."""
    products, attentions = [], []
    weight = torch.randn(1536, 576)
    packed = _packed_int8(weight)
    half = weight.bfloat16()
    with torch.inference_mode():
        for tokens in config.tokens:
            states = torch.randn(tokens, 576)
            rounded = states.bfloat16()
            floats = _median(partial(torch.nn.functional.linear, states, weight))
            halves = _median(partial(torch.nn.functional.linear, rounded, half))
            eighths = _median(partial(torch.ops.quantized.linear_dynamic, states, packed, False))
            work = 2 * tokens * weight.numel() / 1e9
            products.append([tokens, work / floats, work / halves, work / eighths])
            rows = max(1, tokens // 8)
            keys = torch.randn(rows, 3, 90, 64).bfloat16()
            asking = torch.randn(rows, 3, 24, 64).bfloat16()
            bias = torch.zeros(rows, 1, 24, 90).bfloat16()
            fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            whole = _median(partial(fused, asking, keys, keys, attn_mask=bias, scale=0.125))
            half_softmax = _median(partial(_two_products, asking, keys, bias, torch.bfloat16))
            full_softmax = _median(partial(_two_products, asking, keys, bias, torch.float32))
            attentions.append([rows, 1e3 * whole, 1e3 * half_softmax, 1e3 * full_softmax])
    say("kernels measured")
    return [
        {
            "title": "A product of 1536 x 576 by its number of tokens, GFLOP/s",
            "columns": [
                "tokens",
                "float32",
                "bfloat16",
                "int8, activations quantised as they come",
            ],
            "rows": products,
        },
        {
            "title": "Attention of rows of 8 queries, 9 heads, 90 keys, in milliseconds",
            "columns": ["rows", "fused", "products, bfloat16 softmax", "products, float32 softmax"],
            "rows": attentions,
        },
    ]


def _two_products(
    asking: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    rows, heads, queries, width = asking.shape
    flat = keys.reshape(rows * heads, -1, width)
    masked = bias.expand(rows, heads, queries, -1).reshape(rows * heads, queries, -1)
    scores = torch.baddbmm(masked, asking.view(rows * heads, queries, width), flat.transpose(1, 2))
    return torch.bmm(torch.softmax(scores.to(dtype), dim=-1).to(keys.dtype), flat)


def _packed_int8(weight: torch.Tensor) -> Any:
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        scales = weight.abs().amax(1) / 127
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantised, None)


def _median(work: Callable[[], object]) -> float:
    seconds_of(work)
    return statistics.median(seconds_of(work) for _ in range(15))
