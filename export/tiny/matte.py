"""Masks of the teachers, refined against the picture: the hair's alpha, and where skin is.

All pictures are float32 RGB (H, W, 3) in [0, 1]; masks float32 (H, W) in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.strokes import BROWS, EYES, OUTER_LOWER, OUTER_UPPER, FaceAxes, face_skin, fill, lines_of, size_of
from mien.export.tiny.teachers import OVAL

_RADIUS = 7  # of the guided filter's window, at half the picture's size
_EPS = 2.5e-4


def _box(x: Array) -> Array:
    side = 2 * _RADIUS + 1
    return np.asarray(cv2.boxFilter(x, -1, (side, side), borderType=cv2.BORDER_REFLECT_101))


def guided(rgb: Array, mask: Array) -> Array:
    """The guided filter with a colour guide: `mask` as the locally linear function of the picture that fits it best."""
    height, width = mask.shape
    size = (width // 2, height // 2)
    guide = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    mean, mean_p = _box(guide), _box(small)
    cov_p = _box(guide * small[..., None]) - mean * mean_p[..., None]
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    products = np.stack([guide[..., i] * guide[..., j] for i, j in pairs], 2)
    second = np.concatenate([_box(products[..., :3]), _box(products[..., 3:])], 2)
    rr, rg, rb, gg, gb, bb = (second[..., k] - mean[..., i] * mean[..., j] for k, (i, j) in enumerate(pairs))
    rr, gg, bb = rr + _EPS, gg + _EPS, bb + _EPS
    # the symmetric 3x3 inverse, by cofactors
    c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c11, c12, c22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    det = rr * c00 + rg * c01 + rb * c02
    p, q, r = (cov_p[..., k] for k in range(3))
    slope = np.stack([c00 * p + c01 * q + c02 * r, c01 * p + c11 * q + c12 * r, c02 * p + c12 * q + c22 * r], 2)
    slope = slope / det[..., None]
    offset = mean_p - (slope * mean).sum(2)
    whole = (width, height)
    slope, offset = cv2.resize(_box(slope), whole), cv2.resize(_box(offset), whole)
    return np.asarray(np.clip((slope * rgb).sum(2) + offset, 0, 1), np.float32)


def hair_matte(rgb: Array, hair: Array) -> Array:
    """The hair's alpha: the teacher's mask drawn to the picture's edges, never far beyond it, and nothing where it doubts."""
    sure = np.clip((hair - 0.25) / 0.5, 0, 1)
    fine = np.clip((guided(rgb, sure) - 0.12) / 0.76, 0, 1)
    reach = cv2.GaussianBlur(cv2.dilate(sure, np.ones((7, 7), np.uint8)), (0, 0), 1.5)
    core = cv2.erode(sure, np.ones((9, 9), np.uint8))  # deep inside nothing but hair is expected
    return np.asarray(np.maximum(fine * reach, 0.85 * core), np.float32)


def skin_mask(rgb: Array, points: Array, hair: Array, person: Array) -> Array:
    """Skin of face, ears and neck, eyelids included, without eyes, lips and brows; `hair` is the matte."""
    axes, shape, unit = FaceAxes.of(points), rgb.shape[:2], size_of(points)
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), 1.0), cv2.COLOR_RGB2LAB)
    sample = face_skin(points, shape, hair, person) ** 2
    total = float(sample.sum()) + 1e-6
    mean = (lab * sample[..., None]).sum((0, 1)) / total
    spread = np.sqrt(((lab - mean) ** 2 * sample[..., None]).sum((0, 1)) / total)
    away = (lab - mean) / np.maximum(1.3 * spread, [14.0, 3.5, 4.5])
    away[..., 0] *= np.where(away[..., 0] < 0, 0.5, 0.8)  # shadow on a neck is skin still
    distance = (away**2).sum(2)
    oval = fill(shape, [points[OVAL, :2]], 0.05 * unit)
    outside = np.clip(1.9 - 0.35 * distance, 0, 1)
    inside = np.clip(2.6 - 0.12 * distance, 0, 1)
    jaw = points[[127, 234, 93, 132, 58, 172, 150, 152, 379, 397, 288, 361, 323, 454, 356], :2]
    centre = points[1, :2]
    wide = centre + 1.22 * (jaw - centre)  # the ears
    neck = jaw[4:11] + 1.0 * unit * axes.down
    brow = points[[103, 67, 10, 297, 332], :2] - 0.35 * unit * axes.down  # up to wherever the hair begins
    near = fill(shape, [cv2.convexHull(np.concatenate([wide, neck, brow]).astype(np.float32))[:, 0]], 0.12 * unit)
    likely = np.maximum(oval * inside, near * outside)
    likely = cv2.GaussianBlur(cv2.medianBlur((likely * 255).astype(np.uint8), 5).astype(np.float32) / 255, (0, 0), 1.2)
    lips = OUTER_UPPER + OUTER_LOWER[::-1]
    holes = np.maximum(fill(shape, lines_of(points, (*EYES, lips)), 0.02 * unit), 0.7 * brow_mask(rgb, points))
    body = np.clip((person - 0.3) / 0.4, 0, 1)
    return np.asarray(likely * body * (1 - hair) * (1 - np.clip(1.3 * holes, 0, 1)), np.float32)


def brow_mask(rgb: Array, points: Array) -> Array:
    """The brows' hairs: what is darker than its surroundings inside the brows' outlines."""
    unit = size_of(points)
    outline = fill(
        rgb.shape[:2], [cv2.convexHull(b.astype(np.float32))[:, 0] for b in lines_of(points, BROWS)], 0.03 * unit
    )
    luma = rgb.mean(2)
    around = cv2.GaussianBlur(luma, (0, 0), 0.18 * unit)
    return np.asarray(
        np.clip(1.5 * outline, 0, 1) * np.clip((around - luma) / (0.25 * around + 0.02), 0, 1), np.float32
    )
