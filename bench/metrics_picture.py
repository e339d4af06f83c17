"""A frame and its result as RGB in float; the squared error where a mask says, and PSNR."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mien.engine.face.landmarks import bit_depth
from mien.engine.types import Array, Frame
from mien.kernels.crop_yuv import crop_yuv

_TILE_PX = 2048


@dataclass(frozen=True, slots=True, eq=False)
class FramePair:
    """One frame of the source and of the result, as decoded and as RGB (H, W, 3) float32 on 0 to 255."""

    source: Frame
    result: Frame
    before: Array
    after: Array

    @classmethod
    def of(cls, source: Frame, result: Frame) -> FramePair:
        """With the pictures made."""
        return cls(source, result, rgb_of(source), rgb_of(result))


def rgb_of(frame: Frame) -> Array:
    """(H, W, 3) float32 on 0 to 255, not rounded, through the frame's own matrix and range."""
    height, width = frame.height_px, frame.width_px
    side = max(2, min(height, width, _TILE_PX))
    out = np.empty((height, width, 3), np.float32)
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = crop_yuv(
                frame.planes,
                np.array([[1.0, 0.0, x], [0.0, 1.0, y]]),
                side,
                matrix=frame.matrix,
                color_range=frame.color_range,
                bit_depth=bit_depth(frame),
            )
            part = out[y : y + side, x : x + side]
            part[:] = tile.transpose(1, 2, 0)[: part.shape[0], : part.shape[1]]
    out += 1.0
    out *= 127.5
    return out


def squared_error(source: Array, result: Array, where: Array) -> tuple[float, int]:
    """Sum of the squared differences of (H, W, 3) pictures where a mask (H, W) is set, and the number of samples."""
    apart = (result[where] - source[where]).astype(np.float64)
    return float((apart**2).sum()), apart.size


def psnr_db(mse: float) -> float:
    """10 log10(255^2 / mse): the peak signal-to-noise ratio of a mean squared error on the scale 0 to 255; inf for 0."""
    return math.inf if mse == 0.0 else 10.0 * math.log10(255.0**2 / mse)
