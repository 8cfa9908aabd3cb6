"""Adapters that really tag: trained once on artificial notes, then kept in benchmarks/cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.ways.sentences import artificial_notes, sentences_of
from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.adapters.files import load_adapter, save_adapter
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.catalog import ALL_LINEAR, PRESETS
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.training.batches import encode_example, thin_negatives
from fedmedlora.training.local import LocalSettings, train_locally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat

_NEGATIVES = 0.3


@dataclass(frozen=True, slots=True)
class Training:
    """How the adapter is trained; the cache is keyed by this, the model and the format.

    `examples_a_step` is a mean: batches are cut by tokens, so that formats of different length take
    about as many steps.
    """

    examples: int
    examples_a_step: int
    rank: int
    alpha: float
    learning_rate: float
    seed: int


def trained_adapter(
    base: BaseModel,
    tags: TagFormat,
    training: Training,
    cache: Path,
    say: Callable[[str], None],
) -> AdapterState:
    """An adapter for this format, from the cache or trained now on the training hospitals."""
    key: dict[str, Any] = asdict(training) | {
        "base": base.fingerprint,
        "dtype": str(base.output_weight.dtype),
        "format": tags.id,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / "adapters" / f"{tags.id}-{digest}"
    if folder.is_dir():
        return load_adapter(folder)
    sentences = sentences_of(
        artificial_notes("train", training.examples // 4 + 2, training.seed),
        base.tokenizer,
        count=2 * training.examples,
        max_source_tokens=96,
    )
    rendered = [tags.render(s.document, s.span, s.labels) for s in sentences]
    kept = thin_negatives(rendered, keep=_NEGATIVES, seed=training.seed)[: training.examples]
    examples = [encode_example(example, base.tokenizer) for example in kept]
    num_tokens = sum(len(example.token_ids) for example in examples)
    say(f"training an adapter for {tags.id} on {len(examples)} sentences ({num_tokens} tokens)")
    settings = LocalSettings(
        learning_rate=training.learning_rate,
        epochs=1,
        # A fifth more, because a batch is padded and never cut in the middle of an example.
        batch_tokens=round(1.2 * training.examples_a_step * num_tokens / len(examples)),
    )
    initial = initial_adapter(
        base,
        rank=training.rank,
        alpha=training.alpha,
        target_modules=PRESETS[base.name].target_modules if base.name in PRESETS else ALL_LINEAR,
        seed=training.seed,
    )
    result = train_locally(
        LoRAModel(base, initial.spec),
        initial,
        examples,
        LocalPlan(1, seed=training.seed),
        settings,
        SilentObserver(),
    )
    say(f"trained {result.num_steps} steps in {result.elapsed_seconds:.0f} s")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.partial")
    save_adapter(partial, result.adapter)
    partial.rename(folder)
    return result.adapter
