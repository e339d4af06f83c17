"""`mien edit`: a video or a picture in, the edited one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.engine.config import EngineConfig, check_execution, check_precision
from mien.engine.errors import EditError
from mien.engine.spec import EditSpec, parse_edit

WHAT, RESULT, MACHINE = "What to edit", "The result", "The machine"


def edit(
    source: Annotated[str, typer.Argument(metavar="IN", help="A video, a picture or a URL.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes; its ending says what it is.")],
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--edit",
            metavar="NAME[=STRENGTH]",
            help="An edit, of strength 1 if none is given; may be repeated.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="The edit method.", rich_help_panel=WHAT)] = "wplus",
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the method.", rich_help_panel=WHAT),
    ] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.", rich_help_panel=WHAT)] = "tiny",
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What to make of it, for methods that read text.", rich_help_panel=WHAT)
    ] = "",
    negative_prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What not to make of it.", rich_help_panel=WHAT)
    ] = "",
    guidance_scale: Annotated[
        float | None, typer.Option(help="How closely the prompt is followed, 0 to 30.", rich_help_panel=WHAT)
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Share of the noise schedule, 0 to 1.", rich_help_panel=WHAT)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to 50.", rich_help_panel=WHAT)] = None,
    seed: Annotated[int, typer.Option(help="Of the fixed noise.", rich_help_panel=WHAT)] = 0,
    crop_size: Annotated[
        int | None, typer.Option(metavar="PX", help="Of the networks' crop, a multiple of 8.", rich_help_panel=WHAT)
    ] = None,
    crop_scale: Annotated[
        float | None,
        typer.Option(metavar="TIMES", help="Of the crop's width over FFHQ's, 1 to 2.", rich_help_panel=WHAT),
    ] = None,
    faces: Annotated[str, typer.Option(metavar="largest|all|N", help="Which faces.", rich_help_panel=WHAT)] = "largest",
    region: Annotated[
        str | None, typer.Option(help="Only there: face, skin, hair, mouth, ...", rich_help_panel=WHAT)
    ] = None,
    blend: Annotated[
        str, typer.Option(help="How the edge is blended: feather or poisson.", rich_help_panel=WHAT)
    ] = "feather",
    composition: Annotated[
        str, typer.Option(help="auto, delta or replace: add a difference, or make the crop anew.", rich_help_panel=WHAT)
    ] = "auto",
    start: Annotated[
        float | None, typer.Option("--from", metavar="S", help="Begin here.", rich_help_panel=WHAT)
    ] = None,
    stop: Annotated[float | None, typer.Option("--to", metavar="S", help="End here.", rich_help_panel=WHAT)] = None,
    codec: Annotated[str, typer.Option(help="h264, hevc or ffv1.", rich_help_panel=RESULT)] = "h264",
    crf: Annotated[int, typer.Option(help="Quality, 0 (best) to 51.", rich_help_panel=RESULT)] = 18,
    preset: Annotated[str, typer.Option(help="ultrafast ... veryslow.", rich_help_panel=RESULT)] = "veryfast",
    encoder: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|nvenc", help="auto: NVENC with --device cuda, if it opens.", rich_help_panel=RESULT
        ),
    ] = "auto",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write OUT.compare.mp4, side by side.", rich_help_panel=RESULT)
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write what was done, how fast.", rich_help_panel=RESULT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.", rich_help_panel=RESULT)
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan.", rich_help_panel=RESULT)] = False,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime, torch.", rich_help_panel=MACHINE)] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.", rich_help_panel=MACHINE)] = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="auto (int8 where the bundle has it), float32; torch: float16; CUDA: float8.", rich_help_panel=MACHINE
        ),
    ] = "auto",
    execution: Annotated[
        str, typer.Option(help="Of torch on CUDA: auto, graphs, compiled or eager.", rich_help_panel=MACHINE)
    ] = "auto",
    threads: Annotated[int, typer.Option(help="0 for all cores.", rich_help_panel=MACHINE)] = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="ROWS", help="Most rows of a denoiser call, of faces and frames.", rich_help_panel=MACHINE
        ),
    ] = 1,
) -> None:
    """Edit the faces of a video or a picture."""
    from mien.runtime import edit_request  # needs the packages for video, which other commands do without
    from mien.runtime.edit_run import plan, run
    from mien.runtime.edit_video import VideoJob

    if not edits and not prompt:
        raise EditError("nothing to edit: give --edit NAME=STRENGTH (mien edits list shows the names), or --prompt")
    spec = EditSpec(
        method=method,
        edits=tuple(parse_edit(text) for text in edits or ()),
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance_scale=guidance_scale,
        crop_px=crop_size,
        crop_scale=crop_scale,
        options=tuple(_parse_option(text) for text in options or ()),
        strength=strength,
        num_steps=edit_request.check_steps(steps),
        seed=seed,
        faces=edit_request.parse_faces(faces),
        region=region,
        blend=blend,
        composition=composition,
    )
    job = VideoJob(
        source,
        target,
        codec=edit_request.check_encoder(codec, crf, preset),
        crf=crf,
        preset=preset,
        encoder=edit_request.check_choice(encoder),
        start_s=start,
        stop_s=stop,
        threads=threads,
        overwrite=overwrite,
    )
    config = EngineConfig(
        device=device,
        backend=backend,
        precision=check_precision(precision),
        execution=check_execution(execution),
        threads=threads,
        batch_size=batch_size,
    )
    request = plan(job, spec, config, bundle=bundle, compare=compare, report=report)
    if dry_run:
        for key, value in request.describe().items():
            typer.echo(f"{key:<8}  {'-' if value is None else value}")
        return
    for line in run(request):
        typer.echo(line)


def _parse_option(text: str) -> tuple[str, float | str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise EditError(f"--option {text!r} is not KEY=VALUE, for example w_scale=1.0")
    try:
        return key, float(value)
    except ValueError:
        return key, value
