"""`mien bench`: measurements, each of which prints its hardware and can append a row to bench/results."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from mien.bench.clips import clips_in
from mien.bench.compare_plain import compare
from mien.bench.quality import Bench, Wishes, parse_strengths
from mien.bench.quality_report import check_folder, write_report
from mien.bench.quality_table import missing, tables, text_of
from mien.bench.quality_teacher import Teacher
from mien.bench.results import append_row, commit, machine
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import check_edits
from mien.engine.errors import InputError
from mien.engine.spec import EditSpec, parse_edit

app = typer.Typer(help="Measurements.", add_completion=False)

Results = Annotated[Path | None, typer.Option("--results", metavar="FOLDER", help="Append a row there.")]


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measurements."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("plain")
def plain(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video with a face.")],
    edits: Annotated[list[str] | None, typer.Option("--edit", metavar="NAME=STRENGTH")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 1,
    turns: Annotated[int, typer.Option(help="Runs of each side, in turns.")] = 3,
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.")] = "tiny",
    threads: Annotated[int, typer.Option(help="Per network; 0 for all cores.")] = 0,
    results: Results = None,
) -> None:
    """Compare the engine with the plain way: the same weights and clip, in turns, all passes and codecs counted."""
    if turns < 1:
        raise InputError(f"--turns is {turns}: use a whole number from 1")
    spec = EditSpec(edits=tuple(parse_edit(text) for text in edits or ["smile=1.0"]), num_steps=steps)
    config = EngineConfig(threads=threads)
    opened = Bundle.open(bundle)
    check_edits(spec, opened)
    typer.echo(
        f"{machine()}, {config.num_threads} threads, {opened.name} {opened.manifest.version}, {clip}, {steps} steps"
    )
    row = compare(clip, opened, spec, config, turns=turns, tell=typer.echo)
    typer.echo(f"engine     median {row['engine_fps']:7.2f} fps ({row['engine_passes']} passes, decode to closed file)")
    typer.echo(f"plain way  median {row['plain_fps']:7.2f} fps (1 pass, decode to closed file)")
    typer.echo(f"ratio      {row['ratio']:.2f}")
    if results is not None:
        typer.echo(f"appended to {append_row(results, row)}")


@app.command("quality")
def quality(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP_OR_FOLDER", help="Videos, or folders of them.")],
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.")] = "tiny",
    judge: Annotated[
        Path | None, typer.Option(metavar="JUDGE.py", help="The independent judge; without it less is measured.")
    ] = None,
    edits: Annotated[
        list[str] | None, typer.Option("--edit", metavar="NAME", help="Only these; may be repeated.")
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Shares of the ends of each edit's range, -1 to 1.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Of each clip, from its start.")] = 90,
    held_out: Annotated[int, typer.Option(help="Report every n-th clip by itself; 0 for none.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the bundle's where not given.")] = None,
    threads: Annotated[int, typer.Option(help="Per network; 0 for all cores.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Of report.html, report.json, sheet_EDIT.png.")] = Path(
        "out/quality"
    ),
) -> None:
    """Run every edit at five strengths over clips and measure what it does, and what it should not do."""
    chosen = clips_in(clips)
    wishes = Wishes(tuple(dict.fromkeys(edits or ())), parse_strengths(strengths), frames, held_out, steps)
    opened = Bundle.open(bundle)
    check_folder(out)
    teacher = None if judge is None else Teacher(judge)
    bench = Bench(opened, EngineConfig(threads=threads), wishes, teacher)
    about = {
        "bundle": f"{opened.name} {opened.manifest.version}",
        "sha256": opened.sha256,
        "judge": str(judge or "none"),
    }
    about |= {"machine": machine(), "commit": str(commit()), "clips": str(len(chosen)), "frames": str(frames)}
    about |= {"steps": str(steps or opened.manifest.default_num_steps)}
    typer.echo(", ".join(f"{key} {value}" for key, value in about.items()))
    done = bench.run(chosen, typer.echo)
    if not done.series:
        raise InputError(f"nothing to report: no edited face in {len(chosen)} clips: give talking-portrait videos")
    for title, table in tables(done):
        typer.echo("\n".join(["", title, *text_of(table)]))
    typer.echo("\n".join(["", *missing(done), *(f"wrote {path}" for path in write_report(done, about, out))]))


@app.command("kernels", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def kernels(context: typer.Context) -> None:
    """Time the kernels of the CPU path against numpy."""
    importlib.import_module("mien.bench.kernels").main(context.args)
