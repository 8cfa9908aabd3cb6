"""Reading annotated notes: megabytes of JSON lines a second, every entity and link checked.

The floor is what the standard library needs to parse the same lines and check nothing. Real corpora
are read where they lie, compressed or not; their size is that of the plain lines. One thread reads
files that are in memory, so that on a machine of its own the seconds of the processor are those of
the clock; on a shared one they leave out what others had. The record has both.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness.targets import Measured
from benchmarks.harness.timing import Taken, interleave_charged
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.compressed import open_bytes
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.open_corpus import find_corpora, find_source, load_corpus
from fedmedlora.corpora.synthetic import synthesize
from fedmedlora.corpora.validate import Validation, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_COMPRESSED = (".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True, slots=True)
class Config:
    """Which notes, and how often."""

    notes: int = 800
    """Artificial notes at a hospital of middle size; there are five."""
    corpora: Path = Path()
    """A folder of real corpora in JSON lines to read as well."""
    repetitions: int = 9
    seed: int = 0


QUICK: Mapping[str, Any] = {"notes": 2, "repetitions": 2}


@dataclass(frozen=True, slots=True)
class _Notes:
    """Files that are read one after the other, and what is in them."""

    name: str
    paths: tuple[Path, ...]
    num_bytes: int
    num_documents: int
    num_entities: int
    num_relations: int


def run(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured; see the module.

    Raises:
        ConfigError: There are no corpora of JSON lines where they should be.
        CorpusError: A corpus cannot be read.
    """
    load = f"{os.getloadavg()[0]:.1f}"  # what others did just before
    torch.set_num_threads(1)  # nothing here uses more; the record says it
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder, "hospitals"), num_notes=config.notes, seed=config.seed)
        made = _notes("artificial hospitals", find_corpora(Path(folder, "hospitals")))
        say(f"{made.num_bytes / 1e6:.1f} MB of artificial notes")
        real = _real(config)
        groups = [made, *real]
        taken = {group.name: _measure(group, config.repetitions, say) for group in groups}
        if len(real) > 1:
            groups.append(_together(real))
            taken["all of these"] = _sums([taken[group.name] for group in real])
        compressed = _compressed(made, Path(folder), config.repetitions)
    rates = {
        way: [made.num_bytes / 1e6 / seconds for seconds in taken[made.name].processor[way]]
        for way in ("validate", "load")
    }
    columns = [
        "notes", "MB", "documents", "entities", "links", "validate, MB/s", "load, MB/s",
        "parse only, MB/s", "validate, MB/s by the clock", "load, MB/s by the clock",
    ]  # fmt: skip
    rows = [_row(group, taken[group.name]) for group in groups]
    return {
        "setting": {"notes": made.num_documents, "load_average_before": load},
        "targets": {
            "T12": Measured(statistics.median(rates["validate"]), rates["validate"]),
            "T12-load": Measured(statistics.median(rates["load"]), rates["load"]),
        },
        "tables": [
            {
                "title": "Reading by corpus",
                "columns": columns,
                "rows": rows,
                "note": "MB are 1,000,000 bytes of plain JSON lines. Validating also checks labels "
                "against schema and card and keeps no document; loading keeps all of them. Parsing "
                "only is `json.loads` of every line, which checks nothing. Real corpora are stored "
                "as `.gz`, and the time to unpack them counts. Seconds are those of the processor "
                "but where the clock is named.",
            },
            {
                "title": "Reading by compression, artificial hospitals",
                "columns": ["stored as", "MB stored", "load, MB/s of plain lines"],
                "rows": compressed,
            },
        ],
    }


def _real(config: Config) -> list[_Notes]:
    if config.corpora == Path():
        return []
    found = [p for p in find_corpora(config.corpora) if find_source(p).format == "jsonl"]
    if not found:
        raise ConfigError("reading: corpora names no folder of corpora in JSON lines.")
    return [_notes(find_source(path).name, [path]) for path in found]


def _notes(name: str, paths: Sequence[Path]) -> _Notes:
    num_bytes = 0
    for path in paths:
        with open_bytes(find_source(path).documents) as file:
            num_bytes += sum(len(line) for line in file)
    documents = [document for path in paths for document in load_corpus(path).documents]
    return _Notes(
        name,
        tuple(paths),
        num_bytes,
        len(documents),
        sum(len(document.entities) for document in documents),
        sum(len(document.relations) for document in documents),
    )


def _measure(notes: _Notes, repetitions: int, say: Callable[[str], None]) -> Taken:
    taken = interleave_charged(
        {
            "validate": lambda: [_checked(path) for path in notes.paths],
            "load": lambda: [load_corpus(path) for path in notes.paths],
            "parse": lambda: [_parsed(find_source(path).documents) for path in notes.paths],
        },
        repetitions,
    )
    speed = notes.num_bytes / 1e6 / statistics.median(taken.processor["validate"])
    say(f"{notes.name}: {speed:.1f} MB/s validated")
    return taken


def _checked(path: Path) -> Validation:
    result = validate(path, default_schema())
    if result.faults:
        raise ConfigError(f"reading: {path.name} has faults; expected notes without any.")
    return result


def _parsed(path: Path) -> int:
    with open_bytes(path) as file:
        return sum(json.loads(line) is not None for line in file)


def _together(groups: Sequence[_Notes]) -> _Notes:
    return _Notes(
        "all of these",
        tuple(path for group in groups for path in group.paths),
        sum(group.num_bytes for group in groups),
        sum(group.num_documents for group in groups),
        sum(group.num_entities for group in groups),
        sum(group.num_relations for group in groups),
    )


def _sums(taken: Sequence[Taken]) -> Taken:
    def added(each: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
        ways = each[0]
        return {
            way: [sum(turn) for turn in zip(*(e[way] for e in each), strict=True)] for way in ways
        }

    return Taken(added([t.processor for t in taken]), added([t.clock for t in taken]))


def _row(notes: _Notes, taken: Taken) -> list[Any]:
    size = notes.num_bytes / 1e6
    seconds = [taken.processor[way] for way in ("validate", "load", "parse")]
    seconds += [taken.clock[way] for way in ("validate", "load")]
    counts = [notes.num_documents, notes.num_entities, notes.num_relations]
    return [notes.name, round(size, 2), *counts, *(size / statistics.median(s) for s in seconds)]


def _compressed(notes: _Notes, folder: Path, repetitions: int) -> list[list[Any]]:
    documents = [document for path in notes.paths for document in load_corpus(path).documents]
    files = {suffix: folder / f"all{suffix}" for suffix in (".jsonl", *_COMPRESSED)}
    for path in files.values():
        write_jsonl(path, documents)
    size = files[".jsonl"].stat().st_size / 1e6
    taken = interleave_charged(
        {suffix: lambda path=path: load_corpus(path) for suffix, path in files.items()},  # type: ignore[misc]
        repetitions,
    )
    return [
        [
            suffix,
            round(path.stat().st_size / 1e6, 2),
            size / statistics.median(taken.processor[suffix]),
        ]
        for suffix, path in files.items()
    ]
