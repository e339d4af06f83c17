"""Condition pictures for a ControlNet, drawn from an aligned crop or from the 68 landmarks in it: (3, S, S) float32 in [0, 1].

Lines are as wide as the published annotators draw them at 512 px, and scale with the crop.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from mien.engine.errors import EditError
from mien.engine.face.points import INNER_MOUTH, JAW, LEFT_BROW, LEFT_EYE, OUTER_MOUTH, RIGHT_BROW, RIGHT_EYE, face_axes
from mien.engine.spec import nearest
from mien.engine.types import Array

CANNY_LOW, CANNY_HIGH = 100, 200
REFERENCE_PX = 512
# RGB of the MediaPipe annotation on which the face ControlNet was trained, by the person's own right and left.
OVAL, LIPS = (10, 200, 10), (10, 180, 10)
RIGHT_EYE_RGB, RIGHT_BROW_RGB, RIGHT_PUPIL_RGB = (180, 200, 10), (180, 220, 10), (250, 200, 10)
LEFT_EYE_RGB, LEFT_BROW_RGB, LEFT_PUPIL_RGB = (10, 200, 180), (10, 220, 180), (10, 200, 250)
FOREHEAD = 0.85  # how far the oval's top lies above the brows, in units of the face's own height
_FRACTION = 4  # bits of subpixel precision


def canny(crop: Array, points: Array) -> Array:
    """White Canny edges on black, thresholds 100 and 200 (Zhang et al. 2023), of a crop (3, S, S) in [-1, 1]."""
    rgb = np.clip((crop.transpose(1, 2, 0) + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    edges = cv2.Canny(np.ascontiguousarray(rgb), CANNY_LOW, CANNY_HIGH)
    return np.repeat(edges[None].astype(np.float32) / np.float32(255), 3, 0)


def landmarks(crop: Array, points: Array) -> Array:
    """The 68 points (68, 2) in crop pixels drawn as the MediaPipe face annotation: lines on black in its colours.

    The mesh's oval goes round the forehead, which the 68 points do not have: its top is an arc above the brows.
    """
    size = crop.shape[-1]
    canvas = np.zeros((size, size, 3), np.uint8)
    _, down = face_axes(points)
    brows = points[[*RIGHT_BROW[::-1], *LEFT_BROW[::-1]]]
    rise = FOREHEAD * np.sin(np.linspace(0.25, np.pi - 0.25, len(brows)))[:, None]
    _line(canvas, np.concatenate([points[list(JAW)], brows - rise * down]), OVAL, closed=True)
    for group, colour in (
        (OUTER_MOUTH, LIPS),
        (INNER_MOUTH, LIPS),
        (LEFT_EYE, RIGHT_EYE_RGB),
        (RIGHT_EYE, LEFT_EYE_RGB),
    ):
        _line(canvas, points[list(group)], colour, closed=True)
    for group, colour in ((LEFT_BROW, RIGHT_BROW_RGB), (RIGHT_BROW, LEFT_BROW_RGB)):
        _line(canvas, points[list(group)], colour, closed=False)
    half = 2 * size / REFERENCE_PX
    for group, colour in ((LEFT_EYE, RIGHT_PUPIL_RGB), (RIGHT_EYE, LEFT_PUPIL_RGB)):
        x, y = points[list(group)].mean(0)
        low, high = (tuple(round(v + s * half) for v in (x, y)) for s in (-1, 1))
        cv2.rectangle(canvas, low, (high[0] - 1, high[1] - 1), colour, -1)
    return _picture(canvas)


def openpose_face(crop: Array, points: Array) -> Array:
    """The 68 points and both pupils as white dots on black, as OpenPose's face annotation has them."""
    size = crop.shape[-1]
    canvas = np.zeros((size, size, 3), np.uint8)
    radius = max(1, round(3 * size / REFERENCE_PX))
    for x, y in np.concatenate([points, points[36:42].mean(0)[None], points[42:48].mean(0)[None]]):
        at = (round(x * (1 << _FRACTION)), round(y * (1 << _FRACTION)))
        cv2.circle(canvas, at, radius << _FRACTION, (255, 255, 255), -1, cv2.LINE_AA, _FRACTION)
    return _picture(canvas)


CONTROLS: dict[str, Callable[[Array, Array], Array]] = {
    "canny": canny,
    "landmarks": landmarks,
    "openpose_face": openpose_face,
}


def control_picture(kind: str, crop: Array, points: Array) -> Array:
    """The condition picture of a kind. Raises EditError for one that does not exist."""
    if kind not in CONTROLS:
        raise EditError(f"unknown control {kind!r}{nearest(kind, CONTROLS)}; accepted: {', '.join(CONTROLS)}")
    return CONTROLS[kind](crop, points)


def _line(canvas: Array, points: Array, colour: tuple[int, int, int], *, closed: bool) -> None:
    width = max(1, round(2 * canvas.shape[0] / REFERENCE_PX))
    path = np.round(points * (1 << _FRACTION)).astype(np.int32)
    cv2.polylines(canvas, [path], closed, colour, width, cv2.LINE_AA, _FRACTION)


def _picture(canvas: Array) -> Array:
    return np.ascontiguousarray(canvas.transpose(2, 0, 1), np.float32) / np.float32(255)
