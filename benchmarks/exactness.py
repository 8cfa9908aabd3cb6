"""Copy-verified decoding against decoding step by step, on a study's own test notes.

In float32 the two give the same answers. In bfloat16 a batch of another shape moves logits, so the
question is by how much: each choice of the fast decoder is compared with the step decoder's best on
the same way, and the scores of both are compared note by note.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.targets import Measured
from benchmarks.ways.regret import recorded_choices, regrets
from fedmedlora.adapters.files import load_adapter
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.evaluation.evaluate import evaluate_presets
from fedmedlora.evaluation.presets import STRICT
from fedmedlora.inference.copy_decoder import CopyDecoder
from fedmedlora.inference.extractor import Extractor
from fedmedlora.inference.step_decoder import StepDecoder
from fedmedlora.models.load import load_base
from fedmedlora.models.lora import merged
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.format import require_tags
from fedmedlora.prompts.registry import get_format
from fedmedlora.runs.store import RunStore
from fedmedlora.study.data import load_notes
from fedmedlora.study.study_file import parse_study
from fedmedlora.study.trained_adapter import find_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.inference.decoder import Decoder

_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Config:
    """Which study."""

    run: Path = Path()
    """A finished study run; its last adapter is used, and its test notes."""
    max_characters: int = 20_000
    """Test notes of each cohort; as many as in the study or more."""
    batch_size: int = 64
    threads: int = 2


QUICK: Mapping[str, Any] = {"batch_size": 4, "threads": 1}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module.

    Raises:
        ConfigError: No run is named.
    """
    if not (config.run / "config.json").is_file():
        raise ConfigError("exactness: name a finished study: --set run=RUN_DIRECTORY.")
    torch.set_num_threads(config.threads)
    study = parse_study(dict(RunStore.open(config.run).config), "config.json")
    evaluation = study.evaluation.model_copy(update={"max_characters": config.max_characters})
    study = study.model_copy(update={"evaluation": evaluation})
    trained = find_adapter(config.run)
    dtype = torch.bfloat16 if trained.dtype == "bfloat16" else torch.float32
    loaded = load_base(study.model.base, revision=study.model.revision, dtype=dtype)
    base = merged(loaded, load_adapter(trained.folder))
    tags = require_tags(get_format(trained.prompt.format))
    budget = trained.prompt.window_tokens
    decoders: dict[str, Decoder] = {
        "copy": CopyDecoder(base, tags, batch_size=config.batch_size),
        "step": StepDecoder(base, tags, batch_size=config.batch_size),
    }
    rows: list[list[Any]] = []
    everything: list[float] = []
    pooled: dict[str, list[Document]] = {"gold": [], "copy": [], "step": []}
    for cohort in load_notes(study).cohorts:
        documents, labels = cohort.documents, cohort.labels
        predicted = {
            name: list(
                Extractor(decoder, base.tokenizer, tags, window_tokens=budget).extract(
                    documents, labels, SilentObserver()
                )
            )
            for name, decoder in decoders.items()
        }
        prompts = [
            tags.prompt(document, window.span, labels)
            for document in documents
            for window in note_windows(document.text, base.tokenizer, budget_tokens=budget)
        ]
        with recorded_choices() as chosen:
            decoders["copy"].decode(prompts, lambda _: None)
        found = regrets(base, tags, prompts, chosen, batch_size=config.batch_size)
        everything += found
        gold = [document.only_labels(labels) for document in documents]
        for name, more in (("gold", gold), *predicted.items()):
            pooled[name] += [replace(d, id=f"{cohort.name}/{d.id}") for d in more]
        f1, difference = _scores(gold, predicted)
        same = sum(
            a.entities == b.entities
            or [_key(e) for e in a.entities] == [_key(e) for e in b.entities]
            for a, b in zip(predicted["copy"], predicted["step"], strict=True)
        )
        row = [
            cohort.name,
            len(documents),
            len(prompts),
            same,
            f1,
            *difference,
            len(found),
            sum(value > 0 for value in found),
            max(found, default=0.0),
        ]
        rows.append(row)
        say(f"{cohort.name}: F1 {row[4]:.1f}, difference {row[5]:+.2f}, worst choice {row[9]:.2f}")
    columns = [
        "cohort", "notes", "windows", "notes with the same answer", "strict F1",
        "minus step by step", "95 %", "choices", "not the step decoder's best",
        "worst, in logits",
    ]  # fmt: skip
    worst = max(everything, default=0.0)
    f1, difference = _scores(pooled["gold"], pooled)
    num_notes, num_windows, num_same = (sum(row[i] for row in rows) for i in (1, 2, 3))
    wrong = sum(value > 0 for value in everything)
    total = ["all", num_notes, num_windows, num_same, f1, *difference]
    rows.append([*total, len(everything), wrong, worst])
    return {
        "dtype": trained.dtype,
        "targets": {
            "E-choice": Measured(worst, [worst]),
            "E-F1": Measured(abs(difference[0]), [abs(row[5]) for row in rows]),
        },
        "tables": [
            {"title": "Verified copying against step by step", "columns": columns, "rows": rows}
        ],
    }


def _scores(
    gold: Sequence[Document], predicted: Mapping[str, Sequence[Document]]
) -> tuple[float, tuple[float, list[float]]]:
    """Strict F1 of copying, and its difference to step by step with its interval, in points."""
    [result] = evaluate_presets(
        list(gold),
        list(predicted["copy"]),
        [STRICT],
        against=list(predicted["step"]),
        num_draws=_DRAWS,
        num_swaps=_DRAWS,
    )
    [found] = [d for d in result.differences or () if d.figure == "entities"]
    points = 100 * found.difference, [100 * end for end in found.ci95 or ()]
    return 100 * result.entities.micro.f1, points


def _key(entity: Any) -> tuple[str, int, int]:
    return entity.label, entity.start, entity.end
