"""Pair generators: the shading of a smile and the marks of age. Pictures and points as in strokes.py."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.matte import hair_matte
from mien.export.tiny.recolour import recolour_matte
from mien.export.tiny.strokes import FaceAxes, face_skin, lines_of, shade, side_weights, size_of, spot, stroke

# Polylines over the mesh, image-left then image-right.
_FOLDS = ((198, 203, 206, 216), (420, 423, 426, 436))  # nose wing to outside the mouth corner
_CORNERS = ((61, 146), (291, 375))
_MARIONETTE = ((61, 204, 211), (291, 424, 431))
_CROWS = ((33, 226, 35), (263, 446, 265))
_UNDER_EYE = ((243, 231, 229, 228), (463, 451, 449, 448))
_BAGS = ((232, 230, 229, 118), (452, 450, 449, 347))
_FOREHEAD = (
    (68, 104, 69, 108, 151, 337, 299, 333, 298),
    (63, 69, 107, 9, 336, 299, 293),
    (71, 54, 109, 10, 338, 284, 301),
)
_FROWN = ((107, 55, 193), (336, 285, 417))
_CHEEKS = (50, 280)
_JOWLS = (170, 395)


def _both(
    points: Array, pair: tuple[tuple[int, ...], ...], width_px: float, blur_px: float, shape: tuple[int, int]
) -> Array:
    """Strokes of both halves of the face, each as strong as its half is seen."""
    layers = [
        w * stroke(shape, lines_of(points, (line,)), width_px, blur_px)
        for line, w in zip(pair, side_weights(points), strict=True)
        if w > 0
    ]
    return np.asarray(np.maximum.reduce(layers))


def smile_folds(rgb: Array, points: Array, strength: float) -> Array:
    """The shading a closed-mouth smile adds: folds beside the nose, lit cheeks, pouches under the eyes; strength in [-1, 1]."""
    axes, shape = FaceAxes.of(points), rgb.shape[:2]
    unit = size_of(points)
    seen = side_weights(points)
    cheeks = sum(
        w * spot(shape, points[k, :2] - 0.02 * unit * axes.down, 0.15 * unit)
        for k, w in zip(_CHEEKS, seen, strict=True)
    )
    folds = _both(points, _FOLDS, 0.05 * unit, 0.030 * unit, shape)
    if strength < 0:
        mouth = _both(points, _MARIONETTE, 0.05 * unit, 0.03 * unit, shape)
        return shade(rgb, -strength * (0.08 * folds - 0.06 * np.asarray(cheeks) - 0.25 * mouth))
    pouch = _both(points, _UNDER_EYE, 0.04 * unit, 0.022 * unit, shape)
    corners = _both(points, _CORNERS, 0.05 * unit, 0.028 * unit, shape)
    crows = [line + k * 0.07 * unit * axes.down for line in lines_of(points, _CROWS) for k in (0.1, 0.9)]
    wrinkles = stroke(shape, crows, 0.02 * unit, 0.014 * unit)
    raised = np.roll(folds, -max(1, round(0.045 * unit)), 0)  # the cheek swells above its fold
    light = 0.18 * np.asarray(cheeks) + 0.10 * raised
    return shade(rgb, strength * (light - 0.32 * folds - 0.24 * pouch - 0.28 * corners - 0.14 * wrinkles))


def age(rgb: Array, points: Array, hair: Array, person: Array, strength: float, rng: np.random.Generator) -> Array:
    """Older (strength > 0): lines, pouches, uneven skin, greying hair. Younger (< 0): smooth, even, warmer skin. In [-1, 1]."""
    alpha = hair_matte(rgb, hair)
    skin = face_skin(points, (rgb.shape[0], rgb.shape[1]), alpha, person)
    if strength < 0:
        return _younger(rgb, points, skin, -strength)
    return recolour_matte(_older(rgb, points, skin, strength, rng), alpha, "hair_grey", 0.8 * strength)


def _younger(rgb: Array, points: Array, skin: Array, strength: float) -> Array:
    """Skin without what lies between pores and features: lines and blotches go, grain and form stay."""
    unit, shape = size_of(points), skin.shape
    coarse = cv2.GaussianBlur(rgb, (0, 0), 0.11 * unit)
    fine = cv2.GaussianBlur(rgb, (0, 0), 0.012 * unit)
    band = fine - coarse
    edge = np.clip(1.5 - np.abs(band).max(2, keepdims=True) / 0.16, 0, 1)  # nostrils, glasses and strands stay
    keep = np.where(band < 0, 0.32, 0.5)
    lift = 0.14 * _both(points, _FOLDS, 0.06 * unit, 0.035 * unit, shape) + 0.12 * _both(
        points, _UNDER_EYE, 0.06 * unit, 0.035 * unit, shape
    )
    target = shade(np.clip(rgb - (1 - keep) * edge * band, 0, 1).astype(np.float32), lift)
    target = np.clip(target * np.array([1.045, 1.015, 1.005], np.float32) + 0.008, 0, 1)
    return np.asarray(rgb + (strength * 0.95 * skin)[..., None] * (target - rgb), np.float32)


def _older(rgb: Array, points: Array, skin: Array, strength: float, rng: np.random.Generator) -> Array:
    axes, shape, unit = FaceAxes.of(points), skin.shape, size_of(points)
    coarse = cv2.GaussianBlur(rgb, (0, 0), 0.10 * unit)
    fine = cv2.GaussianBlur(rgb, (0, 0), 0.008 * unit)
    detail = (fine - coarse).mean(2)
    rough = float(np.sqrt((detail**2 * skin).sum() / (skin.sum() + 1e-6)))
    # an old face has its lines already: it gains few, and no more contrast than skin can have
    fresh = float(np.clip(0.035 / (rough + 1e-4), 0.35, 1.0))
    detail = 0.06 * np.tanh(detail / 0.06)
    mottle: Array = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 0.05 * unit)
    mottle = mottle / (float(mottle.std()) + 1e-6)
    target = rgb + (0.6 * fresh * detail)[..., None] + 0.006 * mottle[..., None] * np.array([0.6, 1.0, 1.0], np.float32)
    grey = target.mean(2, keepdims=True)
    target = (grey + 0.86 * (target - grey)) * np.array([0.985, 0.975, 0.96], np.float32)
    out = rgb + (strength * skin)[..., None] * (target - rgb)
    lines = 0.55 * _both(points, _FOLDS, 0.032 * unit, 0.020 * unit, shape)
    lines = lines + 0.42 * _both(points, _MARIONETTE, 0.028 * unit, 0.020 * unit, shape)
    lines = lines + 0.40 * _both(points, _UNDER_EYE, 0.03 * unit, 0.018 * unit, shape)
    lines = lines + 0.26 * _both(points, _BAGS, 0.05 * unit, 0.03 * unit, shape)
    lines = lines + 0.30 * stroke(shape, lines_of(points, _FOREHEAD), 0.020 * unit, 0.012 * unit)
    lines = lines + 0.30 * stroke(shape, lines_of(points, _FROWN), 0.018 * unit, 0.012 * unit)
    crows = [line + k * 0.06 * unit * axes.down for line in lines_of(points, _CROWS) for k in (-0.6, 0.2, 1.0)]
    lines = lines + 0.34 * stroke(shape, crows, 0.016 * unit, 0.010 * unit)
    lit = np.roll(lines, max(1, round(0.024 * unit)), 0)  # a fold's lower lip catches the light
    jowls = sum(w * spot(shape, points[k, :2], 0.10 * unit) for k, w in zip(_JOWLS, side_weights(points), strict=True))
    hollow = sum(
        w * spot(shape, points[k, :2], 0.13 * unit) for k, w in zip((187, 411), side_weights(points), strict=True)
    )
    depth = 0.45 + 0.55 * fresh
    amount = depth * (0.40 * lit - lines - 0.16 * np.asarray(hollow) + 0.05 * np.asarray(jowls))
    return shade(out.astype(np.float32), strength * skin * amount)
