"""Edits a video file in two passes: one that follows the faces, one that edits, encodes and copies the sound."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from mien.engine.errors import MediaError, RunError
from mien.engine.types import Frame
from mien.runtime.clock import StageClocks
from mien.runtime.compare import side_by_side, side_by_side_info
from mien.runtime.cuda_decode import frames_of
from mien.runtime.cuda_pipeline import Lane, lane_stages
from mien.runtime.encoders import Choice, Codec, Encoding, choose_encoder
from mien.runtime.part_file import is_same_file
from mien.runtime.pipeline import Pipeline
from mien.runtime.run_report import Box, RunReport
from mien.runtime.sink import FORMATS, VideoWriter, check_video_output
from mien.runtime.source import VideoReader
from mien.runtime.stage import MapStage, ParallelStage, Stage
from mien.runtime.stream_copy import check_copy

MIN_FRAMES_TO_REORDER = 3
"""Of fewer, x265 with B-frames gives packets without decode times, which .mp4 cannot hold."""


class Edited(Protocol):
    """A frame after editing: the very frame that came in where nothing was edited."""

    @property
    def frame(self) -> Frame: ...  # noqa: D102
    @property
    def boxes(self) -> tuple[Box, ...]: ...  # noqa: D102
    @property
    def edited(self) -> bool: ...  # noqa: D102


class EditPlan(Protocol):
    """What to do to each frame of a surveyed clip: `begin` with the frames in order, `finish` several at a time."""

    @property
    def tracks(self) -> tuple[Any, ...]: ...  # noqa: D102
    @property
    def frames_at_once(self) -> int: ...  # noqa: D102
    def begin(self, frame: Frame) -> Any: ...  # noqa: D102
    def finish(self, begun: Any) -> Edited: ...  # noqa: D102


class FileSurvey(Protocol):
    """The first pass."""

    def add(self, frame: Frame) -> object: ...  # noqa: D102
    def finish(self) -> EditPlan: ...  # noqa: D102


class FileEditor(Protocol):
    """What this job needs of an editor."""

    @property
    def active(self) -> bool: ...  # noqa: D102
    def survey(self) -> FileSurvey: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is. total: frames of this pass, None where the header does not say."""

    pass_number: int
    passes: int
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class VideoJob:
    """What to do to which file. compare: where the side-by-side goes; its sound is the source's too.

    start_s, stop_s: the part, from the beginning of the file. threads: of decoder and encoder, 0 for their own choice. device: whose
    decoder is tried before the CPU's, and whose encoder where `encoder` is auto.
    """

    source: str
    target: Path
    codec: Codec = "h264"
    crf: int = 18
    preset: str = "veryfast"
    encoder: Choice = "auto"
    start_s: float | None = None
    stop_s: float | None = None
    compare: Path | None = None
    threads: int = 0
    overwrite: bool = False
    device: str = "cpu"

    @property
    def encoding(self) -> Encoding:
        """Of the target."""
        return Encoding(self.codec, self.crf, self.preset, self.encoder, self.device)

    @property
    def beside(self) -> Encoding:
        """Of the side-by-side, which may be too wide for NVENC: that is demanded of the target alone."""
        return replace(self.encoding, codec="h264", encoder="cpu" if self.encoder == "cpu" else "auto")

    def check(self, reader: VideoReader) -> None:
        """Refuse what cannot be written, before the frames are decoded. Raises MediaError, UnavailableError."""
        info = reader.info
        if self.compare is not None:
            if is_same_file(self.compare, self.target):
                raise MediaError(f"the side-by-side and the output are the same file {self.target}: give two names")
            check_video_output(self.compare, side_by_side_info(info), self.beside, overwrite=self.overwrite)
        path = check_video_output(self.target, info, self.encoding, overwrite=self.overwrite)
        check_copy(self.source, info, FORMATS[path.suffix.lower()], path.suffix.lower())
        if self.encoder == "nvenc":
            choose_encoder(self.encoding, info.width, info.height, info.pixel_format)


