"""Frames of a video by the GPU's decoder where there is one, with the times of the file, and by the CPU's for all that goes wrong.

The GPU's pictures are taken for frames only if the first is bit for bit that of the CPU, which H.264 and HEVC ask of every decoder. A
file's times are those of its packets in display order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from mien.engine.errors import RunError
from mien.engine.types import Array, Frame
from mien.runtime.demux import open_input, packets, video_stream
from mien.runtime.planes import P010_SHIFT
from mien.runtime.source import VideoReader

CODECS = ("h264", "hevc")


@dataclass(frozen=True, slots=True)
class _Time:
    pts: int
    duration: int


class GpuFrames:
    """The frames of a whole file, an iterable like its reader. pictures: of a path, see `cuda.nvdec.pictures`.

    notes: what became of them, a line each, once. Where the GPU fails, the CPU goes on from that frame.
    """

    def __init__(
        self, reader: VideoReader, pictures: Callable[[str], Iterable[Array]], notes: list[str] | None = None
    ) -> None:
        self._reader, self._pictures = reader, pictures
        self._notes: list[str] = [] if notes is None else notes

    def __iter__(self) -> Iterator[Frame]:
        given = 0
        try:
            for frame in self._by_gpu():
                yield frame
                given += 1
            return
        except RunError as error:
            note = f"{error}; the CPU decoded from frame {given} on"
            if note not in self._notes:
                self._notes.append(note)
        yield from islice(self._reader, given, None)

    def _by_gpu(self) -> Iterator[Frame]:
        times = _times(self._reader.path)
        first = next(iter(self._reader))
        count = 0
        for picture in self._pictures(self._reader.path):
            planes = _planar(picture, first)
            if count == 0 and any((got != want).any() for got, want in zip(planes, first.planes, strict=True)):
                raise RunError("NVDEC's first picture is not the CPU's")
            if count >= len(times):
                raise RunError(f"NVDEC gave more pictures than the {len(times)} packets of the file")
            at = times[count]
            yield replace(first, planes=planes, index=count, pts=at.pts, duration=at.duration)
            count += 1
        if count != len(times):
            raise RunError(f"NVDEC gave {count} pictures for {len(times)} packets")


def frames_of(reader: VideoReader, device: str, notes: list[str]) -> Iterable[Frame]:
    """The reader's frames, by the GPU's decoder where that is installed and the file is one for it. notes: get a line of what failed."""
    info = reader.info
    if (
        device == "cpu"
        or info.codec not in CODECS
        or info.converted_from
        or (info.start_s, info.stop_s) != (None, None)
    ):
        return reader
    from mien.engine.cuda.nvdec import pictures, why_no_nvdec

    if why_no_nvdec() is not None:
        return reader
    return GpuFrames(reader, lambda path: pictures(path, device), notes)


def _times(path: str) -> list[_Time]:
    """Of a file's pictures in display order. Raises RunError where a packet has none."""
    with open_input(path) as container:
        stream = video_stream(container, path)
        found = [packet for packet in packets(container, stream) if not packet.is_discard]
        if any(packet.pts is None for packet in found):
            raise RunError("the file's packets have no times, which NVDEC's pictures need")
        return sorted((_Time(packet.pts or 0, packet.duration or 0) for packet in found), key=lambda time: time.pts)


def _planar(picture: Array, like: Frame) -> tuple[Array, Array, Array]:
    """NV12 or P016 (3/2 H, W) as planes of a frame's form. Raises RunError for another form."""
    height, width = like.height_px, like.width_px
    rows, columns = (height + 1) // 2, (width + 1) // 2
    deep = like.pixel_format == "yuv420p10le"
    wanted = (height + rows, 2 * columns)
    if picture.shape != wanted or picture.dtype != (np.uint16 if deep else np.uint8):
        raise RunError(f"NVDEC gave a picture {picture.shape} {picture.dtype} for a frame of {width}x{height}")
    if deep:
        picture = picture >> P010_SHIFT
    pairs = picture[height:]
    y, u, v = (np.ascontiguousarray(part) for part in (picture[:height, :width], pairs[:, 0::2], pairs[:, 1::2]))
    return (y.copy() if np.shares_memory(y, picture) else y), u, v
