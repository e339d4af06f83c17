"""Between PyAV's video frames and numpy planes: formats taken as they are, and the others converted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av
import numpy as np

from mien.engine.types import Array, ColorRange, Matrix, PixelFormat

NATIVE: dict[str, PixelFormat] = {"yuv420p": "yuv420p", "yuvj420p": "yuv420p", "yuv420p10le": "yuv420p10le"}
"""Decoded formats whose planes are taken bit for bit, and the contract's name for them."""

# FFmpeg's numbers: AVColorSpace, AVColorRange, SWS_CS_*.
_UNSPECIFIED = 2
_MATRIX_OF_TAG: dict[int, Matrix] = {
    1: "bt709",
    4: "bt601",
    5: "bt601",
    6: "bt601",
    7: "bt709",
    9: "bt2020",
    10: "bt2020",
}
TAG_OF_MATRIX: dict[Matrix, int] = {"bt601": 6, "bt709": 1, "bt2020": 9}
TAG_OF_RANGE: dict[ColorRange, int] = {"limited": 1, "full": 2}
_SWS_OF_MATRIX: dict[Matrix, int] = {"bt601": 5, "bt709": 1, "bt2020": 9}

P010_SHIFT = 6
"""Of a code of 10 bits in P010's 16."""

HD_LINES = 720
"""Pictures of unspecified matrix are BT.601 below this many lines and BT.709 from there."""


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """How one stream's pictures become planes; fixed by its first frame.

    source_format: what the decoder gives. converted_from: the same where it is not taken bit for bit, else None.
    """

    source_format: str
    pixel_format: PixelFormat
    matrix: Matrix
    color_range: ColorRange
    converted_from: str | None


def layout_of(frame: av.VideoFrame) -> PlaneLayout:
    """The layout of a stream that begins with this frame: unspecified colour is resolved here and nowhere else."""
    name = frame.format.name
    by_size: Matrix = "bt709" if frame.height >= HD_LINES else "bt601"
    matrix = _MATRIX_OF_TAG.get(int(frame.colorspace), by_size)
    color_range: ColorRange = "full" if int(frame.color_range) == 2 or name.startswith("yuvj") else "limited"
    if name in NATIVE:
        return PlaneLayout(name, NATIVE[name], matrix, color_range, None)
    deep = max(c.bits for c in frame.format.components) > 8
    if frame.format.is_rgb or name.startswith(("pal8", "mono")):
        matrix, color_range = by_size, "limited"
    elif name.startswith(("gray", "ya")) and int(frame.color_range) != 1:
        color_range = "full"
    return PlaneLayout(name, "yuv420p10le" if deep else "yuv420p", matrix, color_range, name)


def _plane_view(plane: av.video.plane.VideoPlane, dtype: type[np.uint8] | type[np.uint16]) -> Array:
    """Writable view (rows, columns) of a plane without its padding."""
    item = np.dtype(dtype).itemsize
    return _rows(plane)[:, : plane.width * item].view(dtype)


def _rows(plane: av.video.plane.VideoPlane) -> Array:
    """Writable view (rows, bytes) of a plane with its padding."""
    return np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)


def _dtype_of(pixel_format: str) -> type[np.uint8] | type[np.uint16]:
    return np.uint16 if pixel_format == "yuv420p10le" else np.uint8


def planes_of(frame: av.VideoFrame, layout: PlaneLayout) -> tuple[Array, Array, Array]:
    """Y, U, V: (H, W), (ceil(H/2), ceil(W/2)) twice, uint8 or uint16; converted if the layout says so.

    They are read-only views of the decoder's own picture, which lives as long as they do; rows may be padded.
    """
    if frame.format.name not in NATIVE or NATIVE[frame.format.name] != layout.pixel_format:
        frame = _converted(frame, layout)
    dtype = _dtype_of(layout.pixel_format)
    y, u, v = (_plane_view(plane, dtype) for plane in frame.planes)
    for view in (y, u, v):
        view.setflags(write=False)
    return y, u, v


def _converted(frame: av.VideoFrame, layout: PlaneLayout) -> av.VideoFrame:
    source_range: Literal[1, 2] = 2 if frame.format.is_rgb or layout.color_range == "full" else 1
    return frame.reformat(
        format=layout.pixel_format,
        src_colorspace=_SWS_OF_MATRIX[layout.matrix],
        dst_colorspace=_SWS_OF_MATRIX[layout.matrix],
        src_color_range=source_range,
        dst_color_range=TAG_OF_RANGE[layout.color_range],
        interpolation="BICUBIC",
    )


def video_frame(planes: tuple[Array, Array, Array], layout: str) -> av.VideoFrame:
    """A new PyAV frame that holds copies of Y (H, W), U and V (ceil(H/2), ceil(W/2)).

    layout: yuv420p or yuv420p10le, as the planes are; or p010le for 10 bit, where each code has the high bits of 16, and each V lies
    behind its U.
    """
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, layout)
    if layout == "p010le":
        y, pairs = (_rows(plane).view(np.uint16) for plane in frame.planes)
        columns = planes[1].shape[1]
        views = (y[:, :width], pairs[:, 0 : 2 * columns : 2], pairs[:, 1 : 2 * columns : 2])
        for view, values in zip(views, planes, strict=True):
            np.left_shift(values, P010_SHIFT, out=view)
        return frame
    dtype = _dtype_of(layout)
    for plane, values in zip(frame.planes, planes, strict=True):
        _plane_view(plane, dtype)[...] = values
    return frame