@dataclass(slots=True)
class _Rate:
    """Whether frames come at a constant rate, to the tick; as long as there are enough of them to be reordered."""

    frames: int = 0
    last_pts: int | None = None
    steps: set[int | None] = field(default_factory=set)

    def add(self, frame: Frame) -> None:
        self.frames += 1
        if len(self.steps) < 2:
            if self.last_pts is not None:
                self.steps.add(None if frame.pts is None else frame.pts - self.last_pts)
            self.steps.add(frame.duration)
        self.last_pts = frame.pts

    @property
    def constant(self) -> bool:
        return self.frames >= MIN_FRAMES_TO_REORDER and len(self.steps) == 1 and None not in self.steps


def edit_video(
    job: VideoJob,
    editor: FileEditor,
    *,
    clocks: StageClocks | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Run a job; OUT is whole when this returns, and untouched when it raises, KeyboardInterrupt included.

    A frame whose edit raises RunError goes through unedited and is counted; any other error stops the run. A run in
    which every edit failed is a failure itself. `Editor(on_time=clocks.add_part)` with the same clocks shows the parts.
    Raises MediaError before anything is written, RunError and what the engine raises afterwards.
    """
    begun_s = time.perf_counter()
    report = RunReport(job.source, os.fspath(job.target), clocks=clocks or StageClocks())
    with VideoReader(job.source, job.start_s, job.stop_s, threads=job.threads) as reader:
        job.check(reader)
        report.passes = 2 if editor.active else 1
        if reader.info.converted_from:
            report.notes.append(f"{reader.info.converted_from} was converted to {reader.info.pixel_format}")
        if reader.info.interlaced:
            report.notes.append(
                "the source is interlaced: its lines stay, but the result is flagged progressive; deinterlace it first"
            )
        survey, rate = editor.survey(), _Rate()
        if editor.active:
            _run(job, reader, report, 1, progress, _analyse(survey, rate))
        plan = survey.finish()
        report.tracks = len(plan.tracks)
        _second_pass(job, reader, plan, rate.constant, report, progress)
        if reader.broken_packets:
            report.notes.append(f"{reader.broken_packets} broken packets of the source could not be decoded")
        if reader.frames_missing:
            promised, missing = reader.frames_promised, reader.frames_missing
            report.notes.append(
                f"the header says {promised} frames, {promised - missing} could be read: the source is cut short"
            )
    report.wall_s = time.perf_counter() - begun_s
    return report


def _analyse(survey: FileSurvey, rate: _Rate) -> MapStage[Frame, None]:
    def add(frame: Frame) -> None:
        rate.add(frame)
        survey.add(frame)

    return MapStage("analyse", add)


def _second_pass(
    job: VideoJob,
    reader: VideoReader,
    plan: EditPlan,
    constant_rate: bool,
    report: RunReport,
    progress: Callable[[Progress], None] | None,
) -> None:
    writers: list[VideoWriter] = []
    editing = _Editing(plan, report)
    try:
        writers.append(_writer(job, reader, constant_rate))
        if job.compare is not None:
            writers.append(_compare_writer(job, reader, constant_rate, job.compare))

        def write(item: _Item) -> None:
            frame = editing.count(item)
            writers[0].write(frame)
            for beside in writers[1:]:
                beside.write(side_by_side(item.frame, frame))

        stages = (MapStage("prepare", editing.begin), *editing.middle())
        pass_number = 2 if report.passes == 2 else 1
        done = _run(job, reader, report, pass_number, progress, *stages, MapStage("encode", write))
        report.frames_in, report.latency, report.frames_dropped = done.done, done.latency, done.dropped
        editing.check()
        start_s = time.perf_counter()
        for writer in writers:
            writer.flush()
        for writer in reversed(writers):  # names last, so that an interrupted run leaves neither file
            writer.close()
        report.clocks["encode"].add_tail(time.perf_counter() - start_s)
    except BaseException:
        for writer in writers:
            writer.abort()
        raise
    report.frames_out, report.encoder = writers[0].frames, writers[0].encoder.name
    report.notes += writers[0].notes
    report.notes += [writer.encoder.note for writer in writers[1:] if writer.encoder.note]


@dataclass(frozen=True, slots=True)
class _Item:
    """A frame on its way: begun or edited, or failed."""

    frame: Frame
    begun: Any = None
    edited: Edited | None = None
    failure: RunError | None = None


class _Editing:
    """Edits frames by a plan; `count`, called in order at the end, keeps the report."""

    def __init__(self, plan: EditPlan, report: RunReport) -> None:
        self._plan, self._report = plan, report
        self._first_failure: RunError | None = None

    def begin(self, frame: Frame) -> _Item:
        """In the frames' order."""
        try:
            return _Item(frame, begun=self._plan.begin(frame))
        except RunError as error:
            return _Item(frame, failure=error)

    def middle(self) -> tuple[Stage[_Item, _Item], ...]:
        """From begun items to edited ones: one stage, or those of the lane that a plan may have for its faces."""
        faces = getattr(self._plan, "faces", None)
        if isinstance(faces, Lane):
            return lane_stages(faces)
        return (ParallelStage("edit", self.finish, self._plan.frames_at_once),)

    def finish(self, item: _Item) -> _Item:
        """In any thread."""
        if item.failure is not None:
            return item
        try:
            return _Item(item.frame, edited=self._plan.finish(item.begun))
        except RunError as error:
            return _Item(item.frame, failure=error)

    def count(self, item: _Item) -> Frame:
        """The frame to write."""
        report, edited = self._report, item.edited
        if edited is None:
            self._first_failure = self._first_failure or item.failure
            report.frames_failed += 1
        if edited is None or not edited.edited:
            report.frames_passed_through += 1
            return item.frame
        report.frames_edited += 1
        report.paste_boxes += [(item.frame.index, *box) for box in edited.boxes]
        return edited.frame

    def check(self) -> None:
        """Raise the first failure if no edit succeeded; else note how many failed."""
        if self._first_failure is None:
            return
        if not self._report.frames_edited:
            raise RunError(f"every edit failed, the first with: {self._first_failure}") from self._first_failure
        self._report.notes.append(
            f"{self._report.frames_failed} frames went through unedited, the first because: {self._first_failure}"
        )


def _run(
    job: VideoJob,
    reader: VideoReader,
    report: RunReport,
    pass_number: int,
    progress: Callable[[Progress], None] | None,
    *stages: Any,
) -> Pipeline:
    pipeline = Pipeline(frames_of(reader, job.device, report.notes), stages, clocks=report.clocks)
    total = reader.info.frame_count_estimate if reader.info.start_s is None and reader.info.stop_s is None else None
    tell = None if progress is None else lambda done: progress(Progress(pass_number, report.passes, done, total))
    pipeline.run(tell)
    return pipeline


def _writer(job: VideoJob, reader: VideoReader, constant_rate: bool) -> VideoWriter:
    options = _options(job, job.encoding, constant_rate)
    return VideoWriter(job.target, reader, copy_streams_from=job.source, **options)


def _compare_writer(job: VideoJob, reader: VideoReader, constant_rate: bool, path: Path) -> VideoWriter:
    info, options = side_by_side_info(reader.info), _options(job, job.beside, constant_rate)
    try:
        return VideoWriter(path, info, copy_streams_from=job.source, **options)
    except MediaError:
        # Sound that its container cannot hold is no reason to have no picture.
        return VideoWriter(path, info, **options)


def _options(job: VideoJob, asked: Encoding, constant_rate: bool) -> dict[str, Any]:
    return asdict(asked) | {"threads": job.threads, "overwrite": job.overwrite, "constant_rate": constant_rate}
