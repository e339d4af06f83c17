"""`mien edits`: the attribute edits of a bundle."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mien.engine.bundle import Bundle

app = typer.Typer(help="The attribute edits of a bundle.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def edits(context: typer.Context) -> None:
    """The attribute edits of a bundle."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_edits(
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.")] = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Names, ranges, and what each does."""
    opened = Bundle.open(bundle)
    rows = [
        {
            "name": edit.name,
            "range": list(edit.range),
            "regions": list(edit.regions),
            "composition": edit.composition,
            "description": edit.description,
        }
        for edit in opened.edits.values()
    ]
    if as_json:
        typer.echo(json.dumps({"bundle": opened.name, "version": opened.manifest.version, "edits": rows}, indent=1))
        return
    width = max((len(name) for name in opened.edits), default=0)
    for edit in opened.edits.values():
        lo, hi = edit.range
        typer.echo(f"{edit.name:<{width}}  {lo:+5.2f} to {hi:+5.2f}  {edit.description}")
