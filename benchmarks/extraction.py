"""Extraction: sentences a second, ours against `transformers.generate` and a BERT encoder.

All ways read the same sentences with the same merged adapters in the same number type, in one
process, their repetitions interleaved. Sentences are those of artificial hospitals that no adapter
was trained on, or of a corpus that `--set corpus=PATH` names. Every way first searches its own best
setting. Answers are scored, so that speed is not bought with mistakes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.harness.timing import interleave, middle, ratio, seconds_of, spread
from benchmarks.ways.adapters import Training
from benchmarks.ways.bert import Bert, Shape
from benchmarks.ways.generate import Generate
from benchmarks.ways.models import FormatName, Models
from benchmarks.ways.ours import Ours
from benchmarks.ways.quality import quality_rows
from benchmarks.ways.scaling import (
    entity_groups,
    group_rows,
    length_groups,
    profile_rows,
    window_rows,
)
from benchmarks.ways.sentences import artificial_notes, by_length, corpus_notes, sentences_of
from benchmarks.ways.way import Answers, Setting, Way, all_at_once, one_by_one
from fedmedlora.inference.decoders import DecoderName
from fedmedlora.study.config import EvaluationConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.harness.targets import Measured
    from benchmarks.ways.sentences import Sentence
    from fedmedlora.core.document import Document

GENERATE = "transformers.generate, html"
GENERATE_HELPED = "transformers.generate, html, helped"
"""With the cache of the shared instruction, or with prompt lookup where a sentence is alone."""
OURS_HTML = "ours, html"
OURS_COMPACT = "ours, compact"


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared, on what, how often."""

    model: str = "smollm2-135m"
    """A base model as `load_base` takes it, or `tiny`: random, for tests."""
    adapter_html: Path | None = None
    """An adapter folder for the html prompt; none: one is trained on artificial notes and kept."""
    adapter_compact: Path | None = None
    corpus: Path | None = None
    """Annotated notes; none: artificial notes of hospitals that the adapters never saw."""
    decoder: DecoderName = "copy"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 where its products are clearly faster here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 2
    sentences: int = 128
    max_source_tokens: int = 96
    repetitions: int = 5
    batch_sizes: tuple[int, ...] = (1, 8, 16, 32, 64, 128)
    search_sentences: int = 8
    """A batch size is tried on one batch, and on at least so many sentences."""
    lookup_tokens: tuple[int, ...] = (10,)
    """What generate may look up in its prompt where a sentence is alone."""
    single_sentences: int = 8
    """Sentences that are answered one at a time."""
    default_batch: int = EvaluationConfig().batch_size
    bert: Shape = "base"
    bert_sentences: int = 64
    scaling_notes: int = 4
    scaling_repetitions: int = 3
    window_tokens: tuple[int, ...] = (32, 64, 96, 128, 256)
    profile_rows: int = 15
    train_examples: int = 256
    train_examples_a_step: int = 4
    rank: int = 16
    alpha: float = 64.0
    learning_rate: float = 1e-3
    seed: int = 0


