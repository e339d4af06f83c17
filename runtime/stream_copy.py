"""Copies a file's audio and subtitles into a result packet by packet, bit for bit, in step with its video; title and chapters too."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from math import ceil
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Stream

from mien.engine.errors import MediaError
from mien.runtime.demux import open_input, packets_of, video_stream
from mien.runtime.held_signals import HeldSignals
from mien.runtime.video_info import VideoInfo, exact_s

_OF_THE_FILE = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
"""Container metadata that tells of the old file, not of what is in it."""
MIN_JUMP_S = Fraction(1, 2)
"""A clock that runs back so far is another clip's, joined to the first; less is disorder."""
LEAD_S = 10
"""A part's packets are looked for from so many seconds before it, so that long lines of subtitles are found."""
MAX_TRIED_PACKETS = 1000
"""Of sound, until each stream has been tried; what begins later is not waited for."""


def check_copy(path: str, info: VideoInfo, container: str, suffix: str) -> None:
    """Raise MediaError, before any work, for sound that the container cannot hold."""
    with av.open(io.BytesIO(), "w", format=container) as trial:
        video = trial.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        copy = StreamCopy(path, info, trial, suffix)
        try:
            if copy.sounds:
                trial.start_encoding()
                copy.try_first()
                trial.close()
        except (OSError, ValueError, FFmpegError) as error:
            raise _does_not_fit(suffix, " or ".join(sorted(copy.sounds))) from error
        finally:
            copy.close()


def _does_not_fit(suffix: str, codec: str) -> MediaError:
    instead = "convert it first, to AAC or FLAC" if suffix == ".mkv" else "write .mkv instead"
    return MediaError(f"{suffix} cannot hold the source's {codec} audio: {instead}")


def _due_s(packet: av.Packet[Any]) -> Fraction | None:
    due = packet.dts if packet.dts is not None else packet.pts
    return None if due is None else due * packet.time_base


