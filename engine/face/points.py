"""The 68 landmarks (iBUG 300-W order, image-left first): their groups, the face's own frame of reference, and boxes
from points.

Everything here is arithmetic on (68, 2) arrays in luma pixels; angles are radians from +x towards +y (down).
"""

from __future__ import annotations

import math

import numpy as np

from mien.engine.types import Array

JAW = tuple(range(17))
LEFT_BROW, RIGHT_BROW = tuple(range(17, 22)), tuple(range(22, 27))
LEFT_EYE, RIGHT_EYE = tuple(range(36, 42)), tuple(range(42, 48))
OUTER_MOUTH, INNER_MOUTH = tuple(range(48, 60)), tuple(range(60, 68))
MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), *range(45, 41, -1), 47, 46,
    *range(39, 35, -1), 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
)  # fmt: skip
"""The landmark of the other half for each, itself on the middle line."""

Box = tuple[float, float, float, float]

# A landmark crop's side over the points' larger extent, as the landmark network was trained.
CROP_SIDE = 1.6
# The tight box of a detector over the box of the 68 points: forehead and ears, in heights and widths of the latter.
FOREHEAD, EARS = 0.29, 0.0


def eye_centres(points: Array) -> tuple[Array, Array]:
    """Centres of the image-left and the image-right eye, (2,) each."""
    return points[36:42].mean(0), points[42:48].mean(0)


def inter_ocular(points: Array) -> float:
    """Distance between the eye centres in pixels."""
    left, right = eye_centres(points)
    return float(math.hypot(*(right - left)))


def roll(points: Array) -> float:
    """Angle of the line from the image-left to the image-right eye."""
    left, right = eye_centres(points)
    return math.atan2(right[1] - left[1], right[0] - left[0])


def face_axes(points: Array) -> tuple[Array, Array]:
    """(2,) axes of the face in pixels: one unit to the face's right in the picture, one unit down.

    Sideways a unit is the inter-ocular distance, which shortens as the head turns and so foreshortens motions like the
    face itself. Downwards it is that of a frontal face, max(eyes, 0.9 eyes-to-mouth), the size by which FFHQ crops too.
    """
    left, right = eye_centres(points)
    eyes = right - left
    across = float(math.hypot(*eyes))
    down = (points[48] + points[54]) / 2 - (left + right) / 2
    unit = max(across, 0.9 * float(math.hypot(*down)))
    direction = eyes / max(across, 1e-6)
    return direction * across, np.array([-direction[1], direction[0]]) * unit


def face_box(points: Array, angle: float = 0.0) -> Box:
    """The tight box (x0, y0, x1, y1) a detector would give: the points' box, grown by the forehead, upright at
    `angle`.
    """
    c, s = math.cos(angle), math.sin(angle)
    upright = points @ np.array([[c, -s], [s, c]])
    (x0, y0), (x1, y1) = upright.min(0), upright.max(0)
    x0, x1, y0 = x0 - EARS * (x1 - x0), x1 + EARS * (x1 - x0), y0 - FOREHEAD * (y1 - y0)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ np.array([[c, s], [-s, c]])
    return (*map(float, corners.min(0)), *map(float, corners.max(0)))  # type: ignore[return-value]


def square_affine(centre: Array, side_px: float, angle: float, size: int) -> Array:
    """(2, 3) affine from pixels of a size x size crop to the frame: a square of that side around `centre`, turned by
    `angle`.
    """
    c, s = math.cos(angle) * side_px / size, math.sin(angle) * side_px / size
    linear = np.array([[c, -s], [s, c]])
    return np.concatenate([linear, (centre - linear @ np.full(2, (size - 1) / 2))[:, None]], 1)


def landmark_crop(points: Array, size: int) -> Array:
    """Affine of the landmark network's crop around known points: roll-aligned, 1.6 times their larger extent, centred
    on their box.
    """
    angle = roll(points)
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    upright = points @ turn
    low, high = upright.min(0), upright.max(0)
    return square_affine(turn @ ((low + high) / 2), CROP_SIDE * float((high - low).max()), angle, size)


def box_crop(box: Box, size: int, angle: float = 0.0) -> Array:
    """Affine of the landmark network's crop around a detector's box; angle: of the upright direction in the stored
    picture.
    """
    x0, y0, x1, y1 = box
    return square_affine(np.array([(x0 + x1) / 2, (y0 + y1) / 2]), CROP_SIDE * max(x1 - x0, y1 - y0), angle, size)


def transform(affine: Array, points: Array) -> Array:
    """Points (n, 2) through a (2, 3) affine."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def invert(affine: Array) -> Array:
    """The inverse of a (2, 3) affine."""
    linear = np.linalg.inv(affine[:, :2])
    return np.concatenate([linear, -(linear @ affine[:, 2])[:, None]], 1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def area(box: Box) -> float:
    """Area of a box in square pixels."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
