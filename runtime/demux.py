"""Opens media files for reading, picks the video stream, and demultiplexes past damage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from mien.engine.errors import MediaError
from mien.runtime.part_file import local_path

MAX_DEMUX_FAILURES = 64
"""Read errors in a row after which the rest of a damaged file is given up."""

_TEXT_FORMATS = {"tty"}


def open_input(path: str | os.PathLike[str]) -> InputContainer:
    """Open a media file or URL, every failure as a one-line MediaError."""
    name = local_path(path)
    is_local = name is not None
    name = os.fspath(path) if name is None else name
    if is_local:
        if not os.path.exists(name):
            raise MediaError(f"no such file: {name}: give the path of an existing video")
        if os.path.isdir(name):
            raise MediaError(f"{name} is a folder: give the path of a video file")
        if not os.path.isfile(name):
            raise MediaError(f"{name} is a device or a pipe, not a file: it is read more than once, save it first")
        if os.path.getsize(name) == 0:
            raise MediaError(f"{name} is empty (0 bytes): give a video file")
    try:
        opened = os.path.abspath(name) if is_local else name  # so that a colon in a name does not make it a protocol
        container = av.open(opened, "r", timeout=None if is_local else (30.0, 30.0), metadata_errors="replace")
    except PermissionError as error:
        raise MediaError(f"cannot read {name}: permission denied") from error
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{name} is not a readable video, or is cut short: {reason}") from error
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise MediaError(f"{name} is a text file, not a video")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        container.close()
        raise MediaError(f"{name} is a picture, not a video: give OUT the ending of a picture, such as .png")
    return container


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first stream of moving pictures; cover art and thumbnails do not count."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams.video:
        if not stream.disposition & still:
            if stream.codec_context is None:
                raise MediaError(f"{name}: its video codec is unknown to this FFmpeg: convert it to H.264 first")
            return stream
    kinds = {"cover art" if s.type == "video" else str(s.type) for s in container.streams} or {"no streams"}
    raise MediaError(f"{name} has no video stream (only {', '.join(sorted(kinds))}): give a file with moving pictures")


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Non-empty packets of a stream; a read error is stepped over, a source that only fails is given up."""
    return cast(Iterator["av.Packet[VideoStream]"], packets_of(container, [stream]))


def packets_of(container: InputContainer, streams: Sequence[Stream]) -> Iterator[av.Packet[Any]]:
    """Non-empty packets of some streams in file order; a read error is stepped over, too many in a row end it."""
    failures = 0
    while failures <= MAX_DEMUX_FAILURES:
        try:
            for packet in container.demux(*streams):
                if packet.size:
                    failures = 0
                    yield packet
            return
        except (FFmpegError, IndexError):
            # An IndexError where a stream begins in mid-file, of which the container tells late.
            failures += 1
