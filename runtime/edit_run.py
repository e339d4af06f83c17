"""`mien edit` from its options to its last line: plan, then run, with a progress bar where the terminal is one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from mien.engine import edits as methods
from mien.engine.backend import select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor, check_edits
from mien.engine.errors import InputError, MediaError
from mien.engine.spec import EditSpec
from mien.runtime.clock import StageClocks
from mien.runtime.edit_picture import edit_picture
from mien.runtime.edit_request import EditRequest, Kind, check_part, check_target, compare_target
from mien.runtime.edit_video import Progress, VideoJob, edit_video
from mien.runtime.part_file import check_output, is_same_file, local_path
from mien.runtime.picture import check_picture_output, is_picture, read_picture
from mien.runtime.run_report import RunReport, about_editor
from mien.runtime.source import VideoReader


def plan(
    job: VideoJob,
    spec: EditSpec,
    config: EngineConfig,
    *,
    bundle: str,
    compare: bool = False,
    report: Path | None = None,
) -> EditRequest:
    """Check everything that can be checked before a network is loaded, IN and OUT included; writes nothing."""
    check_part(job.start_s, job.stop_s)
    kind = check_target(job)
    beside = compare_target(job.target, kind) if compare else None
    if report is not None:
        check_output(report, job.source, overwrite=True)
        for what, path in (("OUT", job.target), ("the side-by-side", beside)):
            if path is not None and is_same_file(report, path):
                raise MediaError(f"the report and {what} are the same file {path}: give two names")
    opened = Bundle.open(bundle, cache_folder=config.cache_folder)
    check_edits(spec, opened)
    wanted = methods.load(spec.method).networks(spec, opened.manifest)
    formats = {opened.networks[name].format for name in wanted if name in opened.networks}
    selection = select(config, "safetensors" if "safetensors" in formats else "onnx")
    if config.execution != "auto" and selection.backend.name != "torch":
        raise InputError(f"--execution is of the backend torch, this is {selection.backend.name}: leave it out")
    if kind == "video":
        under_work = 2 * config.batch_size if config.batch_size > 1 else 1  # a half denoises, the other comes and goes
        config = replace(config, frames_at_once=max(config.num_threads, under_work))
    job = replace(job, compare=beside, device=config.device)
    _check_input(job, kind)
    return EditRequest(kind, spec, config, opened, selection, job, report)


def _check_input(job: VideoJob, kind: Kind) -> None:
    if kind == "picture":
        if job.start_s is not None or job.stop_s is not None:
            raise MediaError(f"--from and --to are for videos, OUT {job.target} is a picture: leave them out")
        check_picture_output(job.target, job.source, read_picture(job.source), overwrite=job.overwrite)
        if job.compare is not None:
            check_picture_output(job.compare, job.source, overwrite=job.overwrite)
    elif is_picture(job.source):
        raise MediaError(f"IN {job.source} is a picture and OUT {job.target} a video: give OUT with .png or .jpg")
    elif local_path(job.source) is not None:
        with VideoReader(job.source, job.start_s, job.stop_s, threads=1) as reader:
            job.check(reader)


def run(request: EditRequest) -> list[str]:
    """Do it; lines that say what was done. OUT is whole when this returns, and untouched when it raises."""
    clocks = StageClocks()
    editor = Editor(request.bundle, spec=request.spec, config=request.config, on_time=clocks.add_part)
    if request.kind == "picture":
        job = request.job
        report = edit_picture(
            job.source, job.target, editor, clocks=clocks, compare=job.compare, overwrite=job.overwrite
        )
    else:
        with _progress_bar() as show:
            report = edit_video(request.job, editor, clocks=clocks, progress=show)
    report.notes += editor.notes
    report.about, report.settings = about_editor(editor), request.settings()
    if request.report is not None:
        report.write(request.report)
    return _summary(request, report)


def _summary(request: EditRequest, report: RunReport) -> list[str]:
    fps = report.frames_in / report.wall_s if report.wall_s else 0.0
    if request.kind == "picture":
        count = len(report.paste_boxes)
        done = f"{report.output}: {count} face{'' if count == 1 else 's'} edited in {report.wall_s:.2f} s"
    else:
        passes = f"{report.passes} pass{'es' if report.passes > 1 else ''}"
        counts = f"{report.frames_out} frames, {report.frames_edited} edited"
        done = (
            f"{report.output}: {counts}, {report.wall_s:.1f} s in {passes}, {fps:.1f} fps, encoded by {report.encoder}"
        )
    lines = [done]
    if request.job.compare is not None:
        lines.append(f"{request.job.compare}: source and result side by side")
    if request.report is not None:
        lines.append(f"{request.report}: report")
    if request.spec.active and not report.paste_boxes:
        lines.append("note: no face was edited, every picture went through as it is")
    return lines + [f"note: {note}" for note in report.notes]


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A bar on stderr if that is a terminal, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        names = {(1, 2): "following faces", (2, 2): "editing", (1, 1): "copying"}
        tasks: dict[int, TaskID] = {}

        def show(progress: Progress) -> None:
            number = progress.pass_number
            if number not in tasks:
                tasks[number] = bar.add_task(names[number, progress.passes], total=progress.total)
            bar.update(tasks[number], completed=progress.done, total=progress.total)

        yield show
