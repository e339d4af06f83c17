"""Writes a video: planes become H.264, HEVC or FFV1, with the source's times, colour, rotation and sound."""

from __future__ import annotations

import os
from collections import deque
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.error import FFmpegError
from av.video.stream import VideoStream

from mien.engine.errors import MediaError, RunError
from mien.engine.types import Frame
from mien.runtime.encoders import Choice, Codec, Encoding, choose_encoder
from mien.runtime.held_signals import HeldSignals
from mien.runtime.part_file import PartFile, check_output, write_failure
from mien.runtime.planes import TAG_OF_MATRIX, TAG_OF_RANGE, video_frame
from mien.runtime.source import VideoReader
from mien.runtime.stream_copy import MIN_JUMP_S, StreamCopy
from mien.runtime.video_info import VideoInfo

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
MAX_DTS_LAG_S = Fraction(1, 2)
MIN_FOREIGN_ORIGIN_S = Fraction(1, 2)


def check_video_output(
    out: str | os.PathLike[str], info: VideoInfo, asked: Encoding, *, overwrite: bool = False
) -> Path:
    """Refuse what cannot be written, before anything is decoded. Raises MediaError."""
    path, codec = check_output(out, info.path, overwrite=overwrite), asked.codec
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise MediaError(f"the output's ending {suffix or '(none)'} is not a video: use one of {' '.join(FORMATS)}")
    asked.check()
    if codec == "ffv1" and FORMATS[suffix] == "mov":
        raise MediaError("ffv1 does not go into .mov: write .mkv or .mp4")
    if codec != "ffv1" and (info.width % 2 or info.height % 2):
        raise MediaError(
            f"{codec} cannot hold the odd size {info.width}x{info.height}: use --codec ffv1 with .mkv or .mp4,"
            " or scale the source to an even size"
        )
    return path


