"""Which of FFmpeg's encoders makes a video, and how it is told: the CPU's own, or the GPU's (NVENC) where one opens.

An A100, H100 or H200 has no NVENC. What is asked for is an `Encoding`, what comes of it an `Encoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import av
import av.logging
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from mien.engine.errors import MediaError, UnavailableError

Codec = Literal["h264", "hevc", "ffv1"]
Choice = Literal["auto", "cpu", "nvenc"]

ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265", "ffv1": "ffv1"}
"""On the CPU."""
NVENC: dict[Codec, str] = {"h264": "h264_nvenc", "hevc": "hevc_nvenc"}
CHOICES: tuple[Choice, ...] = ("auto", "cpu", "nvenc")
PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
MAX_CRF = 51

NVENC_PRESETS = dict(zip(PRESETS, "p1 p1 p1 p2 p3 p4 p5 p6 p7 p7".split(), strict=True))
"""By FFmpeg's words for them: p1 is fastest, p2 faster, p3 fast, p4 medium, p5 slow, p6 slower, p7 slowest."""
NVENC_FORMATS = {"yuv420p": "yuv420p", "nv12": "nv12", "yuv420p10le": "p010le"}
"""What NVENC is handed for frames of a format: the same samples, at 10 bit laid out anew."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What is asked for. crf: constant quality, 0 (lossless or best) to 51. preset: one of PRESETS, by which bits are spent for time.

    encoder: `cpu`, `nvenc`, or `auto`, which is NVENC where it opens on the device that edits, else the CPU. device: cpu or cuda:N.
    """

    codec: Codec = "h264"
    crf: int = 18
    preset: str = "veryfast"
    encoder: Choice = "auto"
    device: str = "cpu"

    def check(self) -> None:
        """Raise MediaError for a value outside its range."""
        if self.codec not in ENCODERS:
            raise MediaError(f"unknown codec {self.codec}: use one of {' '.join(ENCODERS)}")
        if self.encoder not in CHOICES:
            raise MediaError(f"unknown encoder {self.encoder}: use one of {' '.join(CHOICES)}")
        if self.encoder == "nvenc" and self.codec not in NVENC:
            raise MediaError(f"NVENC has no {self.codec}: use {' or '.join(NVENC)} with it, or the encoder cpu")
        if self.codec != "ffv1" and not 0 <= self.crf <= MAX_CRF:
            raise MediaError(f"crf is {self.crf}: give 0 (lossless or best) to {MAX_CRF} (worst)")
        if self.codec != "ffv1" and self.preset not in PRESETS:
            raise MediaError(f"unknown preset {self.preset}: use one of {' '.join(PRESETS)}")

    @property
    def wants_nvenc(self) -> bool:
        """Whether NVENC is to be tried."""
        return self.encoder == "nvenc" or (self.encoder == "auto" and self.device != "cpu" and self.codec in NVENC)


@dataclass(frozen=True, slots=True)
class Encoder:
    """One of FFmpeg's encoders. pixel_format: what it is handed. options: FFmpeg's. note: why it is not the one hoped for."""

    name: str
    pixel_format: str
    options: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


Probe = Callable[[Encoder, int, int], str | None]
"""Why an encoder cannot encode pictures of this width and height, in words; None where it can."""


def cpu_encoder(asked: Encoding, pixel_format: str, *, reorders: bool = True, is_live: bool = False) -> Encoder:
    """x264, x265 or ffv1. reorders: whether there may be B-frames. is_live: each packet is out before the next frame is in."""
    if asked.codec == "ffv1":
        return Encoder("ffv1", pixel_format, {"level": "3", "slicecrc": "1"})
    options = {"crf": str(asked.crf), "preset": asked.preset}
    if is_live:
        options["tune"] = "zerolatency"
    if asked.codec == "hevc":
        options["x265-params"] = "log-level=none" + ("" if reorders else ":bframes=0")
    elif not reorders:
        options["bf"] = "0"
    return Encoder(ENCODERS[asked.codec], pixel_format, options)


