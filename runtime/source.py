"""Reads a video: a file or URL becomes frames of YUV planes with their times; nothing decodable is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream

from mien.engine.errors import MediaError
from mien.engine.types import Frame, Rotation
from mien.runtime.demux import open_input, packets, video_stream
from mien.runtime.planes import PlaneLayout, layout_of, planes_of
from mien.runtime.video_info import VideoInfo, exact_s

_ANY_QUARTER: tuple[Rotation, Rotation, Rotation, Rotation] = (0, 90, 180, 270)


class _ThreadedDecodeFailed(Exception):
    """A frame-threaded decoder met damage: it drops healthy frames then, so the file is decoded again without."""


class VideoReader:
    """An iterable of Frame over one video; use it as a context manager, or close() it.

    Iterating again starts again. Not thread-safe: one thread iterates. Frames own their planes and may outlive it.
    `start_s` and `stop_s` count from the beginning of the file: frames with start_s <= time < stop_s are given.
    `broken_packets` counts, after an iteration, packets that could not be decoded, and `frames_missing`, after one of the whole file,
    those of the `frames_promised` by its index that were not there.
    Raises MediaError for what cannot be read; a size that changes on the way is one too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start_s: float | None = None,
        stop_s: float | None = None,
        *,
        threads: int = 0,
    ) -> None:
        self.path = os.fspath(path)
        self.broken_packets = self.frames_missing = 0
        _check_range(start_s, stop_s)
        self._start_s, self._stop_s, self._threads = exact_s(start_s), exact_s(stop_s), threads
        with open_input(self.path) as container:
            stream = video_stream(container, self.path)
            self._stream_index = stream.index
            facts = _StreamFacts(container, stream)
        self._pictures: Iterator[av.VideoFrame] | None = self._decoded()
        self.frames_promised = facts.frames_promised
        self._origin_s, self._time_base, self._rate = facts.origin_s, facts.time_base, facts.average_rate
        first = next(self._pictures, None)
        if first is None:
            self.close()
            if start_s is not None or stop_s is not None:
                length = "unknown length" if facts.duration_s is None else f"{facts.duration_s:.2f} s long"
                raise MediaError(
                    f"{self.path} has no frame from {start_s or 0:g} s to {stop_s or 'its end'}: it is {length}"
                )
            raise MediaError(
                f"{self.path} holds no frame that can be decoded ({facts.codec}): it is damaged or cut short"
            )
        self._first: av.VideoFrame | None = first
        self._layout: PlaneLayout = layout_of(first)
        self._size = (first.width, first.height)
        self._rotation = _rotation(first)
        self.info = facts.info(self, first, self._layout, self._rotation, start_s, stop_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the decoder; safe to call twice."""
        pictures, self._pictures, self._first = self._pictures, None, None
        if pictures is not None:
            pictures.close()  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Frame]:
        first, pictures = self._first, self._pictures
        if first is None or pictures is None:
            self.close()
            pictures = self._pictures = self._decoded()
            first = next(pictures, None)
        self._first = None
        index = 0
        while first is not None:
            yield self._frame(first, index)
            index += 1
            first = next(pictures, None)

    def _frame(self, picture: av.VideoFrame, index: int) -> Frame:
        if (picture.width, picture.height) != self._size:
            raise MediaError(
                f"{self.path} changes size at frame {index}: {picture.width}x{picture.height}, it began as"
                f" {self._size[0]}x{self._size[1]}: cut it there, or scale it to one size first"
            )
        layout = self._layout
        return Frame(
            planes=planes_of(picture, layout),
            pixel_format=layout.pixel_format,
            matrix=layout.matrix,
            color_range=layout.color_range,
            index=index,
            pts=picture.pts,
            time_base=self._time_base,
            duration=picture.duration or 0,
            rotation=self._rotation,
        )

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Pictures of the asked part: with frame threads, and after damage again without."""
        given = 0
        for threaded in (True, False):
            try:
                for number, picture in enumerate(self._selected(threaded)):
                    if number >= given:
                        given += 1
                        yield picture
                return
            except _ThreadedDecodeFailed:
                continue

    def _selected(self, threaded: bool) -> Iterator[av.VideoFrame]:
        start, stop = self._start_s, self._stop_s
        if start is None and stop is None:
            yield from self._run(threaded, None)
            return
        for seek_s in (start - 1 if start is not None and start > 2 else None, None):
            begun = False
            for number, picture in enumerate(self._run(threaded, seek_s)):
                time_s = self._time_s(picture, number)
                if not begun and seek_s is not None and start is not None and (picture.pts is None or time_s > start):
                    break  # the container sought too far: read from its beginning
                begun = True
                if stop is not None and time_s >= stop:
                    return
                if start is None or time_s >= start:
                    yield picture
            if begun or seek_s is None:
                return

    def _time_s(self, picture: av.VideoFrame, number: int) -> Fraction:
        if picture.pts is None:
            return Fraction(number) / (self._rate or 25)
        return picture.pts * self._time_base - self._origin_s

    def _run(self, threaded: bool, seek_s: Fraction | None) -> Iterator[av.VideoFrame]:
        self.broken_packets = 0
        with open_input(self.path) as container:
            stream = container.streams[self._stream_index]
            assert isinstance(stream, VideoStream)
            context = stream.codec_context
            context.thread_type = "AUTO" if threaded else "SLICE"
            context.thread_count = self._threads if threaded else 1
            if seek_s is not None and stream.time_base:
                try:
                    container.seek(int((seek_s + self._origin_s) / stream.time_base), stream=stream)
                except (FFmpegError, OverflowError):  # the latter for a time that no clock has
                    return
            sent = received = 0
            for packet in packets(container, stream):
                sent += not packet.is_discard
                try:
                    pictures = context.decode(packet)
                except FFmpegError as error:
                    if threaded:
                        raise _ThreadedDecodeFailed from error
                    self.broken_packets += 1
                    continue
                received += len(pictures)
                yield from pictures
            if seek_s is None:
                self.frames_missing = max(0, self.frames_promised - sent)
            try:
                pictures = context.decode(None)
            except FFmpegError as error:
                if threaded:
                    raise _ThreadedDecodeFailed from error
                self.broken_packets += 1
                return
            if threaded and received + len(pictures) < sent:
                raise _ThreadedDecodeFailed
            yield from pictures


class _StreamFacts:
    """What the container says about a stream, before anything is decoded."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container = container.format.name
        self.codec = stream.codec_context.name
        self.time_base = stream.time_base or Fraction(1, 1000)
        self.average_rate = stream.average_rate or stream.guessed_rate
        self.duration_s: float | None = None
        if stream.duration:
            self.duration_s = float(stream.duration * self.time_base)
        elif container.duration:
            self.duration_s = container.duration / av.time_base
        count = stream.frames or (self.duration_s and self.average_rate and round(self.duration_s * self.average_rate))
        self.frame_count_estimate = int(count) if count else None
        shown = sum(not entry.is_discard for entry in stream.index_entries) if stream.frames else 0
        self.frames_promised = min(stream.frames, shown)
        self.has_audio = bool(container.streams.audio)
        self.origin_s = Fraction(container.start_time or 0, av.time_base)
        self.sample_aspect_ratio = stream.sample_aspect_ratio or None

    def info(
        self,
        reader: VideoReader,
        first: av.VideoFrame,
        layout: PlaneLayout,
        rotation: Rotation,
        start_s: float | None,
        stop_s: float | None,
    ) -> VideoInfo:
        """The public description, with what only a decoded picture tells."""
        return VideoInfo(
            path=reader.path,
            container=self.container,
            codec=self.codec,
            width=first.width,
            height=first.height,
            pixel_format=layout.pixel_format,
            matrix=layout.matrix,
            color_range=layout.color_range,
            rotation=rotation,
            time_base=self.time_base,
            average_rate=self.average_rate,
            frame_count_estimate=self.frame_count_estimate,
            duration_s=self.duration_s,
            has_audio=self.has_audio,
            converted_from=layout.converted_from,
            interlaced=bool(first.interlaced_frame),
            display_matrix=_display_matrix(first),
            sample_aspect_ratio=self.sample_aspect_ratio,
            matrix_tag=int(first.colorspace),
            range_tag=int(first.color_range),
            primaries_tag=int(first.color_primaries),
            transfer_tag=int(first.color_trc),
            origin_s=self.origin_s,
            start_s=start_s,
            stop_s=stop_s,
        )


def _check_range(start_s: float | None, stop_s: float | None) -> None:
    for name, value in (("start", start_s), ("stop", stop_s)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise MediaError(f"{name} is {value} s: give a number of seconds of 0 or more")
    if start_s is not None and stop_s is not None and stop_s <= start_s:
        raise MediaError(f"the part from {start_s:g} s to {stop_s:g} s is empty: the end must lie behind the start")


def _display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    side_data: Iterable[Any] = picture.side_data  # typed as a mapping of names, iterates over values
    for data in side_data:
        if data.type == SideDataType.DISPLAYMATRIX:
            return tuple(int(v) for v in np.frombuffer(bytes(data), dtype=np.int32)[:9])
    return None


def _rotation(picture: av.VideoFrame) -> Rotation:
    """Clockwise display rotation, to the nearest quarter turn; PyAV's angle is counterclockwise."""
    return _ANY_QUARTER[round(-picture.rotation / 90) % 4]


def open_video(path: str | os.PathLike[str], start_s: float | None = None, stop_s: float | None = None) -> VideoReader:
    """Open a video for reading: an iterable of frames with `.info`, to be closed or used in a `with`."""
    return VideoReader(path, start_s, stop_s)
