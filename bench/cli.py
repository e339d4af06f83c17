"""`mien bench`: measurements, each of which prints its hardware and can append a row to bench/results."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mien.bench.clips import clips_in
from mien.bench.compare import Wanted, report_pair
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

PAIR, RUN = "Without --bundle", "With --bundle"
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
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE RESULT | CLIP_OR_FOLDER", help="Two videos; with --bundle, videos or folders."),
    ],
    bundle: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run the edits of this bundle (name or folder) over the clips.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(metavar="JUDGE.py", help="The independent judge; without it less is measured.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Of each clip, from its start; all of two videos, 90 with --bundle.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Per network; 0 for all cores.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Of compare.json; of report.html, report.json, sheet_EDIT.png.")
    ] = Path("out/quality"),
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Of mien edit: what differs outside of its boxes.", rich_help_panel=PAIR
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Whose network 'identity' gives TL-ID and TG-ID.", rich_help_panel=PAIR),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A local CLIPModel, for CLIP-Frame.", rich_help_panel=PAIR)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the edit, for CLIP-Text.", rich_help_panel=PAIR)
    ] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option("--edit", metavar="NAME", help="Only these; may be repeated.", rich_help_panel=RUN),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Shares of the ends of each edit's range, -1 to 1.", rich_help_panel=RUN),
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Report every n-th clip by itself, 3; 0 for none.", rich_help_panel=RUN)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; the bundle's where not given.", rich_help_panel=RUN)
    ] = None,
) -> None:
    """Compare RESULT with its SOURCE; or, with --bundle, run every edit of a bundle over clips.

    Two files are compared frame by frame, by the published metrics: TL-ID, TG-ID, CLIP-Text, CLIP-Frame, warp error,
    PixelMSE, landmarks, lips, background. With --bundle every edit runs at five strengths, and is measured: what it
    does, and what it should not do.
    """
    config = EngineConfig(threads=threads)
    pair = {"--report": report, "--identity": identity, "--clip": clip, "--prompt": prompt}
    run = {"--edit": edits, "--strengths": strengths, "--held-out": held_out, "--steps": steps}
    if wrong := [name for name, value in (run if bundle is None else pair).items() if value is not None]:
        how = "only with --bundle NAME" if bundle is None else "only for SOURCE and RESULT, without --bundle"
        raise InputError(f"{', '.join(wrong)} can be given {how}")
    if bundle is not None:
        wishes = Wishes(
            tuple(dict.fromkeys(edits or ())),
            parse_strengths(strengths),
            90 if frames is None else frames,
            3 if held_out is None else held_out,
            steps,
        )
        _run_edits(clips_in(paths), bundle, judge, wishes, config, out)
        return
    if len(paths) != 2:
        raise InputError(
            f"{len(paths)} path{'s' if len(paths) > 1 else ''} given: give two files, SOURCE and RESULT,"
            " or --bundle NAME to run a bundle's edits over clips"
        )
    wanted = Wanted(paths[0], paths[1], frames, judge, report, identity, clip, prompt)
    report_pair(wanted, config, out, typer.echo)


def _run_edits(
    clips: list[Path], bundle: str, judge: Path | None, wishes: Wishes, config: EngineConfig, out: Path
) -> None:
    opened = Bundle.open(bundle)
    check_folder(out)
    teacher = None if judge is None else Teacher(judge)
    bench = Bench(opened, config, wishes, teacher)
    about = {
        "bundle": f"{opened.name} {opened.manifest.version}",
        "sha256": opened.sha256,
        "judge": str(judge or "none"),
    }
    about |= {"machine": machine(), "commit": str(commit()), "clips": str(len(clips)), "frames": str(wishes.frames)}
    about |= {"steps": str(wishes.steps or opened.manifest.default_num_steps)}
    typer.echo(", ".join(f"{key} {value}" for key, value in about.items()))
    done = bench.run(clips, typer.echo)
    if not done.series:
        raise InputError(f"nothing to report: no edited face in {len(clips)} clips: give talking-portrait videos")
    for title, table in tables(done):
        typer.echo("\n".join(["", title, *text_of(table)]))
    typer.echo("\n".join(["", *missing(done), *(f"wrote {path}" for path in write_report(done, about, out))]))


PASSED_ON = {
    "kernels": ("kernels", "Time the kernels one by one: of the UNet and of frames on a GPU, of the CPU path else."),
    "networks": ("networks", "Time the networks of an SD1.5-class edit in every form, at several batch sizes."),
    "throughput": ("throughput", "Frames a second of the face lane, from surfaces to surfaces."),
    "latency": ("latency", "Frame in to frame out, of streams that deliver frames at a fixed rate."),
    "peers": ("peers", "Image to image by mien, torch, diffusers and streamdiffusion, in turns."),
    "profile": ("unet_profile", "Where the time of a UNet call goes."),
    "peaks": ("device_peaks", "What this device can do at best: a large matrix product, a large copy."),
    "compare": ("compare_results", "What became slower from one file of results to another."),
    "tables": ("tables", "Write the tables of docs/benchmarks.md."),
}
"""Commands that read their words themselves, so that `python -m mien.bench.MODULE` does the same without typer."""


def _pass_on(module: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        importlib.import_module(f"mien.bench.{module}").main(context.args)

    return run


for _name, (_module, _help) in PASSED_ON.items():
    _words = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(_name, help=_help, context_settings=_words)(_pass_on(_module))
