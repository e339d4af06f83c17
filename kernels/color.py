"""The colour matrices: gamma-coded RGB on [-1, 1] to and from YUV codes, as affine maps.

code = M rgb + offset, with Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr = (R - Y) / (2 - 2 Kr).
Limited range: Y 16..235, Cb and Cr 16..240, times 2^(bits - 8). Full range: 0..2^bits - 1, chroma about 2^(bits - 1).
Sources: ITU-R BT.601-7, BT.709-6, BT.2020-2 (tables 3 to 5), BT.2100-2 table 9 for full range.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Matrix = Literal["bt601", "bt709", "bt2020"]
ColorRange = Literal["limited", "full"]

_LUMA_WEIGHTS: dict[str, tuple[float, float]] = {  # Kr, Kb
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
_RANGES = ("limited", "full")
_BIT_DEPTHS = (8, 10)


def _luma_weights(matrix: Matrix) -> Array:
    """(3,) float64: Kr, Kg, Kb, which add up to 1."""
    k_r, k_b = _LUMA_WEIGHTS[matrix]
    return np.array([k_r, 1.0 - k_r - k_b, k_b])


LUMA: Array = _luma_weights("bt601").astype(np.float32)
"""(3,) weights of R, G and B: how bright a colour is, where no frame says which matrix."""


def luma_of(planes: Array) -> Array:
    """(...) BT.601 luma of RGB planes (3, ...), in this thread: a matrix product of numpy's waits for others."""
    r, g, b = planes
    return np.asarray(LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)


@cache
def rgb_to_yuv(matrix: Matrix, color_range: ColorRange, bit_depth: int) -> tuple[Array, Array]:
    """Return M (3, 3) and offset (3,), read-only float64, with (Y, Cb, Cr) codes = M rgb + offset for rgb on [-1, 1].

    Raises ValueError for an unknown matrix, range or bit depth.
    """
    if matrix not in _LUMA_WEIGHTS:
        raise ValueError(f"unknown matrix {matrix!r}; accepted are {', '.join(_LUMA_WEIGHTS)}")
    if color_range not in _RANGES:
        raise ValueError(f"unknown color_range {color_range!r}; accepted are {', '.join(_RANGES)}")
    if bit_depth not in _BIT_DEPTHS:
        raise ValueError(f"unknown bit_depth {bit_depth!r}; accepted are 8 and 10")
    luma = _luma_weights(matrix)
    blue = (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - luma[2]))
    red = (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - luma[0]))
    if color_range == "limited":
        unit = float(2 ** (bit_depth - 8))
        gains, base = np.array([219.0, 224.0, 224.0]) * unit, np.array([16.0, 128.0, 128.0]) * unit
    else:
        top = float(2**bit_depth - 1)
        gains, base = np.array([top, top, top]), np.array([0.0, (top + 1.0) / 2.0, (top + 1.0) / 2.0])
    unit_map = gains[:, None] * np.stack([luma, blue, red])  # acts on RGB in [0, 1]
    linear, offset = unit_map / 2.0, base + unit_map.sum(axis=1) / 2.0
    linear.setflags(write=False)
    offset.setflags(write=False)
    return linear, offset


@cache
def yuv_to_rgb(matrix: Matrix, color_range: ColorRange, bit_depth: int) -> tuple[Array, Array]:
    """Return M (3, 3) and offset (3,), read-only float64: rgb on [-1, 1] = M (Y, Cb, Cr) + offset."""
    forward, base = rgb_to_yuv(matrix, color_range, bit_depth)
    linear = np.linalg.inv(forward)
    offset = -linear @ base
    linear.setflags(write=False)
    offset.setflags(write=False)
    return linear, offset