class StreamCopy:
    """The copied streams of one result: adds them to a container, then muxes their packets as the video advances.

    Audio that the container cannot hold raises MediaError; subtitles and data that it cannot hold are noted, left out.
    With a part asked for (start_s, stop_s) the packets that overlap it are copied, and little else is read. `sounds` names the
    codecs of the copied audio. One thread uses it.
    """

    def __init__(self, path: str, info: VideoInfo, output: OutputContainer, suffix: str) -> None:
        self.notes: list[str] = []
        self.sounds: set[str] = set()
        self._path = path
        self._output = output
        self._input = open_input(path)
        self._streams: dict[int, Stream] = {}
        self._last_dts: dict[int, int] = {}
        self._bumped = 0
        self._last_due_s: dict[int, Fraction] = {}
        self._clips: dict[int, int] = {}
        self._held: av.Packet[Any] | None = None
        start_s, stop_s = exact_s(info.start_s), exact_s(info.stop_s)
        self._start_s = None if start_s is None else start_s + info.origin_s
        self._stop_s = None if stop_s is None else stop_s + info.origin_s
        try:
            self._add_streams(suffix)
        except BaseException:
            self.close()
            raise
        self._packets = self._packets_of_part() if self._streams else iter(())

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
        if isinstance(stream, AudioStream) and not stream.sample_rate:
            raise MediaError(
                f"the source's {codec} audio begins so late that its format is not known: leave it out, or move it"
            )
        try:
            if stream.codec_context is None:
                raise ValueError(codec)
            copy = self._output.add_stream_from_template(stream, opaque=True)
        except (ValueError, FFmpegError) as error:
            if kind == "audio":
                raise _does_not_fit(suffix, codec) from error
            self.notes.append(
                f"stream {stream.index} ({codec} subtitles) is left out: {suffix} cannot hold it, .mkv can"
            )
            return
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
        self._streams[stream.index] = copy
        if kind == "audio":
            self.sounds.add(codec)

    def try_first(self) -> None:
        """Mux the first packet of each sound, to see whether the container takes it: some say so only then."""
        sounds = [stream for stream in self._input.streams.audio if stream.index in self._streams]
        untried = {stream.index for stream in sounds}
        for packet in islice(packets_of(self._input, sounds), MAX_TRIED_PACKETS):
            if packet.stream_index in untried:
                untried.remove(packet.stream_index)
                self._mux(packet, Fraction(0))
            if not untried:
                return

    def _packets_of_part(self) -> Iterator[av.Packet[Any]]:
        """Packets that may be in the part asked for: read from shortly before it, until each stream but subtitles is past it."""
        if self._start_s is None and self._stop_s is None:
            yield from packets_of(self._input, [self._input.streams[i] for i in self._streams])
            return
        clocks: set[int] | None = None
        for packet in self._from_start():
            if clocks is None:
                clocks = {s.index for s in self._read() if s.type != "subtitle"}
            if self._stop_s is not None and (due_s := _due_s(packet)) is not None and due_s >= self._stop_s:
                clocks.discard(packet.stream_index)
                if not clocks:
                    return
            elif packet.stream_index in self._streams:
                yield packet

    def _read(self) -> list[Stream]:
        """The streams to copy, and the video: it shows where in the file subtitles are, which may be far between."""
        copied = [self._input.streams[i] for i in self._streams]
        return [video_stream(self._input, self._path), *copied]

    def _from_start(self) -> Iterator[av.Packet[Any]]:
        """Packets from a while before the part's beginning on; from the file's where the container cannot find that."""
        if self._start_s is not None and self._start_s > LEAD_S:
            try:
                self._input.seek(int((self._start_s - LEAD_S) * av.time_base))
                found = packets_of(self._input, self._read())
                first = next(found, None)
                if first is not None and (due_s := _due_s(first)) is not None and due_s <= self._start_s:
                    yield first
                    yield from found
                    return
            except FFmpegError:
                pass
            self._input.close()
            self._input = open_input(self._path)
        yield from packets_of(self._input, self._read())

    def advance(self, until_s: Fraction | None, shifts_s: Sequence[Fraction], held: HeldSignals | None = None) -> None:
        """Mux every packet due by `until_s` on the result's clock (None: all that is left).

        shifts_s: of each clip that the source is joined of, what its times are moved by; further clips wait for theirs. Signals that
        `held` keeps take effect between two packets.
        """
        while True:
            if held is not None:
                held.check()
            packet = self._held or self._next()
            if packet is None:
                return
            clip, due_s, self._held = self._clips.get(packet.stream_index, 0), _due_s(packet), packet
            if until_s is not None and (
                clip >= len(shifts_s) or (due_s is not None and due_s + shifts_s[clip] > until_s)
            ):
                return
            self._held = None
            self._mux(packet, shifts_s[min(clip, len(shifts_s) - 1)] if shifts_s else Fraction(0))

    def _next(self) -> av.Packet[Any] | None:
        """The next packet of the part; what clip its stream has come to is kept in `_clips`."""
        for packet in self._packets:
            if not self._in_part(packet):
                continue
            index, due_s = packet.stream_index, _due_s(packet)
            if due_s is not None:
                self._clips[index] = self._clips.get(index, 0) + (
                    self._last_due_s.get(index, due_s) - due_s >= MIN_JUMP_S
                )
                self._last_due_s[index] = due_s
            return packet
        return None

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
        if packet.stream.type == "subtitle" and packet.pts is not None and packet.pts + shift < 0:
            # What is left of a line that began before the part.
            packet.duration = max(0, (packet.duration or 0) + packet.pts + shift)
            packet.pts = packet.dts = -shift
        dts = packet.dts if packet.dts is not None else packet.pts
        last = self._last_dts.get(index)
        dts = (last or 0) + 1 if dts is None else dts + shift
        if last is not None and dts <= last:
            tick = max(1, ceil((self._streams[index].time_base or 0) / packet.time_base))  # of the result's clock
            dts, self._bumped = last + tick, self._bumped + 1
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
