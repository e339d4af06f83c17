"""Frames, or windows of them, as RGB pictures: in float for arithmetic, in 8 bits for teachers."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.frame_crop import crop_frame
from mien.engine.types import Array, Frame

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the luma plane."""

_TILE_PX = 2048


def rgb_of(frame: Frame, window: Window | None = None) -> Array:
    """(h, w, 3) float32 on 0 to 255, not rounded, of a window, or of the whole frame."""
    left, top, right, bottom = window or (0, 0, frame.width_px, frame.height_px)
    out = np.empty((bottom - top, right - left, 3), np.float32)
    side = max(2, min(max(out.shape[:2]), _TILE_PX))
    for y in range(top, bottom, side):
        for x in range(left, right, side):
            tile = crop_frame(frame, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]), side)
            part = out[y - top : y - top + side, x - left : x - left + side]
            part[:] = tile.transpose(1, 2, 0)[: part.shape[0], : part.shape[1]]
    out += 1.0
    out *= 127.5
    return out


def rgb8_of(frame: Frame, window: Window | None = None) -> Array:
    """(h, w, 3) uint8, rounded."""
    return np.rint(rgb_of(frame, window)).astype(np.uint8)


def lab(rgb: Array) -> Array:
    """(n, 3) uint8 RGB -> (n, 3) CIE Lab, L in 0..100."""
    return np.asarray(cv2.cvtColor(rgb[None].astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)[0])
