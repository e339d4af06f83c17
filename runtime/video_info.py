"""What is known about a video stream before its frames are edited."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mien.engine.types import ColorRange, Matrix, PixelFormat, Rotation


def exact_s(seconds: float | None) -> Fraction | None:
    """Seconds a person typed, as the decimal that was meant: 2.56 is 64 frames of 25 a second, not a bit more."""
    return None if seconds is None else Fraction(seconds).limit_denominator(1_000_000)


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video stream, as a reader found it and as a writer needs it.

    width, height: stored luma pixels, before display rotation.
    pixel_format, matrix, color_range: of the frames handed out.
    rotation: clockwise degrees a player turns the picture by. display_matrix: FFmpeg's nine numbers, flips included.
    time_base: seconds per tick of every pts. average_rate: frames per second, None where unknown.
    frame_count_estimate, duration_s: what the header says, None where it does not.
    converted_from: the decoder's pixel format where it is not taken bit for bit. interlaced: whether its first frame is two fields.
    matrix_tag, range_tag, primaries_tag, transfer_tag: the stream's colour numbers (ITU-T H.273), 2 or 0: unspecified.
    origin_s: the time the file's clock begins with. start_s, stop_s: the part asked for, from the file's beginning.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    pixel_format: PixelFormat
    matrix: Matrix
    color_range: ColorRange
    rotation: Rotation
    time_base: Fraction
    average_rate: Fraction | None
    frame_count_estimate: int | None
    duration_s: float | None
    has_audio: bool
    converted_from: str | None = None
    interlaced: bool = False
    display_matrix: tuple[int, ...] | None = None
    sample_aspect_ratio: Fraction | None = None
    matrix_tag: int = 2
    range_tag: int = 0
    primaries_tag: int = 2
    transfer_tag: int = 2
    origin_s: Fraction = Fraction(0)
    start_s: float | None = None
    stop_s: float | None = None
