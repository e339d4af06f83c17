"""Pair generator: the inside of a mouth that a landmark template has opened. Pictures and points as in strokes.py."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.strokes import INNER_LOWER, INNER_UPPER, OUTER_LOWER, OUTER_UPPER, FaceAxes, size_of, smooth_curve
from mien.export.tiny.teachers import OVAL

# Gaps between the lips, in inter-ocular distances: up to the first they count as closed, from the second on the mouth is open
# already and its own inside stays, beyond the third nothing is drawn.
CLOSED, PARTED, OPEN = 0.04, 0.08, 0.30
_CAVITY = np.array([0.13, 0.035, 0.035], np.float32)
_TONGUE = np.array([0.50, 0.22, 0.21], np.float32)
_TEETH = np.array([0.79, 0.75, 0.68], np.float32)
_SKIN = np.array([1.24, 0.95, 0.81], np.float32)  # of common skin in white light, over its mean


def lip_gap(points: Array) -> float:
    """Distance between the inner lips in inter-ocular distances."""
    return float(np.hypot(*(points[13, :2] - points[14, :2]))) / size_of(points)


def mouth_interior(rgb: Array, plain: Array, closed: Array, points: Array, strength: float) -> Array:
    """The cavity, the upper teeth and the tongue in the gap between the inner lips.

    rgb, points: picture and mesh after the motion; plain, closed: before it. The warp stretches the lips where they touch; each lip
    keeps its thickness at the outer edge's new place, and what lies between them is the mouth. Of a mouth that was parted what it
    showed hangs on, unstretched, from the upper lip.
    """
    parted = lip_gap(closed)
    drawn = float(np.clip((OPEN - parted) / (0.3 * OPEN), 0, 1))
    if strength <= 0 or drawn == 0:
        return rgb
    axes, unit = FaceAxes.of(points), size_of(points)
    frame = np.stack([axes.right, axes.down], 1)
    origin = points[13, :2]
    arcs = []
    for outer, inner in ((OUTER_UPPER, INNER_UPPER), (OUTER_LOWER, INNER_LOWER)):
        o, i = list(outer), list(inner)
        lip = (points[o, :2] + closed[i, :2] - closed[o, :2] - origin) @ frame
        arcs.append(smooth_curve(lip, 48))
    x0, x1 = max(a[0, 0] for a in arcs), min(a[-1, 0] for a in arcs)
    height, width = rgb.shape[:2]
    yy, xx = np.mgrid[:height, :width].astype(np.float32)
    across = (xx - origin[0]) * axes.right[0] + (yy - origin[1]) * axes.right[1]
    along = (xx - origin[0]) * axes.down[0] + (yy - origin[1]) * axes.down[1]
    order = [np.argsort(a[:, 0]) for a in arcs]
    top, bottom = (np.interp(across, a[s, 0], a[s, 1]).astype(np.float32) for a, s in zip(arcs, order, strict=True))
    t = np.clip((across - x0) / max(float(x1 - x0), 1e-3), 0, 1)
    taper = np.clip(np.minimum(t, 1 - t) / 0.12, 0, 1)
    gap = (bottom - top) * taper * (2 - taper)
    middle = 0.5 * (top + bottom)
    top, bottom = middle - 0.5 * gap, middle + 0.5 * gap
    opening = float(gap.max())
    if opening < 0.5:
        return rgb
    soft = 0.9
    inside = (
        _step(along - top, soft) * _step(bottom - along, soft) * _step(across - x0, soft) * _step(x1 - across, soft)
    )
    inside = inside * np.clip(gap / (0.03 * unit), 0, 1)
    depth = (along - top) / np.maximum(gap, 1.0)
    skin = rgb[_oval_rows(points, height), _oval_columns(points, width)].mean((0, 1))
    # the light's strength and, by half, its colour, as the skin shows them
    tint = np.clip(skin / (skin.mean() + 1e-3) / _SKIN, 0.6, 1.5) ** 0.5
    light = np.asarray(np.clip(skin.mean() / 0.52, 0.35, 1.15) * tint, np.float32)
    colour = np.broadcast_to(_CAVITY, rgb.shape) * (0.6 + 0.7 * np.clip(depth, 0, 1))[..., None]
    side = (t - 0.5) * 2
    tongue = (
        np.clip(1.25 - (side / 0.62) ** 2, 0, 1)
        * np.clip((depth - 0.52) / 0.30, 0, 1)
        * min(1.0, opening / (0.16 * unit))
    )
    colour = colour + (0.75 * tongue * (1 - 0.10 * np.exp(-((side / 0.05) ** 2))))[..., None] * (_TONGUE - colour)
    cavity = colour * light
    # teeth: a row under the upper lip, as far as the opening shows it; darker to the sides as the arch recedes
    length = min(0.52 * opening, 0.105 * unit)
    arch = np.clip(1 - (np.abs(side) / 0.86) ** 2.6, 0, 1)
    pitch = 0.085 * unit
    phase = (across - 0.5 * (x0 + x1)) / (pitch * (1 - 0.22 * np.abs(side)))
    scallop = 1 - 0.10 * np.abs(2 * (phase - np.floor(phase)) - 1) ** 4
    teeth = _step(length * arch**0.5 * scallop - (along - top), 0.8) * np.clip(arch * 3, 0, 1)
    between = np.exp(-(((phase - np.round(phase)) / 0.07) ** 2))
    enamel = _TEETH * ((0.38 + 0.62 * arch) * (1 - 0.22 * between))[..., None]
    colour = colour + (0.95 * teeth)[..., None] * (enamel - colour)
    # the upper lip's shadow
    colour = colour * (1 - 0.55 * np.exp(-np.clip(along - top, 0, None) / (0.028 * unit)))[..., None]
    colour = cv2.GaussianBlur((colour * light).astype(np.float32), (0, 0), 0.5)
    shown = float(np.clip((parted - CLOSED) / (PARTED - CLOSED), 0, 1))
    if shown > 0:
        before = (closed[list(INNER_LOWER), :2] - origin) @ frame
        before = before[np.argsort(before[:, 0])]
        edge = np.interp(across, before[:, 0], before[:, 1]).astype(np.float32) - 0.008 * unit
        own = _step(edge - along, 1.2)[..., None] * (plain - cavity) + cavity
        colour = colour + shown * (own - colour)
    return np.asarray(np.clip(rgb + (drawn * inside)[..., None] * (colour - rgb), 0, 1), np.float32)


def _step(distance_px: Array, soft_px: float) -> Array:
    return np.asarray(np.clip(0.5 + distance_px / (2 * soft_px), 0, 1))


def _oval_rows(points: Array, height: int) -> slice:
    low, high = points[OVAL, 1].min(), points[OVAL, 1].max()
    return slice(max(0, int(0.6 * low + 0.4 * high)), max(1, min(height, int(0.4 * low + 0.6 * high))))


def _oval_columns(points: Array, width: int) -> slice:
    low, high = points[OVAL, 0].min(), points[OVAL, 0].max()
    return slice(max(0, int(0.75 * low + 0.25 * high)), max(1, min(width, int(0.25 * low + 0.75 * high))))
