"""What the pair generators draw with: the face's axes, soft polygons, tapering strokes, and shading.

All pictures are float32 RGB (H, W, 3) in [0, 1]; `points` is the mesh (478, 2 or 3) in pixels of the picture. What is drawn follows the
mesh, so it turns and foreshortens with the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.face.smooth import smooth_curve
from mien.engine.types import Array
from mien.export.tiny.teachers import OVAL

_SUBPIXEL = 4  # fractional bits of cv2 drawing

# The eyes' openings and the lips, as rings of the mesh; the lips' arcs run from the image-left corner to the right one.
EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
# Between the corners, from the outer edge of a lip to its inner one.
UPPER_LIP = (
    *OUTER_UPPER[1:-1], 184, 74, 73, 72, 11, 302, 303, 304, 408, 183, 42, 41, 38, 12, 268, 271, 272, 407, *INNER_UPPER[1:-1],
)  # fmt: skip
LOWER_LIP = (
    *OUTER_LOWER[1:-1], 77, 90, 180, 85, 16, 315, 404, 320, 307, 96, 89, 179, 86, 15, 316, 403, 319, 325, *INNER_LOWER[1:-1],
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FaceAxes:
    """Inter-ocular distance in pixels, and unit vectors to the picture's right and down along the face."""

    iod_px: float
    right: Array
    down: Array

    @classmethod
    def of(cls, points: Array) -> FaceAxes:
        """Axes of a mesh."""
        left, right = points[[33, 133], :2].mean(0), points[[263, 362], :2].mean(0)
        across = right - left
        iod = float(np.hypot(*across))
        unit = across / iod
        return cls(iod, unit, np.array([-unit[1], unit[0]]))


def size_of(points: Array) -> float:
    """The inter-ocular distance of a frontal face, in pixels: as the eyes say or, where the head is turned, as the oval's height says."""
    axes = FaceAxes.of(points)
    return max(axes.iod_px, 0.46 * float(np.hypot(*(points[10, :2] - points[152, :2]))))


def fill(shape: tuple[int, int], polygons: list[Array], blur_px: float) -> Array:
    """Polygons (n, 2) united, antialiased, blurred; (H, W) in [0, 1]."""
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(polygon * 2**_SUBPIXEL).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL)
    soft = mask.astype(np.float32) / 255
    return np.asarray(cv2.GaussianBlur(soft, (0, 0), blur_px)) if blur_px > 0.2 else soft


def stroke(shape: tuple[int, int], lines: list[Array], width_px: float, blur_px: float) -> Array:
    """Curves that taper to nothing at both ends, blurred."""
    layer = np.zeros(shape, np.uint8)
    for line in lines:
        dense = smooth_curve(line, max(16, int(np.hypot(*np.diff(line, axis=0).T).sum() / 1.5)))
        taper = np.sin(np.linspace(0, np.pi, len(dense))) ** 0.7
        order = np.argsort(taper, kind="stable")  # the strong middle over the weak ends
        for p, t in zip(dense[order], taper[order], strict=True):
            radius = max(width_px * t / 2, 0.3)
            x, y = (int(v) for v in np.round(p * 2**_SUBPIXEL))
            value = int(255 * (0.15 + 0.85 * t))
            cv2.circle(layer, (x, y), int(radius * 2**_SUBPIXEL), value, -1, cv2.LINE_AA, _SUBPIXEL)
    return np.asarray(cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), blur_px))


def lines_of(points: Array, indices: tuple[tuple[int, ...], ...]) -> list[Array]:
    """Polylines (k, 2) over the mesh."""
    return [points[list(line), :2] for line in indices]


def spot(shape: tuple[int, int], centre: Array, radius_px: float) -> Array:
    """A Gaussian of peak 1 around a point."""
    x = np.exp(-0.5 * ((np.arange(shape[1]) - centre[0]) / radius_px) ** 2)
    y = np.exp(-0.5 * ((np.arange(shape[0]) - centre[1]) / radius_px) ** 2)
    return np.asarray(np.outer(y, x), np.float32)


def shade(rgb: Array, amount: Array) -> Array:
    """Multiply by 2**amount (H, W), red losing least, as a shadow on skin does."""
    factor = np.exp2(amount[..., None] * np.array([0.85, 1.0, 1.05], np.float32))
    return np.asarray(np.clip(rgb * factor, 0, 1), np.float32)


def side_weights(points: Array) -> tuple[float, float]:
    """How much of the image-left and the image-right half of the face is seen, 1 on a frontal one: marks fade on the side turned away."""
    nose = points[168, :2]
    left, right = (float(np.hypot(*(points[k, :2] - nose))) for k in (234, 454))
    total = 0.5 * (left + right)
    return tuple(float(np.clip(side / total * 1.6 - 0.5, 0, 1)) for side in (left, right))  # type: ignore[return-value]


def face_skin(points: Array, shape: tuple[int, int], hair: Array, person: Array) -> Array:
    """Soft mask of the face's skin: its oval without hair, eyes and lips."""
    unit = size_of(points)
    skin = fill(shape, [points[OVAL, :2]], 0.05 * unit) * person * (1 - hair)
    features = fill(shape, lines_of(points, (*EYES, OUTER_UPPER + OUTER_LOWER[::-1])), 0.035 * unit)
    return np.asarray(skin * (1 - np.clip(1.6 * features, 0, 1)))
