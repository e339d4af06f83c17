"""`mien models`: the bundles on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mien.engine.bundle import Bundle, available
from mien.engine.errors import BundleError
from mien.runtime.commands.models_import import import_model
from mien.runtime.commands.models_pull import pull

app = typer.Typer(help="The bundles on this machine.")

Name = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's name or folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


app.command("import")(import_model)
app.command("pull")(pull)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """The bundles on this machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every bundle that can be named: packaged ones, then those of the cache folder."""
    rows: list[dict[str, Any]] = []
    for name, folder in available().items():
        try:
            opened = Bundle.open(folder)
        except BundleError as error:
            rows.append({"name": name, "folder": str(folder), "error": str(error)})
            continue
        text = opened.manifest.description
        rows.append({"name": name, "folder": str(folder), "version": opened.manifest.version, "description": text})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']}  {row.get('version', '-')}  {row.get('description') or row['error']}")
    if not rows:
        typer.echo("no bundle is installed")


@app.command("show")
def show(bundle: Name = "tiny", as_json: AsJson = False) -> None:
    """What a bundle holds: networks, edits, licences."""
    opened = Bundle.open(bundle)
    about = opened.manifest
    networks: dict[str, Any] = {
        name: {
            "file": spec.file,
            "bytes": (opened.folder / spec.file).stat().st_size,
            "int8_bytes": (opened.folder / spec.int8.file).stat().st_size if spec.int8 is not None else None,
            "architecture": spec.architecture.name,
            "inputs": {key: list(spec.shapes[key]) for key in spec.inputs},
            "outputs": {key: list(spec.shapes[key]) for key in spec.outputs},
        }
        for name, spec in opened.networks.items()
    }
    if as_json:
        value: dict[str, Any] = {
            "name": about.name,
            "version": about.version,
            "sha256": opened.sha256,
            "folder": str(opened.folder),
        }
        value |= {"description": about.description, "licences": dict(about.licences), "edits": list(opened.edits)}
        typer.echo(json.dumps(value | {"networks": networks}, indent=1))
        return
    typer.echo(f"{about.name} {about.version}: {about.description}")
    typer.echo(f"folder      {opened.folder}")
    typer.echo(f"sha256      {opened.sha256}")
    typer.echo(f"model card  {opened.folder / about.model_card}")
    typer.echo(
        f"crop        {about.crop_size_px} px, latent {about.latent_channels}x{about.latent_size}x{about.latent_size}"
    )
    typer.echo(f"denoising   {about.prediction}, {about.schedule.kind}, {about.default_num_steps} steps unless told")
    for what, licence in about.licences.items():
        typer.echo(f"licence     {what}: {licence}")
    for name, row in networks.items():
        int8 = f", in int8 {row['int8_bytes'] / 1e6:.2f} MB" if row["int8_bytes"] else ""
        typer.echo(f"network     {name}: {row['bytes'] / 1e6:.2f} MB{int8}, {row['architecture']}")
    typer.echo(f"edits       {', '.join(opened.edits) or 'none'}")


@app.command("verify")
def verify(bundle: Name = "tiny") -> None:
    """Check every file of a bundle against its hash."""
    opened = Bundle.open(bundle)
    size = opened.verify()
    typer.echo(f"{opened.name} {opened.manifest.version}: every file is what the bundle says, {size / 1e6:.2f} MB")
