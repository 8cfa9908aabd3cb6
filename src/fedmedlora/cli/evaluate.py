"""`fedmedlora evaluate`: predicted annotations against gold ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    gold: Annotated[Path, typer.Option("--gold", help="Gold corpus: a folder or a file.")],
    predicted: Annotated[Path, typer.Option("--predicted", help="Predictions: folder or file.")],
) -> None:
    """Score predictions against gold annotations."""
    raise NotImplementedError
