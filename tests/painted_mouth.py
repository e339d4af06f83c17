"""A painted mouth in a crop, closed or parted, for the tests of what moves it."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.face.face_motion import FaceMotion, MotionPlan, face_motion
from mien.engine.face.seam import INNER_LOWER, INNER_UPPER
from mien.engine.face.warp import Motions
from mien.engine.types import Array

SIZE = 256
ONES = np.ones((SIZE, SIZE), np.float32)
SKIN, UPPER, LOWER, OWN = (0.5, 0.3, 0.1), (0.6, -0.4, -0.4), (0.2, -0.6, 0.2), (-0.6, -0.4, 0.8)


def mouth(face: Array, gap_px: float = 0.0) -> Array:
    """The face in crop pixels, with its inner lips so far apart and straight."""
    points = face - [160.0, 110.0] + [128.0, 110.0]
    x = np.linspace(points[60, 0], points[64, 0], 5)
    for line, y in ((INNER_UPPER, 0.0), (INNER_LOWER, gap_px)):
        points[list(line[1:-1])] = np.stack([x, points[[60, 64], 1].mean() + y * np.array([0, 1, 1, 1, 0])], 1)
    return np.asarray(points)


def painted(points: Array) -> Array:
    """A crop (3, S, S) with lips of different colours, a dark line where they meet; OWN between them where they do not."""
    picture = np.full((SIZE, SIZE, 3), SKIN, np.float32)
    for ring, colour in (
        ((*range(48, 55), 64, 63, 62, 61, 60), UPPER),
        ((*range(54, 60), 48, 60, 67, 66, 65, 64), LOWER),
        ((60, 61, 62, 63, 64, 65, 66, 67), OWN),
    ):
        outline = [np.round(points[list(ring)] * 16).astype(np.int32)]
        if np.ptp(points[list(ring), 1]) > 1:
            cv2.fillPoly(picture, outline, colour, shift=4)
    if points[66, 1] - points[62, 1] < 1:
        y = round(points[62, 1])
        picture[y : y + 1, round(points[60, 0]) : round(points[64, 0])] = -0.9
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def rows_of(crop: Array, colour: tuple[float, float, float], x: float) -> Array:
    """The rows of a column that show a colour."""
    return np.flatnonzero(np.abs(crop[:, :, round(x)].T - np.array(colour)).max(1) < 0.35)


def moved(motions: Motions, points: Array, crop: Array, support: Array = ONES) -> FaceMotion:
    """What motions that part the lips make of it."""
    motion = face_motion(MotionPlan(motions, parts_lips=True), points, crop, support, 1.0, lambda _, value: value)
    assert motion is not None
    return motion
