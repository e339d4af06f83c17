"""Sampling a plane at real positions: bilinear and Catmull-Rom, the definitions that every path of the kernels follows.

A position is clamped to the centres of the outermost samples first, then its taps are clamped: nothing is invented.
Positions are float64 (float32 loses 1/2000 of a pixel at column 4096); `dtype` is that of the arithmetic after them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _split(position: Array, length: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """Clamp to [0, length - 1]; return the tap to the left, one before the last at most, and the fraction."""
    clamped = np.clip(position, 0, length - 1)
    left = np.minimum(clamped.astype(np.intp), max(length - 2, 0))
    return left, (clamped - left).astype(dtype)


def bilinear(plane: Array, x: Array, y: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Sample `plane` (H, W) at columns x and rows y (any equal shapes, pixel centres at integers); clamp to edge."""
    height, width = plane.shape
    left, fx = _split(x, width, dtype)
    top, fy = _split(y, height, dtype)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    above = plane[top, left] * (1 - fx) + plane[top, right] * fx
    below = plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx
    return np.asarray(above * (1 - fy) + below * fy)


def catmull_rom_weights(fraction: Array) -> tuple[Array, Array, Array, Array]:
    """Weights of the taps -1, 0, 1, 2 at `fraction` in [0, 1]: Keys' cubic with a = -1/2 (Keys 1981)."""
    t, t2, t3 = fraction, fraction**2, fraction**3
    return (t2 - (t + t3) / 2, 1 - 2.5 * t2 + 1.5 * t3, t / 2 + 2 * t2 - 1.5 * t3, (t3 - t2) / 2)


def catmull_rom(plane: Array, x: Array, y: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Sample `plane` (H, W) with the 4 x 4 taps of Catmull-Rom at columns x and rows y; clamp to edge."""
    height, width = plane.shape
    left, fx = _split(x, width, dtype)
    top, fy = _split(y, height, dtype)
    total = np.zeros_like(fx)
    for dy, weight_y in enumerate(catmull_rom_weights(fy), start=-1):
        row = np.clip(top + dy, 0, height - 1)
        along = np.zeros_like(fx)
        for dx, weight_x in enumerate(catmull_rom_weights(fx), start=-1):
            along += weight_x * plane[row, np.clip(left + dx, 0, width - 1)]
        total += weight_y * along
    return total
