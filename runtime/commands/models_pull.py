"""`mien models pull`: a well-known bundle, its files fetched from where they were published."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mien.engine.config import default_cache_folder
from mien.engine.errors import InputError
from mien.runtime.commands.models_import import Into, Overwrite, bundles_folder, report, require_packages
from mien.runtime.downloads import Downloads, Show
from mien.runtime.published import HUGGING_FACE, Combination, Hosts, combination, combinations
from mien.runtime.told import told_on_terminal

DOWNLOADS = "downloads"
"""The folder of the cache where fetched files stay, by source."""


def pull(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="See --list.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show what can be pulled, and fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
    host: Annotated[str, typer.Option(metavar="URL", help="Another server with Hugging Face's paths.")] = HUGGING_FACE,
    into: Into = None,
    overwrite: Overwrite = False,
) -> None:
    """Fetch a well-known bundle's files and import them; a pull that broke off goes on where it was."""
    if show_list:
        _print_list(as_json)
        return
    if name is None:
        raise InputError("nothing to pull: give a NAME, mien models pull --list shows them")
    wanted = combination(name, hosts=Hosts(huggingface=host.rstrip("/")))
    require_packages()
    from mien.engine.checkpoints.draft import check_target
    from mien.engine.checkpoints.importing import import_bundle

    folder = bundles_folder(into)
    check_target(name, folder, overwrite=overwrite)
    for source in wanted.sources:
        typer.echo(f"licence  {source.name}: {source.licence}")
    downloads = default_cache_folder() / DOWNLOADS
    with _progress_bar() as show:
        for source in wanted.sources:
            fetching = Downloads(downloads / source.name, show)
            for file, urls in source.urls.items():
                fetching.fetch(file, urls)
    sources, settings = wanted.request(downloads)
    with told_on_terminal() as tell:
        done = import_bundle(name, sources, settings, folder, overwrite=overwrite, tell=tell)
    report(done)
    typer.echo(f"the fetched files stay in {downloads}, for other bundles that use them")


def _print_list(as_json: bool) -> None:
    known = combinations()
    if as_json:
        typer.echo(json.dumps([_row(entry) for entry in known.values()], indent=1))
        return
    width = max(map(len, known))
    for entry in known.values():
        typer.echo(f"{entry.name:<{width}}  {entry.description}")
        for source in entry.sources:
            typer.echo(f"{'':{width}}    {_place(next(iter(source.urls.values()))[0])}: {source.licence}")


def _row(entry: Combination) -> dict[str, object]:
    files = {
        source.name: {"licence": source.licence, "urls": [urls[0] for urls in source.urls.values()]}
        for source in entry.sources
    }
    return {"name": entry.name, "description": entry.description, "sources": files}


def _place(url: str) -> str:
    """Host and repository of an address."""
    return "/".join(url.split("/")[2:5])


@contextmanager
def _progress_bar() -> Iterator[Show]:
    """A bar for every file on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield show