def nvenc_encoder(asked: Encoding, pixel_format: str, *, reorders: bool = True, is_live: bool = False) -> Encoder:
    """The same by NVENC: crf becomes its constant quality, whose scale is alike and not the same. Raises MediaError for what
    NVENC does not take.
    """
    is_deep = pixel_format == "yuv420p10le"
    if asked.codec not in NVENC or pixel_format not in NVENC_FORMATS or (is_deep and asked.codec == "h264"):
        raise MediaError(f"NVENC does not take {pixel_format} in {asked.codec}")
    options = {"preset": NVENC_PRESETS[asked.preset]}
    if asked.crf == 0:
        options["tune"] = "lossless"
    else:
        options |= {"rc": "vbr", "cq": str(asked.crf), "tune": "ull" if is_live else "hq"}
        options["profile"] = "high" if asked.codec == "h264" else "main10" if is_deep else "main"
    if is_live:
        options |= {"delay": "0", "zerolatency": "1"}
    if is_live or not reorders:
        options["bf"] = "0"
    if asked.device != "cpu":
        options["gpu"] = asked.device.partition(":")[2] or "0"
    return Encoder(NVENC[asked.codec], NVENC_FORMATS[pixel_format], options)


def open_encoder(encoder: Encoder, width: int, height: int, rate: Fraction, *, threads: int = 1) -> VideoCodecContext:
    """An encoder of its own, for packets without a container. Raises FFmpegError, UnknownCodecError."""
    context = av.CodecContext.create(encoder.name, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, encoder.pixel_format
    context.framerate, context.time_base, context.thread_count = rate, 1 / rate, threads
    context.options = dict(encoder.options)
    context.open()
    return context


def why_no_nvenc(encoder: Encoder, width: int, height: int) -> str | None:
    """Open it and encode one frame: what FFmpeg says went wrong, in one line, else None."""
    with _log() as lines:
        try:
            context = open_encoder(encoder, width, height, Fraction(25))
            frame = av.VideoFrame(width, height, encoder.pixel_format)
            frame.pts = 0
            if any(packet.size for packet in [*context.encode(frame), *context.encode(None)]):
                return None
            reason = "no packet came out"
        except UnknownCodecError:
            reason = f"this FFmpeg has no {encoder.name}"
        except FFmpegError as error:
            reason = error.strerror or str(error)
    said = dict.fromkeys(" ".join(text.split()) for _, name, text in lines if name == encoder.name)
    return ", ".join(said) or reason


@contextmanager
def _log() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's errors meanwhile, as (level, whose, text), printed nowhere."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as lines:
            yield lines
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)


def choose_encoder(
    asked: Encoding, width: int, height: int, pixel_format: str, *, reorders: bool = True, probe: Probe = why_no_nvenc
) -> Encoder:
    """The encoder for frames of this size and format; its note says why `auto` did not take NVENC on a GPU.

    Raises UnavailableError where NVENC is demanded and does not open, MediaError where it does not take the format.
    """
    on_cpu = cpu_encoder(asked, pixel_format, reorders=reorders)
    if not asked.wants_nvenc:
        return on_cpu
    what = f"{asked.codec} of {width}x{height} {pixel_format}"
    try:
        on_gpu = nvenc_encoder(asked, pixel_format, reorders=reorders)
    except MediaError as error:
        if asked.encoder == "nvenc":
            raise MediaError(f"{error}: use --codec hevc, or --encoder cpu") from None
        return replace(on_cpu, note=f"{error}, {on_cpu.name} encoded")
    why = probe(on_gpu, width, height)
    if why is None:
        return on_gpu
    if asked.encoder == "nvenc":
        raise UnavailableError(f"NVENC does not open for {what}: {why}: use --encoder cpu, or auto")
    return replace(on_cpu, note=f"NVENC did not open for {what} ({why}), {on_cpu.name} encoded")
