"""A crop of a frame as RGB, through the frame's own matrix and range."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.errors import ShapeError
from mien.engine.types import MAX_VALUE, Array, Frame
from mien.kernels.crop_yuv import crop_yuv


def bit_depth(frame: Frame) -> int:
    """Bits a sample of the frame has. Raises ShapeError for a pixel format that no frame has."""
    if frame.pixel_format not in MAX_VALUE:
        raise ShapeError(f"the frame's pixel format is {frame.pixel_format!r}; accepted: {', '.join(MAX_VALUE)}")
    return MAX_VALUE[frame.pixel_format].bit_length()


def crop_frame(
    frame: Frame,
    affine: Array,
    size: int,
    *,
    supersample: int | None = None,
    threads: int = 1,
    out: Array | None = None,
) -> Array:
    """(3, S, S) float32 RGB in [-1, 1] of a frame. affine: (2, 3), crop pixels to frame pixels. The rest: see `crop_yuv`."""
    return crop_yuv(
        frame.planes,
        affine,
        size,
        matrix=frame.matrix,
        color_range=frame.color_range,
        bit_depth=bit_depth(frame),
        supersample=supersample,
        threads=threads,
        out=out,
    )


def shrunk(crop: Array, size: int) -> Array:
    """(1, 3, size, size) float32 of a crop (3, S, S), averaged over areas where that is smaller; plane by plane is ten times as fast."""
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in crop])[None]