QUICK: Mapping[str, Any] = {
    "model": "tiny",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "sentences": 8,
    "max_source_tokens": 24,
    "repetitions": 2,
    "batch_sizes": (1, 4),
    "search_sentences": 2,
    "single_sentences": 2,
    "default_batch": 4,
    "bert": "tiny",
    "bert_sentences": 4,
    "scaling_notes": 1,
    "scaling_repetitions": 1,
    "window_tokens": (64,),
    "train_examples": 8,
    "rank": 2,
    "alpha": 4.0,
}


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module."""
    torch.set_num_threads(config.threads)
    bench = _Bench(config, say)
    bench.search()
    bench.batches()
    bench.one_at_a_time()
    bench.encoder()
    bench.scaling()
    return bench.results()


class _Bench:
    """The steps of the benchmark, in order, and what they found."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        training = Training(
            config.train_examples,
            config.train_examples_a_step,
            config.rank,
            config.alpha,
            config.learning_rate,
            config.seed,
        )
        given: dict[FormatName, Path | None] = {
            "html": config.adapter_html,
            "compact": config.adapter_compact,
        }
        self.models = Models(config.model, config.dtype, config.device, given, training, say)
        self.notes = self._notes()
        found = sentences_of(
            self.notes,
            self.models.tokenizer,
            count=config.sentences,
            max_source_tokens=config.max_source_tokens,
        )
        self.sentences = by_length(found)
        main = self.models.dtype
        html, compact = self.models.merged("html", main), self.models.merged("compact", main)
        self.ways: dict[str, Way] = {
            GENERATE: Generate(*html),
            GENERATE_HELPED: Generate(*html),
            OURS_HTML: Ours(*html, config.decoder),
            OURS_COMPACT: Ours(*compact, config.decoder),
        }
        self.best: dict[str, Setting] = {}
        self.best_alone: dict[str, Setting] = {}
        self.targets: dict[str, Measured] = {}
        self.measurements: dict[str, dict[str, list[float]]] = {}
        self.tables: list[dict[str, Any]] = []

    def _notes(self) -> list[Document]:
        if self.config.corpus is not None:
            return corpus_notes(self.config.corpus, self.config.seed)
        return artificial_notes("external", self.config.sentences // 2 + 2, self.config.seed)

    def search(self) -> None:
        """Each way's best setting, and its best where sentences come one at a time."""
        rows: list[list[Any]] = []
        for name, way in self.ways.items():
            if name == GENERATE_HELPED:
                continue
            way.answer(middle(self.sentences, 1), Setting(1))  # a first call pays for set-up
            sizes = [n for n in self.config.batch_sizes if n <= len(self.sentences)]
            speeds = self._tried(name, [Setting(n) for n in sorted({1, *sizes})], rows)
            self.best_alone[name] = Setting(1)
            self.best[name] = max(speeds, key=lambda setting: speeds[setting])
        lookups = [Setting(1, lookup) for lookup in self.config.lookup_tokens]
        speeds = self._tried(GENERATE_HELPED, lookups, rows)
        self.best_alone[GENERATE_HELPED] = max(speeds, key=lambda setting: speeds[setting])
        size = self.best[GENERATE].batch_size
        self.best[GENERATE_HELPED] = Setting(size, share_prefix=True)  # ours always shares it
        columns = ["way", "setting", "sentences", "seconds", "sentences/s"]
        self._table("Search for each way's best setting, and speed by batch size", columns, rows)

    def _tried(
        self, name: str, settings: Sequence[Setting], rows: list[list[Any]]
    ) -> dict[Setting, float]:
        """Sentences/s by setting, each tried once on sentences of common length."""
        speeds = {}
        for setting in settings:
            count = max(setting.batch_size, self.config.search_sentences)
            tried = middle(self.sentences, count)
            seconds = seconds_of(partial(self.ways[name].answer, tried, setting))
            speeds[setting] = len(tried) / seconds
            rows.append([name, str(setting), len(tried), seconds, speeds[setting]])
            self.say(f"{name}, {setting}: {speeds[setting]:.2f} sentences/s")
        return speeds

    def batches(self) -> None:
        """T1a and T1c, on a GPU T2; and what the same answers are worth."""
        self.say(f"{len(self.sentences)} sentences, {self.config.repetitions} times each way")
        answers = self._compare("batches", self.sentences, self.best, all_at_once)
        taken = self.measurements["batches"]
        series = "T2" if self.models.device == "cuda" else "T1"
        for peer, mark in ((GENERATE, ""), (GENERATE_HELPED, "+")):
            self.targets[f"{series}a{mark}"] = ratio(taken[peer], taken[OURS_HTML])
            self.targets[f"{series}c{mark}"] = ratio(taken[peer], taken[OURS_COMPACT])
        entities = {name: found.entities for name, found in answers.items()}
        columns = ["way", "F1", "95 % interval", "precision", "recall"]
        columns += ["against generate", "95 % interval", "same answers"]
        self._table(
            "Strict entity F1 of the answers that were timed",
            columns,
            quality_rows(self.sentences, entities, GENERATE),
            "Intervals draw sentences; differences to generate are paired.",
        )

    def one_at_a_time(self) -> None:
        """T1b."""
        few = spread(self.sentences, self.config.single_sentences)
        self._compare("one at a time", few, self.best_alone, one_by_one)
        taken = self.measurements["one at a time"]
        if self.models.device == "cpu":
            self.targets["T1b"] = ratio(taken[GENERATE], taken[OURS_HTML])
            self.targets["T1b+"] = ratio(taken[GENERATE_HELPED], taken[OURS_HTML])

    def _compare(
        self,
        title: str,
        sentences: Sequence[Sentence],
        settings: Mapping[str, Setting],
        ask: Callable[[Way, Sequence[Sentence], Setting], Answers],
    ) -> dict[str, Answers]:
        """The ways side by side, each at its setting; the last repetition's answers are kept."""
        answers: dict[str, Answers] = {}

        def answer(name: str) -> None:
            answers[name] = ask(self.ways[name], sentences, settings[name])

        ways = {name: partial(answer, name) for name in self.ways}
        taken = self._timed(title, ways)
        count = len(sentences)
        rows = []
        for name, found in answers.items():
            work = found.work
            rows.append(
                [
                    name,
                    str(settings[name]),
                    count / statistics.median(taken[name]),
                    work.num_passes / count,
                    work.num_fed_tokens / count,
                    work.num_new_tokens / count or None,
                    work.num_cut,
                ]
            )
        columns = ["way", "setting", "sentences/s", "passes", "fed tokens", "new tokens", "cut"]
        self._table(
            f"Speed and work, {title}: {count} sentences",
            columns,
            rows,
            "Passes, fed tokens (padding included) and new tokens are for each sentence. "
            "Cut are answers that reached the length limit.",
        )
        return answers

    def encoder(self) -> None:
        """T3: our default extraction against a BERT shape, in both number types."""
        config = self.config
        few = spread(self.sentences, config.bert_sentences)
        encode = self.models.tokenizer.encode
        lengths = [len(encode(sentence.document.text)) for sentence in few]
        ways: dict[str, Callable[[], object]] = {}
        settings: dict[str, Setting] = {}
        rows = []
        for dtype in (torch.float32, torch.bfloat16):
            short = str(dtype).removeprefix("torch.")
            bert = Bert(config.bert, dtype, self.models.device, config.seed)
            ids = bert.sentences(lengths)
            bert.classify(ids[:2], 1)
            ours = Ours(*self.models.merged("compact", dtype), config.decoder)
            ours.answer(few[:2], Setting(1))
            speeds = {}
            for size in config.batch_sizes:
                seconds = min(seconds_of(partial(bert.classify, ids, size)) for _ in range(2))
                speeds[size] = len(ids) / seconds
                rows.append([f"BERT, {short}", size, speeds[size]])
            best = max(speeds, key=lambda size: speeds[size])
            self.say(f"BERT, {short}: batch {best}, {speeds[best]:.1f} sentences/s")
            settings[f"BERT, {short}"] = Setting(best)
            ways[f"BERT, {short}"] = partial(bert.classify, ids, best)
            settings[f"ours, {short}"] = Setting(config.default_batch)
            ways[f"ours, {short}"] = partial(ours.answer, few, Setting(config.default_batch))
        self._table("BERT shape: speed by batch size", ["way", "batch", "sentences/s"], rows)
        taken = self._timed("against BERT", ways)
        speeds_rows = [
            [name, str(settings[name]), len(few) / statistics.median(taken[name])] for name in ways
        ]
        self._table(
            f"Against a BERT shape: {len(few)} sentences",
            ["way", "setting", "sentences/s"],
            speeds_rows,
            f"The encoder has {bert.num_parameters / 1e6:.0f} M random weights and 9 labels; "
            "lengths are those of our tokens. Ours is the compact prompt at the default batch.",
        )
        if self.models.device == "cpu":
            for short in ("float32", "bfloat16"):
                self.targets[f"T3-{short}"] = ratio(
                    taken[f"ours, {short}"], taken[f"BERT, {short}"]
                )

    def scaling(self) -> None:
        """How our speed depends on length, entities and windows; where the time goes."""
        config = self.config
        way, setting = self.ways[OURS_COMPACT], self.best[OURS_COMPACT]
        self.say("scaling and profile")
        columns = ["group", "sentences", "characters", "sentences/s", "characters/s"]
        columns += ["passes", "fed tokens"]
        for what, groups in (
            ("length", length_groups(self.sentences, 4)),
            ("entities", entity_groups(self.sentences)),
        ):
            rows = group_rows(way, groups, setting, config.scaling_repetitions)
            note = f"Ours, compact, {setting}. Characters, passes and tokens are for each sentence."
            self._table(f"Speed by {what} of a sentence", columns, rows, note)
        base, tags = self.models.merged("compact", self.models.dtype)
        rows = window_rows(
            base,
            tags,
            config.decoder,
            self.notes[: config.scaling_notes],
            labels=self.sentences[0].labels,
            batch_size=config.default_batch,
            sizes=config.window_tokens,
            repetitions=config.scaling_repetitions,
        )
        self._table(
            "Speed by window size, whole notes",
            ["window tokens", "windows", "windows/s", "characters/s"],
            rows,
            f"Ours, compact, {min(config.scaling_notes, len(self.notes))} notes, default batch.",
        )
        self._table(
            "Where our time goes",
            ["operator", "calls", "seconds", "% of CPU time"],
            profile_rows(way, self.sentences, setting, config.profile_rows),
            f"Ours, compact, {setting}; own CPU time by torch.profiler, the first operators.",
        )

    def results(self) -> dict[str, Any]:
        """All figures, plain."""
        return {
            "targets": self.targets,
            "setting": {
                "dtype": str(self.models.dtype).removeprefix("torch."),
                "device": self.models.device,
                "corpus": "artificial" if self.config.corpus is None else "given by path",
                "sentences": len(self.sentences),
                "source_tokens": sum(
                    len(self.models.tokenizer.encode(s.document.text)) for s in self.sentences
                ),
                "gold_entities": sum(len(s.document.entities) for s in self.sentences),
                "adapters": self.models.adapter_digests,
            },
            "measurements_seconds": self.measurements,
            "tables": self.tables,
        }

    def _timed(
        self, title: str, ways: Mapping[str, Callable[[], object]]
    ) -> dict[str, list[float]]:
        taken = interleave(ways, self.config.repetitions)
        self.measurements[title] = taken
        for name, seconds in taken.items():
            self.say(f"{title}: {name}, median {statistics.median(seconds):.2f} s")
        return taken

    def _table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
    ) -> None:
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        self.tables.append(table | {"note": note})
