"""How our speed depends on what is extracted, and where its time goes."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.timing import seconds_of
from benchmarks.ways.sentences import by_length
from fedmedlora.core.answer_counts import NUM_WINDOWS
from fedmedlora.core.records import SilentObserver
from fedmedlora.inference.decoders import DecoderName, make_decoder
from fedmedlora.inference.extractor import Extractor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.ways.sentences import Sentence
    from benchmarks.ways.way import Setting, Way
    from fedmedlora.core.document import Document
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat

_MOST_ENTITIES = 3


def length_groups(sentences: Sequence[Sentence], num_groups: int) -> dict[str, list[Sentence]]:
    """The sentences in groups of equal size by length, shortest first."""
    ordered = by_length(sentences)[::-1]
    groups = {}
    for index in range(num_groups):
        start, end = (len(ordered) * edge // num_groups for edge in (index, index + 1))
        if group := ordered[start:end]:
            shortest, longest = (len(s.document.text) for s in (group[0], group[-1]))
            groups[f"{shortest} to {longest} characters"] = group
    return groups


def entity_groups(sentences: Sequence[Sentence]) -> dict[str, list[Sentence]]:
    """The sentences by their number of gold entities; the last group holds all with more."""
    groups: dict[str, list[Sentence]] = {}
    for number in range(_MOST_ENTITIES + 1):
        last = number == _MOST_ENTITIES
        group = [
            sentence
            for sentence in sentences
            if (count := len(sentence.document.entities)) == number or (last and count > number)
        ]
        if group:
            groups[f"{number}{' or more' if last else ''} entities"] = group
    return groups


def group_rows(
    way: Way, groups: Mapping[str, Sequence[Sentence]], setting: Setting, repetitions: int
) -> list[list[Any]]:
    """A row a group: sentences, mean characters, speed, forward passes and fed tokens a sentence.

    A forward pass serves the whole batch, so fewer sentences in a group mean more passes each.
    """
    rows = []
    for name, group in groups.items():
        work = way.answer(group, setting).work
        taken = [seconds_of(partial(way.answer, group, setting)) for _ in range(repetitions)]
        characters = sum(len(sentence.document.text) for sentence in group)
        rows.append(
            [
                name,
                len(group),
                characters / len(group),
                len(group) / statistics.median(taken),
                characters / statistics.median(taken),
                work.num_passes / len(group),
                work.num_fed_tokens / len(group),
            ]
        )
    return rows


def window_rows(
    base: BaseModel,
    tags: TagFormat,
    decoder: DecoderName,
    notes: Sequence[Document],
    *,
    labels: Sequence[str],
    batch_size: int,
    sizes: Sequence[int],
    repetitions: int,
) -> list[list[Any]]:
    """A row a window size: whole notes extracted as users do it, their windows and the speed."""
    rows = []
    characters = sum(len(note.text) for note in notes)
    for size in sizes:
        extractor = Extractor(
            make_decoder(decoder, base, tags, batch_size), base.tokenizer, tags, window_tokens=size
        )
        found: list[Document] = []
        taken = []
        for _ in range(repetitions):
            predicted = extractor.extract(notes, labels, SilentObserver())
            found.clear()
            taken.append(seconds_of(partial(found.extend, predicted)))
        num_windows = sum(note.metadata[NUM_WINDOWS] for note in found)
        seconds = statistics.median(taken)
        rows.append([size, num_windows, num_windows / seconds, characters / seconds])
    return rows


def profile_rows(
    way: Way, sentences: Sequence[Sentence], setting: Setting, num_rows: int
) -> list[list[Any]]:
    """The operators with the most CPU time of their own: calls, seconds, share of all."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        way.answer(sentences, setting)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        [
            event.key,
            event.count,
            event.self_cpu_time_total / 1e6,
            100 * event.self_cpu_time_total / total,
        ]
        for event in events[:num_rows]
    ]
