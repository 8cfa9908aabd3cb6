"""How fast this machine trains and extracts, on a study's own notes, within a few seconds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.adapters.exchange import LocalPlan
from fedmedlora.core.records import SilentObserver
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.models.windowing import note_windows
from fedmedlora.study.data import within_tokens
from fedmedlora.training.local import train_locally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.study.prepare import Prepared
    from fedmedlora.training.batches import EncodedExample

PROBE_SECONDS = 2.0
"""For each of the two kinds of work, after a first trial that is as small as can be."""

_TRIAL_TOKENS = 48
_MOST_WINDOWS = 16


def training_rate(prepared: Prepared) -> float:
    """Tokens a second of a real optimiser step, or of as large a part as fits in the time."""
    site = prepared.notes.sites[0].name
    examples = [example for data in prepared.data[site].values() for example in data.train]
    shortest = min(examples, key=lambda example: len(example.token_ids))
    trial = _train(prepared, [_end_of(shortest)])  # warms up, too
    budget = min(prepared.config.training.batch_tokens, int(trial * PROBE_SECONDS))
    some = within_tokens(examples, budget)
    if sum(len(example.token_ids) for example in some) > trial * 2 * PROBE_SECONDS:
        return trial
    return _train(prepared, some)


def extraction_rate(prepared: Prepared) -> float:
    """Characters a second over one batch of real windows, or as many as fit in the time."""
    config = prepared.config
    trial = _windows(prepared, 32)[:1]  # the smallest windows that a study may have
    if not trial:  # test notes without text
        return 1.0
    decoder = make_decoder("copy", prepared.base, prepared.tags, config.evaluation.batch_size)

    def rate(prompts: Sequence[Prompt]) -> float:
        started = time.perf_counter()
        decoder.decode(list(prompts), lambda _: None)
        seconds = time.perf_counter() - started
        return max(1, sum(len(prompt.source) for prompt in prompts)) / seconds

    rate(trial)  # warms up
    found = rate(trial)
    budget, chosen = found * PROBE_SECONDS, 0
    prompts = _windows(prepared, config.prompt.window_tokens)
    prompts = prompts[: min(_MOST_WINDOWS, config.evaluation.batch_size)]
    for prompt in prompts:
        budget -= len(prompt.source)
        chosen += budget >= 0
    return rate(prompts[:chosen]) if chosen else found


def _train(prepared: Prepared, examples: Sequence[EncodedExample]) -> float:
    plan = LocalPlan(1, steps=1, seed=prepared.config.seed)
    result = train_locally(
        prepared.model, prepared.initial, examples, plan, prepared.settings, SilentObserver()
    )
    return result.num_tokens / result.elapsed_seconds


def _end_of(example: EncodedExample) -> EncodedExample:
    """Its last tokens, for a step that is small."""
    tokens = example.token_ids[-_TRIAL_TOKENS:]
    prompt = example.num_prompt_tokens - (len(example.token_ids) - len(tokens))
    return replace(example, token_ids=tokens, num_prompt_tokens=max(0, prompt), num_shared_tokens=0)


def _windows(prepared: Prepared, window_tokens: int) -> list[Prompt]:
    """The first windows of all cohorts, as prompts; no more than are needed."""
    prompts: list[Prompt] = []
    for cohort in prepared.notes.cohorts:
        for document in cohort.documents:
            if len(prompts) >= _MOST_WINDOWS:
                return prompts
            found = note_windows(
                document.text, prepared.base.tokenizer, budget_tokens=window_tokens
            )
            prompts += [prepared.tags.prompt(document, w.span, cohort.labels) for w in found]
    return prompts
