"""`fedmedlora study new | check | run | resume`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmedlora.cli.console import print_json
from fedmedlora.cli.many_values import ManyValues

if TYPE_CHECKING:
    from fedmedlora.core.records import Observer
    from fedmedlora.runs.store import RunStore

Started = Callable[[Path], None]

app = typer.Typer(help="Train and test every arm of a study.", no_args_is_help=True)

Study = Annotated[
    Path, typer.Argument(help="Study file (TOML).", exists=True, dir_okay=False, show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may repeat."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(
    cls=ManyValues,
    epilog="Example: fedmedlora study new --site notes/north notes/south --cohort notes/east",
)
def new(
    sites: Annotated[
        list[Path],
        typer.Option(
            "--site",
            exists=True,
            metavar="FOLDER...",
            help="Notes of sites that train: folders with corpus.toml, of BRAT files, or .jsonl.",
        ),
    ],
    cohorts: Annotated[
        list[Path] | None,
        typer.Option("--cohort", exists=True, metavar="FOLDER...", help="Notes to test on only."),
    ] = None,
    server: Annotated[
        list[Path] | None,
        typer.Option(
            "--server-notes",
            exists=True,
            metavar="FOLDER...",
            help="Notes of the server's own, to weigh sites by. Without it, sites give a few.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="STUDY.toml", help="The file to write.")
    ] = Path("study.toml"),
    as_json: AsJson = False,
) -> None:
    """Write a study file for your notes, with every key explained; it never overwrites one."""
    from fedmedlora.cli.study_tables import show_new_study
    from fedmedlora.study.new_study import write_new_study

    written = write_new_study(out, sites, cohorts or (), server or ())
    if as_json:
        print_json(written.to_json())
    else:
        show_new_study(written)


@app.command(epilog="Example: fedmedlora study check examples/demo-s.toml")
def check(study: Study, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Find all faults of a study at once, and estimate its time, memory, disk and traffic."""
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.study.check import check_study, plan_lines
    from fedmedlora.study.study_file import load_study

    config = load_study(study, overrides or [])
    with ConsoleObserver() as observer:
        plan = check_study(config, observer)
    if as_json:
        print_json(plan)
    else:
        typer.echo("\n".join(plan_lines(plan)))


@app.command(
    epilog="Example: fedmedlora study choose examples/demo-s.toml examples/demo-m.toml --minutes 10"
)
def choose(
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...", help="Study files.", exists=True, dir_okay=False, show_default=False
        ),
    ],
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="Time limit in minutes.")] = 10,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print the longest of several studies that ends in time here; the speed is measured."""
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.study.choose import choose_study
    from fedmedlora.study.study_file import load_study

    configs = {path: load_study(path, overrides or []) for path in studies}
    with ConsoleObserver() as observer:
        found = choose_study(configs, 60 * minutes, observer)
        for line in found.lines():
            observer.message(line)
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(found.path)


@app.command(epilog="Example: fedmedlora study run examples/demo-s.toml --out runs")
def run(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="Parent of the run directory.")] = Path(
        "runs"
    ),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a study from the start; the last line printed is the run directory."""
    from fedmedlora.study.study_file import load_study

    config = load_study(study, overrides or [])

    def task(observer: Observer, started: Started) -> RunStore:
        from fedmedlora.study.run import start_study

        return start_study(config, out, observer, started)

    _work(task, as_json)


@app.command(epilog="Example: fedmedlora study resume runs/demo-s-1a2b3c4d-001")
def resume(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run; the result equals that of an uninterrupted one."""

    def task(observer: Observer, started: Started) -> RunStore:
        from fedmedlora.study.run import resume_study

        return resume_study(directory, observer, started)

    _work(task, as_json)


def _work(task: Callable[[Observer, Started], RunStore], as_json: bool) -> None:
    """Run or resume, then write the report; if it is stopped, say how to go on."""
    from fedmedlora.cli.console import log_to_stderr
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.report.page import write_report
    from fedmedlora.runs.run_events import sigterm_interrupts

    log_to_stderr()
    places: list[Path] = []
    try:
        with sigterm_interrupts(), ConsoleObserver() as observer:
            store = task(observer, places.append)
            page = write_report([store.path])
            observer.message(f"report: {page}")
    except BaseException:
        if places:
            place = shlex.quote(str(places[0]))
            typer.echo(f"To go on: fedmedlora study resume {place}", err=True)
        raise
    if as_json:
        print_json({"run": str(store.path), "report": str(page)})
    else:
        typer.echo(store.path)
