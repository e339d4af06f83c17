"""Copies a file's audio and subtitles into a result packet by packet, bit for bit, in step with its video; title and chapters too."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Stream

from mien.engine.errors import MediaError
from mien.runtime.demux import open_input, packets_of
from mien.runtime.video_info import VideoInfo, exact_s

_OF_THE_FILE = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
"""Container metadata that tells of the old file, not of what is in it."""


def check_copy(path: str, info: VideoInfo, container: str, suffix: str) -> None:
    """Raise MediaError, before any work, for sound that the container cannot hold."""
    with av.open(io.BytesIO(), "w", format=container) as trial:
        StreamCopy(path, info, trial, suffix).close()


class StreamCopy:
    """The copied streams of one result: adds them to a container, then muxes their packets as the video advances.

    Audio that the container cannot hold raises MediaError; subtitles and data that it cannot hold are noted, left out.
    With a part asked for (start_s, stop_s) the packets that overlap it are copied. One thread uses it.
    """

    def __init__(self, path: str, info: VideoInfo, output: OutputContainer, suffix: str) -> None:
        self.notes: list[str] = []
        self._output = output
        self._input = open_input(path)
        self._streams: dict[int, Stream] = {}
        self._last_dts: dict[int, int] = {}
        self._bumped = 0
        self._held: deque[av.Packet[Any]] = deque()
        start_s, stop_s = exact_s(info.start_s), exact_s(info.stop_s)
        self._start_s = None if start_s is None else start_s + info.origin_s
        self._stop_s = None if stop_s is None else stop_s + info.origin_s
        try:
            self._add_streams(suffix)
        except BaseException:
            self.close()
            raise
        wanted = [self._input.streams[i] for i in self._streams]
        self._packets: Iterator[av.Packet[Any]] = packets_of(self._input, wanted) if wanted else iter(())

    def _add_streams(self, suffix: str) -> None:
        about = {key: value for key, value in self._input.metadata.items() if key.lower() not in _OF_THE_FILE}
        self._output.metadata.update(about)
        if self._start_s is None and self._stop_s is None:
            self._output.set_chapters(self._input.chapters())
        videos = 0
        for stream in self._input.streams:
            kind = str(stream.type)
            if kind == "video":
                videos += 1
                if videos > 1:
                    self.notes.append(f"stream {stream.index} (a second video or cover art) is left out")
            elif kind in ("audio", "subtitle"):
                self._add(stream, kind, suffix)
            elif kind == "attachment" and suffix == ".mkv":
                self._output.add_stream_from_template(stream)
            else:
                self.notes.append(f"stream {stream.index} ({kind}) is left out")

    def _add(self, stream: Stream, kind: str, suffix: str) -> None:
        codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
        try:
            if stream.codec_context is None:
                raise ValueError(codec)
            copy = self._output.add_stream_from_template(stream, opaque=True)
        except (ValueError, FFmpegError) as error:
            if kind == "audio":
                raise MediaError(f"{suffix} cannot hold the source's {codec} audio: write .mkv instead") from error
            self.notes.append(
                f"stream {stream.index} ({codec} subtitles) is left out: {suffix} cannot hold it, .mkv can"
            )
            return
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
        self._streams[stream.index] = copy

    def advance(self, until_s: Fraction | None, shift_s: Fraction) -> None:
        """Mux every packet due by `until_s` on the source's clock (None: all that is left), moved by `shift_s`."""
        while True:
            if not self._held:
                packet = next(self._packets, None)
                if packet is None:
                    return
                if not self._in_part(packet):
                    continue
                self._held.append(packet)
            packet = self._held[0]
            due = packet.dts if packet.dts is not None else packet.pts
            if until_s is not None and due is not None and due * packet.time_base > until_s:
                return
            self._mux(self._held.popleft(), shift_s)

    def _in_part(self, packet: av.Packet[Any]) -> bool:
        if packet.pts is None:
            return True
        begin_s = packet.pts * packet.time_base
        if self._stop_s is not None and begin_s >= self._stop_s:
            return False
        return self._start_s is None or begin_s + (packet.duration or 0) * packet.time_base > self._start_s

    def _mux(self, packet: av.Packet[Any], shift_s: Fraction) -> None:
        index = packet.stream_index
        shift = round(shift_s / packet.time_base)
        dts = packet.dts if packet.dts is not None else packet.pts
        last = self._last_dts.get(index)
        dts = (last or 0) + 1 if dts is None else dts + shift
        if last is not None and dts <= last:
            dts, self._bumped = last + 1, self._bumped + 1
        self._last_dts[index] = dts
        packet.pts = dts if packet.pts is None else max(packet.pts + shift, dts)
        packet.dts = dts
        packet.stream = self._streams[index]
        self._output.mux(packet)

    def close(self) -> None:
        """Release the source."""
        if self._bumped:
            self.notes.append(f"{self._bumped} copied packets whose times ran backwards were put in order")
            self._bumped = 0
        self._input.close()