class VideoWriter:
    """Encodes frames into OUT; the file gets its name at close(), and abort() leaves nothing.

    source: the reader (or its info) the frames come from; times are kept tick by tick in its time base.
    copy_streams_from: the file whose audio and subtitles are copied, None for none.
    constant_rate: every pts step and duration is the same. Files of the mp4 family store decode-time differences as
        durations, so B-frames there need this to be True; otherwise frames are written without reordering.
    encoder, device: see `Encoding`; `encoder` then is the one that was taken.
    `notes` tells what was left out. One thread uses it. Raises MediaError, and UnavailableError where `nvenc` does not open, before a
    frame is written, RunError after.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        source: VideoReader | VideoInfo,
        *,
        codec: Codec = "h264",
        crf: int = 18,
        preset: str = "veryfast",
        encoder: Choice = "auto",
        device: str = "cpu",
        copy_streams_from: str | os.PathLike[str] | None = None,
        threads: int = 0,
        overwrite: bool = False,
        constant_rate: bool = False,
    ) -> None:
        info = source.info if isinstance(source, VideoReader) else source
        asked = Encoding(codec, crf, preset, encoder, device)
        self.path = check_video_output(out, info, asked, overwrite=overwrite)
        self.frames = 0
        self._moved = 0
        self._info = info
        self._suffix = self.path.suffix.lower()
        self._stores_dts_steps = FORMATS[self._suffix] in ("mp4", "mov")
        self._reorders = constant_rate or not self._stores_dts_steps
        self.encoder = choose_encoder(asked, info.width, info.height, info.pixel_format, reorders=self._reorders)
        self.notes = [self.encoder.note] if self.encoder.note else []
        self._pending: deque[tuple[int, int]] = deque()
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._next_dts: int | None = None
        self._end_pts = 0
        self._shifts_s: list[Fraction] = []
        self._last_packet: av.Packet[Any] | None = None
        self._copy: StreamCopy | None = None
        self._closed = self._flushed = False
        self._part = PartFile(self.path, overwrite=overwrite)
        options = {"movie_timescale": str(_timescale(info.time_base))} if self._stores_dts_steps else {}
        try:
            with HeldSignals():  # the header is written by the thread that handles signals
                self._output = av.open(self._part, "w", format=FORMATS[self._suffix], container_options=options)
                self._stream = self._add_video(codec, threads)
                if copy_streams_from is not None:
                    self._copy = StreamCopy(os.fspath(copy_streams_from), info, self._output, self._suffix)
                    self.notes += self._copy.notes
                    self._copy.notes.clear()
                self._output.start_encoding()
        except (FFmpegError, ValueError, OSError) as error:
            self.abort()
            if isinstance(error, MediaError):
                raise
            if self._part.error is not None:
                raise write_failure(self.path, self._part.error) from error
            raise MediaError(f"cannot write {codec} {info.pixel_format} into {self._suffix}: {error}") from error
        except BaseException:
            self.abort()
            raise

    def _add_video(self, codec: Codec, threads: int) -> VideoStream:
        info, encoder = self._info, self.encoder
        rate = info.average_rate or Fraction(25)
        stream = self._output.add_stream(encoder.name, rate=rate, options=dict(encoder.options))
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = info.width, info.height, encoder.pixel_format
        context.time_base = info.time_base
        stream.time_base = info.time_base
        context.thread_count = threads
        explicit = info.converted_from is not None
        context.colorspace = TAG_OF_MATRIX[info.matrix] if explicit else info.matrix_tag
        context.color_range = TAG_OF_RANGE[info.color_range] if explicit else _range_tag(info)
        context.color_primaries, context.color_trc = info.primaries_tag, info.transfer_tag
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        if codec == "hevc" and self._stores_dts_steps:
            context.codec_tag = "hvc1"
        if info.display_matrix is not None:
            stream.set_display_matrix(info.display_matrix)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frame: Frame) -> None:
        """Encode one frame; frames come in presentation order and have the source's size and format."""
        info = self._info
        if (frame.width_px, frame.height_px, frame.pixel_format) != (info.width, info.height, info.pixel_format):
            raise RunError(f"{frame!r} does not fit a stream of {info.width}x{info.height} {info.pixel_format}")
        if frame.time_base != info.time_base:
            raise RunError(f"frame {frame.index} has time base {frame.time_base}, the stream {info.time_base}")
        if not self._shifts_s:
            self._shifts_s.append(self._first_shift(frame))
        pts = self._place(frame)
        picture = video_frame(frame.planes, self.encoder.pixel_format)
        picture.pts, picture.time_base = pts, info.time_base
        picture.color_range, picture.colorspace = self._stream.codec_context.color_range, int(info.matrix_tag)
        duration = frame.duration or self._step()
        picture.duration = duration
        self._pending.append((pts, duration))
        self._durations[pts], self._end_pts = duration, pts + duration
        self.frames += 1
        try:
            self._mux(self._stream.encode(picture))
        except (OSError, FFmpegError) as error:
            raise self._failure(error) from error

    def _step(self) -> int:
        rate = self._info.average_rate or Fraction(25)
        return max(1, round(1 / (rate * self._info.time_base)))

    def _first_shift(self, frame: Frame) -> Fraction:
        """Seconds that every stream is moved by: a part begins at 0, so does a clock that began elsewhere (MPEG-TS)."""
        if frame.pts is None:
            return Fraction(0)
        if self._info.start_s is not None:
            return -frame.pts * frame.time_base
        return -self._info.origin_s if abs(self._info.origin_s) >= MIN_FOREIGN_ORIGIN_S else Fraction(0)

    def _place(self, frame: Frame) -> int:
        """The frame's pts in the result: the source's, moved; made where it is missing or does not advance.

        Where the clock jumps back another clip begins: its frames, and its sound, follow on the last frame's end.
        """
        last, time_base = self._last_pts, frame.time_base
        pts = self._end_pts if frame.pts is None else frame.pts + round(self._shifts_s[-1] / time_base)
        if last is not None and (last - pts) * time_base >= MIN_JUMP_S:
            self._shifts_s.append(self._shifts_s[-1] + (self._end_pts - pts) * time_base)
            pts = self._end_pts
        if last is not None and pts <= last:
            self._moved += 1
            pts = last + 1
        self._last_pts = pts
        return pts

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
            if self._reorders:
                self._mux_one(packet)
                continue
            if self._last_packet is not None:
                self._mux_in_order(self._last_packet, packet.pts)
            self._last_packet = packet

    def _mux_in_order(self, packet: av.Packet[Any], next_pts: int | None) -> None:
        """Without reordering, decode times are free: a gap becomes an offset, so that durations stay the source's."""
        pts, duration = packet.pts or 0, packet.duration or 0
        dts = pts if self._next_dts is None else self._next_dts
        packet.dts = dts
        if next_pts is not None:
            gap = next_pts - pts - duration
            lag = next_pts - dts - duration
            keeps = duration > 0 and gap > 1 and 0 <= lag * self._info.time_base <= MAX_DTS_LAG_S
            self._next_dts = dts + duration if keeps else max(dts + 1, dts + (next_pts - pts))
        self._mux_one(packet)

    def _mux_one(self, packet: av.Packet[Any]) -> None:
        due = packet.dts if packet.dts is not None else packet.pts
        if self._copy is not None and due is not None:
            self._copy.advance(due * self._info.time_base, self._shifts_s)
        packet.stream = self._stream
        self._output.mux(packet)

    def _failure(self, error: OSError | FFmpegError) -> Exception:
        cause = self._part.error or error
        if isinstance(cause, FFmpegError):
            return RunError(f"encoding {self.path} failed at frame {self.frames}: {cause.strerror or cause}")
        return write_failure(self.path, cause)

    def flush(self) -> None:
        """Empty the encoder and end the container; the file has no name yet. A failure on the way leaves nothing."""
        if self._flushed:
            return
        try:
            with HeldSignals() as held:
                for packet in self._stream.codec_context.encode_lazy(None):  # a long flush can be interrupted
                    self._mux([packet])
                    held.check()
                self._finish(held)
            self._flushed = True
        except (OSError, FFmpegError) as error:
            self.abort()
            raise self._failure(error) from error
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Flush, and give the file its name; a failure on the way leaves nothing."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._part.commit()

    def _finish(self, held: HeldSignals) -> None:
        """Mux what was held back, and the container's end."""
        if self._last_packet is not None:
            self._mux_in_order(self._last_packet, None)
        if self._copy is not None:
            self._copy.advance(None, self._shifts_s, held)
            self._copy.close()
            self.notes += self._copy.notes
        if len(self._shifts_s) > 1:
            count = len(self._shifts_s)
            self.notes.append(
                f"the source's clock begins again on the way: its {count} clips were put one behind the other"
            )
        if self._moved:
            self.notes.append(
                f"{self._moved} frames came at or before the one in front of them and were moved by a tick"
            )
        self._output.close()

    def abort(self) -> None:
        """Stop and remove what was written; safe to call at any time."""
        self._closed = True
        if self._copy is not None:
            self._copy.close()
        self._part.abort()


def _timescale(time_base: Fraction) -> int:
    """Ticks per second of an mp4's edit lists: the video's own, within 32 bits, so that a late first frame is exact."""
    return time_base.denominator if 600 <= time_base.denominator <= 1_000_000 else 1000


def _range_tag(info: VideoInfo) -> int:
    return 2 if info.color_range == "full" else info.range_tag
