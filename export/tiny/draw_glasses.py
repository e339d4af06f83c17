"""Pair generator: sunglasses. Pictures and points as in strokes.py."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.strokes import FaceAxes, fill, polyline, side_weights

_FRAME = np.array([0.03, 0.028, 0.03], np.float32)
_GLASS = np.array([0.052, 0.047, 0.046], np.float32)
_SKY = np.array([0.20, 0.23, 0.27], np.float32)


def _lens(
    points: Array, outside: int, inside: int, brow: int, axes: FaceAxes
) -> tuple[Array, Array, Array, Array, float]:
    """Outline of one lens, its middle, its half width (a vector), the frame's outer end, and its height in pixels."""
    corner_out, corner_in = points[outside, :2], points[inside, :2]
    u = (corner_out - corner_in) / 2
    middle = (corner_out + corner_in) / 2 + 0.07 * axes.iod_px * axes.down + 0.06 * u
    top = float(np.dot(points[brow, :2] - middle, -axes.down))
    height = float(np.clip(top * 0.95, 0.22 * axes.iod_px, 0.36 * axes.iod_px))
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    x, y = np.sign(c) * np.abs(c) ** 0.66, np.sign(s) * np.abs(s) ** 0.74
    x = x * (1.0 + 0.07 * np.clip(-y, 0, 1) - 0.05 * np.clip(y, 0, 1))  # wider at the top
    outline = middle + 1.66 * x[:, None] * u + (height * y)[:, None] * axes.down
    return outline, middle, u, middle + 1.72 * u - 0.42 * height * axes.down, height


def sunglasses(rgb: Array, points: Array, strength: float) -> Array:
    """Dark full-rim sunglasses; strength in [0, 1] is their opacity."""
    axes, shape = FaceAxes.of(points), rgb.shape[:2]
    unit = axes.iod_px
    left = _lens(points, 33, 133, 105, axes)
    right = _lens(points, 263, 362, 334, axes)
    inner = [middle - 1.6 * u - 0.35 * height * axes.down for _, middle, u, _, height in (left, right)]
    lenses = [left[0], right[0]]
    rims = fill(shape, [lens.mean(0) + 1.085 * (lens - lens.mean(0)) for lens in lenses], 0.35)
    bridge = np.stack([inner[0], (inner[0] + inner[1]) / 2 - 0.05 * unit * axes.down, inner[1]])
    arms = [bridge]
    for (_, _, _, outer, _), ear, seen in zip((left, right), (127, 356), side_weights(points), strict=True):
        if seen > 0.25:  # on the side turned away the lens hides it
            arms.append(np.stack([outer, points[ear, :2]]))
    frame = np.maximum(rims, polyline(shape, arms, 0.07 * unit))
    glass = fill(shape, lenses, 0.35)
    shadow = cv2.GaussianBlur(frame, (0, 0), 0.06 * unit)
    move = np.array([[1, 0, 0.05 * unit * axes.down[0]], [0, 1, 0.05 * unit * axes.down[1]]])
    shadow = cv2.warpAffine(shadow, move, shape[::-1])
    out = rgb * (1 - 0.28 * shadow[..., None])
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    centre = points[168, :2]
    along = ((xx - centre[0]) * axes.down[0] + (yy - centre[1]) * axes.down[1]) / unit
    across = ((xx - centre[0]) * axes.right[0] + (yy - centre[1]) * axes.right[1]) / unit
    # the rim's upper edge catches the light
    gleam = cv2.GaussianBlur(np.clip(frame - np.roll(frame, 1, 0), 0, 1), (0, 0), 0.6)
    body = _FRAME + 0.16 * gleam[..., None]
    tint = _GLASS * (1 + 1.5 * np.clip(along + 0.1, 0, 0.5))[..., None]
    stripe = np.exp(-(((across % 1.0 - 0.32 - 0.5 * along) / 0.075) ** 2)) * np.clip(0.25 - along, 0, 0.4)
    tint = tint + stripe[..., None] * _SKY
    out = out + frame[..., None] * (body - out)
    out = out + glass[..., None] * (0.97 * tint + 0.03 * rgb - out)
    return np.asarray(np.clip(rgb + strength * (out - rgb), 0, 1), np.float32)
