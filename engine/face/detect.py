"""Faces in a small luma picture: how the picture is made from a frame, how the network's heads are read, and which
boxes stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.face.points import Box
from mien.engine.types import Array, Frame

STRIDES = (8, 16, 32)
NARROW_PX, WIDE_PX, WIDEST_PX = 320, 640, 1280


@dataclass(frozen=True, slots=True)
class Detection:
    """One face found. box: x0, y0, x1, y1 in luma pixels of the stored frame. score: in [0, 1]."""

    box: Box
    score: float


def upright(picture: Array, rotation: int) -> Array:
    """A stored picture turned clockwise by `rotation` degrees, as a player shows it."""
    codes = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(picture, codes[rotation]) if rotation else picture


def stored_box(box: Box, rotation: int, width: float, height: float) -> Box:
    """A box in the upright picture, back in the stored picture of size width x height (same unit), pixel centres at
    integers.
    """
    x0, y0, x1, y1 = box
    right, bottom = width - 1, height - 1
    if rotation == 90:  # upright (x, y) = (bottom - y_stored, x_stored)
        return y0, bottom - x1, y1, bottom - x0
    if rotation == 180:
        return right - x1, bottom - y1, right - x0, bottom - y0
    if rotation == 270:  # upright (x, y) = (y_stored, right - x_stored)
        return right - y1, x0, right - y0, x1
    return box


def small_luma(frame: Frame, long_side_px: int) -> tuple[Array, float, float]:
    """The detector's picture: (1, 1, H, W) float32 full-range luma in [0, 1], upright, zero-padded to multiples of 32;
    and the scales.

    The scales are frame pixels per picture pixel along the stored x and y. The picture is never larger than the frame.
    """
    luma = frame.planes[0]
    shrink = min(1.0, long_side_px / max(luma.shape))
    width, height = max(1, round(luma.shape[1] * shrink)), max(1, round(luma.shape[0] * shrink))
    small = luma if shrink == 1.0 else cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    small = upright(small, frame.rotation)
    peak = 255.0 if luma.dtype == np.uint8 else 1023.0
    low, high = (16 / 255, 235 / 255) if frame.color_range == "limited" else (0.0, 1.0)
    picture = np.zeros((1, 1, -(-small.shape[0] // 32) * 32, -(-small.shape[1] // 32) * 32), np.float32)
    inner = picture[0, 0, : small.shape[0], : small.shape[1]]
    np.multiply(small, np.float32(1.0 / peak / (high - low)), out=inner, dtype=np.float32)
    np.clip(inner - np.float32(low / (high - low)), 0.0, 1.0, out=inner)
    return picture, luma.shape[1] / width, luma.shape[0] / height


def decode(heads: dict[str, Array], threshold: float) -> Array:
    """(n, 5) boxes x0, y0, x1, y1 in picture pixels (centres at integers) and scores, of all cells at or above the
    threshold.

    A cell (i, j) of stride s has its centre at pixel ((j + 0.5) s - 0.5, (i + 0.5) s - 0.5); box_s holds the distances
    to the left, top, right and bottom edge in units of s.
    """
    found = []
    for s in STRIDES:
        score, box = heads[f"score_{s}"][0, 0], heads[f"box_{s}"][0]
        rows, columns = np.nonzero(score >= threshold)
        left, top, right, bottom = box[:, rows, columns] * s
        x, y = (columns + 0.5) * s - 0.5, (rows + 0.5) * s - 0.5
        found.append(np.stack([x - left, y - top, x + right, y + bottom, score[rows, columns]], 1))
    boxes = np.concatenate(found).astype(np.float64)
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def suppress(boxes: Array, overlap: float = 0.4) -> Array:
    """Non-maximum suppression of (n, 5) boxes, best score first.

    A box goes if its IoU with a better one exceeds `overlap`, or if 80 % of the smaller of the two lies in the other.
    """
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    size = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in range(len(boxes)):
        if kept:
            other = boxes[kept]
            width = np.minimum(boxes[i, 2], other[:, 2]) - np.maximum(boxes[i, 0], other[:, 0])
            height = np.minimum(boxes[i, 3], other[:, 3]) - np.maximum(boxes[i, 1], other[:, 1])
            inner = np.maximum(width, 0) * np.maximum(height, 0)
            union = size[i] + size[kept] - inner
            if (inner > overlap * union).any() or (inner > 0.8 * np.minimum(size[i], size[kept])).any():
                continue
        kept.append(i)
    return boxes[kept]


class Detector:
    """The detector network with its picture and its boxes; keeps nothing between calls."""

    def __init__(self, network: Network, threshold: float = 0.3) -> None:
        self._network = network
        self._threshold = threshold

    def __call__(self, frame: Frame, long_side_px: int = NARROW_PX) -> list[Detection]:
        """Faces in a frame, best first.

        long_side_px: of the picture the network sees; 640 finds faces half as large as 320, at four times the cost.
        """
        picture, scale_x, scale_y = small_luma(frame, long_side_px)
        boxes = suppress(decode(dict(self._network(luma=picture)), self._threshold))
        width, height = frame.width_px / scale_x, frame.height_px / scale_y
        found = []
        scale = np.array([scale_x, scale_y, scale_x, scale_y])
        for x0, y0, x1, y1, score in boxes:
            stored = np.array(stored_box((x0, y0, x1, y1), frame.rotation, width, height))
            left, top, right, bottom = map(float, (stored + 0.5) * scale - 0.5)  # pixel 0 begins at -0.5 in both
            found.append(Detection((left, top, right, bottom), float(score)))
        return found
