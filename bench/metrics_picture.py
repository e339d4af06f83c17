"""A frame and its result as RGB in float; the squared error where a mask says, and PSNR."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mien.bench.frame_rgb import rgb_of
from mien.engine.types import Array, Frame


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


def squared_error(source: Array, result: Array, where: Array) -> tuple[float, int]:
    """Sum of the squared differences of (H, W, 3) pictures where a mask (H, W) is set, and the number of samples."""
    apart = (result[where] - source[where]).astype(np.float64)
    return float((apart**2).sum()), apart.size


def psnr_db(mse: float) -> float:
    """10 log10(255^2 / mse): the peak signal-to-noise ratio of a mean squared error on the scale 0 to 255; inf for 0."""
    return math.inf if mse == 0.0 else 10.0 * math.log10(255.0**2 / mse)
