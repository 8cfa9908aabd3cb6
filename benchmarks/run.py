"""Runs one benchmark and writes its record: `python benchmarks/run.py NAME`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # started as a script: the folder above is not looked in
    sys.path.insert(0, str(ROOT))

HERE = ROOT / "benchmarks"
RESULTS, CACHE = HERE / "results", HERE / "cache"


def names() -> list[str]:
    """The benchmarks that there are."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("__init__", "run", "render"))


def find(name: str) -> Any:
    """The module of a benchmark: it has `Config`, `QUICK` and `run`."""
    return importlib.import_module(f"benchmarks.{name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/NAME.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and few sentences: proves nothing"
    )
    given = parser.parse_args(arguments)

    from benchmarks.harness.record import measure, write_record
    from benchmarks.harness.settings import make_config
    from fedmedlora.core.errors import FedMedLoRAError

    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {line}", file=sys.stderr, flush=True)

    module = find(given.name)
    try:
        config = make_config(module.Config, module.QUICK if given.quick else {}, given.settings)
        record = measure(given.name, module.run, config, quick=given.quick, say=say)
    except FedMedLoRAError as error:
        print(error, file=sys.stderr)
        return 2
    folder = CACHE if given.quick else RESULTS
    out = given.out or folder / f"{given.name}.json"
    write_record(out, record)
    for row in record["targets"]:
        met = "met" if row["met"] else "not met"
        say(f"{row['id']}: {row['value']:.2f} {row['unit']}, {met}")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
