"""Pair generators that draw on a face through its mesh: sunglasses, smile folds, and the marks of age.

All pictures are float32 RGB (H, W, 3) in [0, 1]; `points` is the mesh (478, 2 or 3) in pixels of the picture. What is drawn follows the
mesh, so it turns and foreshortens with the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.recolour import recolour_hair
from mien.export.tiny.teachers import OVAL

_SUBPIXEL = 4  # fractional bits of cv2 drawing


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


def _fill(shape: tuple[int, int], polygons: list[Array], blur_px: float) -> Array:
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(polygon * 2**_SUBPIXEL).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL)
    soft = mask.astype(np.float32) / 255
    return np.asarray(cv2.GaussianBlur(soft, (0, 0), blur_px)) if blur_px > 0.2 else soft


def _stroke(shape: tuple[int, int], lines: list[Array], width_px: float, blur_px: float) -> Array:
    """Lines (n, 2) of a width that tapers to nothing at both ends, blurred."""
    canvas = np.zeros(shape, np.float32)
    for line in lines:
        dense = _smooth_curve(line, 24)
        taper = np.sin(np.linspace(0, np.pi, len(dense))) ** 0.7
        layer = np.zeros(shape, np.uint8)
        for p, t in zip(dense, taper, strict=True):
            radius = max(width_px * t / 2, 0.3)
            at = np.round(p * 2**_SUBPIXEL).astype(int)
            cv2.circle(
                layer,
                (int(at[0]), int(at[1])),
                int(radius * 2**_SUBPIXEL),
                int(255 * (0.3 + 0.7 * t)),
                -1,
                cv2.LINE_AA,
                _SUBPIXEL,
            )
        canvas = np.maximum(canvas, layer.astype(np.float32) / 255)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), blur_px))


def _smooth_curve(line: Array, n: int) -> Array:
    """A Catmull-Rom curve of n points through a polyline (k, 2)."""
    padded = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    at = np.linspace(0, len(line) - 1 - 1e-6, n)
    i, t = at.astype(int), (at % 1)[:, None]
    p0, p1, p2, p3 = (padded[i + k] for k in range(4))
    cubic = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(0.5 * cubic)


def sunglasses(rgb: Array, points: Array, strength: float) -> Array:
    """Dark full-rim sunglasses; strength in [0, 1] is their opacity."""
    axes, shape = FaceAxes.of(points), rgb.shape[:2]
    lenses, inner, outer = [], [], []
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    for outside, inside, brow in ((33, 133, 105), (263, 362, 334)):
        corner_out, corner_in = points[outside, :2], points[inside, :2]
        u = (corner_out - corner_in) / 2
        middle = (corner_out + corner_in) / 2 + 0.07 * axes.iod_px * axes.down + 0.06 * u
        top = float(np.dot(points[brow, :2] - middle, -axes.down))
        height = float(np.clip(top * 0.95, 0.2 * axes.iod_px, 0.34 * axes.iod_px))
        c, s = np.cos(angle), np.sin(angle)
        x, y = np.sign(c) * np.abs(c) ** 0.62, np.sign(s) * np.abs(s) ** 0.72
        x = x * (1.0 + 0.06 * (y < 0) * np.abs(y))  # wider at the top
        lens = middle + 1.66 * x[:, None] * u + (height * y)[:, None] * axes.down
        lenses.append(lens)
        inner.append(middle - 1.6 * u - 0.35 * height * axes.down)
        outer.append(middle + 1.72 * u - 0.42 * height * axes.down)
    rim = [m + 1.09 * (lens - m) for lens in lenses for m in [lens.mean(0)]]
    frame_width = 0.075 * axes.iod_px
    lines = [np.stack([inner[0], (inner[0] + inner[1]) / 2 - 0.05 * axes.iod_px * axes.down, inner[1]])]
    frame = np.zeros(shape, np.uint8)
    for line in [*lines, np.stack([outer[0], points[127, :2]]), np.stack([outer[1], points[356, :2]])]:
        pts = np.round(_smooth_curve(line, 16) * 2**_SUBPIXEL).astype(np.int32)
        cv2.polylines(frame, [pts], False, 255, max(1, round(frame_width)), cv2.LINE_AA, _SUBPIXEL)
    rims = np.maximum(_fill(shape, rim, 0.5), frame.astype(np.float32) / 255)
    glass = _fill(shape, lenses, 0.5)
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    centre = points[168, :2]
    along = ((xx - centre[0]) * axes.down[0] + (yy - centre[1]) * axes.down[1]) / axes.iod_px
    across = ((xx - centre[0]) * axes.right[0] + (yy - centre[1]) * axes.right[1]) / axes.iod_px
    tint = np.array([0.085, 0.075, 0.07], np.float32) * (1 + 1.6 * np.clip(along + 0.1, 0, 0.5))[..., None]
    gleam = np.exp(-(((across % 1.0 - 0.32 - 0.5 * along) / 0.07) ** 2)) * np.clip(0.25 - along, 0, 0.4)
    tint = tint + gleam[..., None] * np.array([0.22, 0.25, 0.3], np.float32)
    out = rgb + (rims * strength)[..., None] * (np.array([0.035, 0.033, 0.035], np.float32) - rgb)
    out = np.clip(out + (glass * strength)[..., None] * (0.94 * tint + 0.06 * rgb - out), 0, 1)
    return np.asarray(out, np.float32)


# Polylines over the mesh.
_FOLDS = ((198, 203, 206, 216), (420, 423, 426, 436))  # nose wing to outside the mouth corner
_CORNERS = ((61, 146), (291, 375))
_MARIONETTE = ((61, 204, 211), (291, 424, 431))
_CROWS = ((33, 226, 35), (263, 446, 265))
_UNDER_EYE = ((243, 231, 229, 228), (463, 451, 449, 448))
_FOREHEAD = ((68, 104, 69, 108, 151, 337, 299, 333, 298), (63, 69, 107, 9, 336, 299, 293))
_CHEEKS = (50, 280)


def _lines(points: Array, indices: tuple[tuple[int, ...], ...]) -> list[Array]:
    return [points[list(line), :2] for line in indices]


def _shade(rgb: Array, amount: Array) -> Array:
    """Multiply by 2**amount (H, W), red losing least, as a shadow on skin does."""
    return np.asarray(np.clip(rgb * np.exp2(amount[..., None] * np.array([0.85, 1.0, 1.05], np.float32)), 0, 1))


def smile_folds(rgb: Array, points: Array, strength: float) -> Array:
    """The shading a closed-mouth smile adds: folds beside the nose, lit cheeks, pouches under the eyes; strength in [-1, 1]."""
    axes, shape = FaceAxes.of(points), rgb.shape[:2]
    unit = axes.iod_px
    dark = 0.40 * _stroke(shape, _lines(points, _FOLDS), 0.05 * unit, 0.030 * unit)
    dark = dark + 0.30 * _stroke(shape, _lines(points, _UNDER_EYE), 0.04 * unit, 0.022 * unit)
    dark = dark + 0.30 * _stroke(shape, _lines(points, _CORNERS), 0.05 * unit, 0.03 * unit)
    light: Array = np.zeros(shape, np.float32)
    for cheek in _CHEEKS:
        x, y = points[cheek, :2]
        cv2.circle(light, (int(x), int(y)), max(1, int(0.16 * unit)), 1.0, -1)
    light = cv2.GaussianBlur(light, (0, 0), 0.11 * unit)
    if strength >= 0:
        return _shade(rgb, strength * (0.20 * light - dark))
    mouth = _stroke(shape, _lines(points, _MARIONETTE), 0.05 * unit, 0.03 * unit)
    return _shade(rgb, -strength * (0.12 * dark - 0.06 * light - 0.25 * mouth))


def age(rgb: Array, points: Array, hair: Array, person: Array, strength: float, rng: np.random.Generator) -> Array:
    """Older (strength > 0): lines, coarser and paler skin, greying hair. Younger (< 0): smooth, even, warmer skin. In [-1, 1]."""
    axes, shape = FaceAxes.of(points), rgb.shape[:2]
    unit = axes.iod_px
    skin = _fill(shape, [points[OVAL, :2]], 0.06 * unit) * person * (1 - hair)
    features = [
        points[list(ids), :2]
        for ids in ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380), (61, 37, 0, 267, 291, 314, 17, 84))
    ]
    skin = skin * (1 - np.clip(1.6 * _fill(shape, features, 0.04 * unit), 0, 1))
    coarse = cv2.GaussianBlur(rgb, (0, 0), 0.10 * unit)
    if strength < 0:
        smooth = cv2.bilateralFilter(rgb, 0, 0.10, 0.07 * unit)
        target: Array = coarse + 0.55 * (smooth - coarse)
        target = np.clip(target * np.array([1.05, 1.02, 1.01], np.float32) + 0.012, 0, 1)
        alpha = (-strength * skin)[..., None] * 0.9
        return np.asarray(rgb + alpha * (target - rgb), np.float32)
    fine = cv2.GaussianBlur(rgb, (0, 0), 0.006 * unit)
    detail = np.clip(fine - coarse, -0.2, 0.2).mean(2, keepdims=True)
    mottle: Array = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 0.05 * unit)
    mottle = mottle / (float(mottle.std()) + 1e-6)
    target = rgb + 0.75 * detail + 0.010 * mottle[..., None] * np.array([0.6, 1.0, 1.0], np.float32)
    grey = target.mean(2, keepdims=True)
    target = grey + 0.86 * (target - grey)
    out = rgb + (strength * skin)[..., None] * (target - rgb)
    wrinkles = 0.55 * _stroke(shape, _lines(points, _FOLDS + _MARIONETTE), 0.035 * unit, 0.020 * unit)
    wrinkles = wrinkles + 0.50 * _stroke(shape, _lines(points, _UNDER_EYE), 0.03 * unit, 0.018 * unit)
    wrinkles = wrinkles + 0.45 * _stroke(shape, _lines(points, _FOREHEAD), 0.022 * unit, 0.011 * unit)
    crows = [line + k * 0.06 * unit * axes.down for line in _lines(points, _CROWS) for k in (-0.6, 0.2, 1.0)]
    wrinkles = wrinkles + 0.40 * _stroke(shape, crows, 0.018 * unit, 0.010 * unit)
    lit = np.roll(wrinkles, max(1, round(0.02 * unit)), 0)  # a fold's lower lip catches the light
    out = _shade(out.astype(np.float32), strength * skin * (0.35 * lit - wrinkles))
    return recolour_hair(out, hair * (1 - 0.75 * skin), "grey", 0.75 * strength)
