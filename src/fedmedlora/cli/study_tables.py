"""What the `study` commands show to people; `--json` is for scripts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from fedmedlora.core.words import counted

if TYPE_CHECKING:
    from fedmedlora.study.new_study import NewStudy


def show_new_study(written: NewStudy) -> None:
    """Print what the study is made of, what it cannot show, and what to do next."""
    kinds = (("site", written.sites), ("cohort", written.cohorts), ("server", written.server))
    for kind, parts in kinds:
        for part in parts:
            guessed = "" if part.says_labels else " (those that occur: check them in the file)"
            typer.echo(
                f"{kind:7} {part.name}: {counted(part.num_notes, 'note')}; labels "
                f"{', '.join(part.labels)}{guessed}"
            )
    typer.echo(f"compared: {', '.join(written.strategies)}")
    for warning in written.warnings:
        typer.echo(f"WARNING: {warning}")
    typer.echo(f"Next: fedmedlora study check {shlex.quote(str(written.path))}")
    typer.echo(str(written.path))
