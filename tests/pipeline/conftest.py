"""Clips made on the spot: moving noise with exact times, in whatever format, container and company a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts", ".avi": "avi", ".m4a": "ipod"}


_FAST = {
    "libx264": {"bf": "0", "preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}


@dataclass
class Clip:
    """What a test may ask for. times: (pts, duration) of each frame in `time_base`."""

    path: Path
    times: Sequence[tuple[int, int]] = tuple((i * 512, 512) for i in range(12))
    time_base: Fraction = Fraction(1, 12800)
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (96, 64)
    rotation: int = 0
    color: tuple[int, int, int, int] | None = None
    audio: str | None = None
    subtitles: bool = False
    cover: bool = False
    options: dict[str, str] | None = None

    def make(self) -> Path:
        container_format = FORMATS[self.path.suffix]
        with av.open(str(self.path), "w", format=container_format) as out:
            video = out.add_stream(self.codec, rate=Fraction(25), options=self._options())
            video.width, video.height, video.pix_fmt = *self.size, self.pix_fmt
            video.codec_context.time_base = video.time_base = self.time_base
            video.codec_context.thread_count = 1
            if self.rotation:
                video.set_display_rotation(self.rotation)
            if self.color is not None:
                context = video.codec_context
                context.colorspace, context.color_range, context.color_primaries, context.color_trc = self.color
            sound = self._add_audio(out) if self.audio else None
            lines = self._add_subtitles(out) if self.subtitles else None
            picture = self._add_cover(out) if self.cover else None
            out.start_encoding()
            if picture is not None:
                self._mux_cover(out, picture)
            if lines is not None:
                self._mux_subtitles(out, *lines)
            durations: dict[int | None, int] = {}
            for number, (pts, duration) in enumerate(self.times):
                frame = self._picture(number)
                frame.pts, frame.time_base, frame.duration = pts, self.time_base, duration
                durations[pts] = duration
                self._mux_video(out, video.encode(frame), durations)
            self._mux_video(out, video.encode(None), durations)
            if sound is not None:
                self._mux_audio(out, sound)
        return self.path

    def _options(self) -> dict[str, str]:
        return self.options if self.options is not None else dict(_FAST.get(self.codec, {}))

    def _picture(self, number: int) -> av.VideoFrame:
        width, height = self.size
        y, x = np.mgrid[:height, :width].astype(np.float32)
        grey = 120 + 60 * np.sin((x + 3 * number) / 9) + 40 * np.cos((y - 2 * number) / 7)
        noise = np.random.default_rng(number).normal(0, 6, (height, width, 3))
        rgb = np.clip(grey[..., None] * [1.0, 0.9, 0.75] + noise, 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        return frame if self.pix_fmt == "rgb24" else frame.reformat(format=self.pix_fmt)

    def _mux_video(self, out: Any, packets: Any, durations: dict[int | None, int]) -> None:
        for packet in packets:
            packet.duration = durations.get(packet.pts, 0)
            out.mux(packet)

    def _add_audio(self, out: Any) -> Any:
        stream = out.add_stream(self.audio, rate=48000)
        stream.layout = "stereo"
        return stream

    def _mux_audio(self, out: Any, stream: Any) -> None:
        seconds = float((self.times[-1][0] + self.times[-1][1]) * self.time_base)
        count, size = int(seconds * 48000), stream.codec_context.frame_size or 1024
        for start in range(0, count, size):
            wave = np.sin(np.arange(start, start + size) / 20).astype(np.float32)
            kind = stream.codec_context.format.name
            data = np.stack([wave, -wave])
            if kind == "s16":
                data = (data * 32000).astype(np.int16).T.reshape(1, -1)
            elif kind == "u8p":
                data = (data * 100 + 128).astype(np.uint8)
            elif kind == "flt":
                data = np.ascontiguousarray(data.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(data, format=kind, layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))

    def _add_subtitles(self, out: Any) -> tuple[Any, Any]:
        text = self.path.with_suffix(".srt")
        text.write_text("1\n00:00:00,100 --> 00:00:00,300\nhello\n\n2\n00:00:00,320 --> 00:00:00,400\nthere\n")
        source = av.open(str(text))
        return source, out.add_stream_from_template(source.streams[0])

    def _mux_subtitles(self, out: Any, source: Any, stream: Any) -> None:
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
        source.close()

    def _add_cover(self, out: Any) -> Any:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.disposition = Disposition.attached_pic
        return stream

    def _mux_cover(self, out: Any, stream: Any) -> None:
        frame = av.VideoFrame(32, 32, "yuvj420p")
        for plane in frame.planes:
            np.frombuffer(memoryview(plane), np.uint8)[:] = 90
        frame.pts = 0
        packets = stream.encode(frame) + stream.encode(None)
        out.mux(packets[:1])


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """make_clip("name.mp4", pix_fmt=..., audio=...) -> its path."""

    def make(name: str, **wishes: Any) -> Path:
        return Clip(tmp_path / name, **wishes).make()

    return make


def packets_by_stream(path: Path, kinds: tuple[str, ...] = ("audio", "subtitle")) -> list[list[bytes]]:
    """The bytes of every packet of every audio and subtitle stream."""
    with av.open(str(path)) as source:
        streams = [s for s in source.streams if s.type in kinds]
        rows: dict[int, list[bytes]] = {s.index: [] for s in streams}
        for packet in source.demux(streams) if streams else ():
            if packet.size:
                rows[packet.stream_index].append(bytes(packet))
    return [rows[i] for i in sorted(rows)]


@pytest.fixture(name="packets_by_stream")
def packets_by_stream_fixture() -> Callable[..., list[list[bytes]]]:
    return packets_by_stream


VFR = tuple(
    (507 + pts, step)
    for pts, step in zip(
        np.cumsum([0, 512, 1024, 512, 512, 1536, 512, 1024, 512]).tolist(),
        [512, 1024, 512, 512, 1536, 512, 1024, 512, 512],
        strict=True,
    )
)


@pytest.fixture
def vfr_times() -> tuple[tuple[int, int], ...]:
    """Uneven (pts, duration) in 1/15360 s, starting late: the phone's habit."""
    return VFR
