"""`fedmedlora adapter merge | inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedmedlora.cli.adapter_tables import inspection_lines, merge_lines, numbers
from fedmedlora.cli.console import print_json
from fedmedlora.models.starter import adapter_folder

app = typer.Typer(help="Adapters in folders, as peft writes them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(
    epilog="Example: fedmedlora adapter merge site-a site-b --out merged --strategy fedavg "
    "--weights 1200,400 --merge product"
)
def merge(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...", help="Adapter folders; starter: the one that ships with the package."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged adapter.")],
    strategy: Annotated[str, typer.Option(help="A strategy by name, as in a study.")],
    weights: Annotated[
        str | None, typer.Option(metavar="W1,W2", help="Sizes of the sites; default: all alike.")
    ] = None,
    losses: Annotated[
        str | None, typer.Option(metavar="L1,L2", help="Validation losses, for fedmedlora-plus.")
    ] = None,
    how: Annotated[
        Literal["factor", "product"] | None,
        typer.Option("--merge", help="Average A and B, or what they compute. [default: factor]"),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the result.")] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="What all started from: changes are merged and clipped."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge adapter folders into one, as a strategy does it in a round; prints the folder.

    Where it is known how the adapters are used, a file beside the result tells `extract`.
    """
    from fedmedlora.aggregation.offline import MergeRequest, merge_folders
    from fedmedlora.study.merged_manifest import manifest_of_merged

    places = [adapter_folder(folder) for folder in folders]
    start = None if before is None else adapter_folder(before)
    sizes, scores = numbers("--weights", weights), numbers("--losses", losses)
    manifest, remark = manifest_of_merged(places)
    found = merge_folders(
        MergeRequest(tuple(places), out, strategy, sizes, scores, how, rank, start, manifest)
    )
    for line in [*merge_lines(found), *([remark] if remark else [])]:
        typer.echo(line, err=True)
    if as_json:
        print_json(found)
    else:
        typer.echo(out)


@app.command(epilog="Example: fedmedlora adapter inspect merged --against site-a")
def inspect(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="An adapter folder; starter: the one that ships with the package."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="DIR", help="Another one, to be compared with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Spec, size, norms and ranks of an adapter, and how far its products are from another's."""
    from fedmedlora.adapters.inspection import inspect_adapter
    from fedmedlora.adapters.streaming import open_adapter

    other = None if against is None else open_adapter(adapter_folder(against))
    found = inspect_adapter(open_adapter(adapter_folder(folder)), other)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(inspection_lines(found)))
