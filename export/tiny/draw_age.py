"""Pair generators: the shading of a smile and the marks of age. Pictures and points as in strokes.py."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.face_marks import (
    BAG_RIMS,
    BAGS,
    CHEEKS,
    CORNERS,
    CREASES,
    CROWS,
    FOLDS,
    FORMS,
    LIDS,
    MARIONETTE,
    SPOTS,
    Canvas,
)
from mien.export.tiny.matte import brow_mask, hair_matte, skin_mask
from mien.export.tiny.strokes import EYES, INNER_LOWER, INNER_UPPER, OUTER_LOWER, OUTER_UPPER, fill, lines_of, shade


def smile_folds(rgb: Array, points: Array, strength: float) -> Array:
    """The shading a closed-mouth smile adds: folds beside the nose, lit cheeks, pouches under the eyes; strength in [-1, 1]."""
    face = Canvas.of(points, (rgb.shape[0], rgb.shape[1]))
    up = face.axes.down * -face.unit
    cheeks = sum(face.spot(points[k, :2] + 0.02 * up, 0.16) for k in CHEEKS)
    if strength < 0:
        folds, mouth = face.draw(FOLDS, 0.07), face.draw(MARIONETTE, 0.07)
        return shade(rgb, -strength * (0.10 * folds - 0.08 * np.asarray(cheeks) - 0.34 * mouth))
    folds = face.draw(FOLDS, 0.055)
    raised = face.draw(FOLDS, 0.09, 0.08, -0.04)  # the cheek swells above its fold
    pouch, rim = face.draw(BAGS, 0.06, 0.0, -0.02), face.draw(BAG_RIMS, 0.05)
    dimples = face.draw(CORNERS, 0.06, 0.04, 0.0)
    crows = face.draw(CROWS[1:3] + CROWS[4:], 0.038)
    light = _headroom(rgb) * (0.19 * np.asarray(cheeks) + 0.20 * raised + 0.15 * pouch)
    return shade(rgb, strength * (light - 0.62 * folds - 0.26 * rim - 0.52 * dimples - 0.22 * crows))


def age(rgb: Array, points: Array, hair: Array, person: Array, strength: float, rng: np.random.Generator) -> Array:
    """Older (strength > 0): lines, pouches, hollows, uneven skin, greying brows. Younger (< 0): smooth, even skin, full lips.

    In [-1, 1]. The hair stays: its grey is an edit of its own, and beside it a loss hardly sees the lines of the skin.
    """
    alpha = hair_matte(rgb, hair)
    skin = _without_lenses(rgb, skin_mask(rgb, points, alpha, person))
    face = Canvas.of(points, (rgb.shape[0], rgb.shape[1]))
    target = _younger(rgb, face, skin) if strength < 0 else _older(rgb, face, skin, alpha, rng)
    return np.asarray(rgb + abs(strength) * (target - rgb), np.float32)


def _headroom(rgb: Array) -> Array:
    """How much light a place can gain before it burns out; (H, W) in [0.15, 1]."""
    brightest = cv2.GaussianBlur(rgb.max(2), (0, 0), 2.0)
    return np.asarray(np.clip((1.05 - brightest) / 0.35, 0.15, 1))


def _without_lenses(rgb: Array, skin: Array) -> Array:
    """A mask of skin without what is far too dark to be it, as dark glasses are."""
    luma = cv2.GaussianBlur(rgb.mean(2), (0, 0), 1.0)
    usual = float((luma * skin).sum() / (skin.sum() + 1e-6))
    return np.asarray(skin * np.clip(luma / (usual + 1e-6) / 0.15 - 1, 0, 1), np.float32)


def _around(rgb: Array, skin: Array, sigma_px: float) -> Array:
    """The mean skin around every pixel, blind for what is no skin."""
    weight = skin**2 + 1e-4
    blurred = cv2.GaussianBlur(np.dstack([rgb * weight[..., None], weight]), (0, 0), sigma_px)
    return np.asarray(blurred[..., :3] / blurred[..., 3:], np.float32)


def _lips(face: Canvas, grow: float) -> Array:
    """Soft mask of the lips, their outer edge moved away from (grow > 0) or towards the line between them by a part of their height."""
    rings = []
    for outer, inner in ((OUTER_UPPER, INNER_UPPER), (OUTER_LOWER, INNER_LOWER)):
        edge, line = face.points[list(outer), :2], face.points[list(inner), :2]
        rings.append(np.concatenate([edge + grow * (edge - line), line[::-1]]))
    return fill(face.shape, rings, 0.018 * face.unit)


def _younger(rgb: Array, face: Canvas, skin: Array) -> Array:
    """Lines and blotches go, grain and form stay; lighter under the eyes, fuller lips."""
    unit = face.unit
    fine = cv2.GaussianBlur(rgb, (0, 0), 0.012 * unit)
    band = fine - _around(rgb, skin, 0.13 * unit)
    edge = np.clip(2.0 - np.abs(band).max(2, keepdims=True) / 0.15, 0, 1)  # nostrils, glasses and strands stay
    zones = np.maximum.reduce(
        [face.draw(c.lines, 0.16) for c in CREASES if c.lines is not LIDS] + [face.forehead(0.16)[0]]
    )
    share = np.where(band < 0, 0.72 + 0.25 * np.clip(zones, 0, 1)[..., None], 0.55)
    form = 1 - 0.8 * face.spot(face.points[1, :2], 0.17)  # the nose is no blotch
    eyes = fill(face.shape, lines_of(face.points, EYES), 0.05 * unit)
    form = form * skin * (1 - np.clip(3 * eyes, 0, 1))
    target = rgb - share * edge * form[..., None] * band
    glow = sum(face.spot(face.points[k, :2], 0.20) for k in CHEEKS)
    lift = 0.10 * face.draw(FOLDS, 0.12) + 0.14 * face.draw(BAG_RIMS, 0.12) + 0.12 * face.draw(BAGS, 0.12)
    lift = lift + 0.10 * face.draw(MARIONETTE, 0.12) + 0.06 * np.asarray(glow) + 0.06
    target = shade(np.clip(target, 0, 1).astype(np.float32), lift * skin * _headroom(rgb))
    target = target * (1 + (skin * (0.3 + np.asarray(glow)))[..., None] * np.array([0.03, -0.01, 0.0], np.float32))
    full = _lips(face, 0.16)
    own = _around(rgb, _lips(face, -0.2), 0.08 * unit)
    ring = np.clip(full - _lips(face, 0.0), 0, 1)[..., None]
    target = target + 0.75 * ring * (own - target)
    target = target * (1 + full[..., None] * np.array([0.02, -0.04, -0.02], np.float32))
    white = fill(face.shape, lines_of(face.points, EYES), 0.02 * unit) * np.clip(rgb.mean(2) / 0.35 - 0.6, 0, 1)
    return np.clip(shade(np.clip(target, 0, 1).astype(np.float32), 0.18 * white), 0, 1)


def _roughness(rgb: Array, face: Canvas, skin: Array) -> float:
    """How much the skin's light varies from pores to wrinkles, relative to itself: 0.01 on smooth skin, 0.08 on a furrowed one."""
    around = _around(rgb, skin, 0.05 * face.unit).mean(2)
    fine = cv2.GaussianBlur(rgb, (0, 0), 0.008 * face.unit).mean(2)
    inside = cv2.erode(skin, np.ones((5, 5), np.uint8)) > 0.8
    return float(np.median((np.abs(fine - around) / (around + 0.1))[inside])) if inside.any() else 0.0


def _older(rgb: Array, face: Canvas, skin: Array, hair: Array, rng: np.random.Generator) -> Array:
    """Everything that thirty years add to a face; the hair's grey is not part of it."""
    unit, points = face.unit, face.points
    around = _around(rgb, skin, 0.13 * unit)
    detail = (cv2.GaussianBlur(rgb, (0, 0), 0.008 * unit) - around).mean(2)
    # an old face has its lines already: it gains few, and no more contrast than skin can have
    fresh = float(np.clip(0.022 / (_roughness(rgb, face, skin) + 1e-4), 0.4, 1.0))
    mottle: Array = cv2.GaussianBlur(rng.standard_normal(face.shape).astype(np.float32), (0, 0), 0.05 * unit)
    mottle = 0.003 * mottle / (float(mottle.std()) + 1e-6)
    target = rgb + (0.5 * fresh * 0.06 * np.tanh(detail / 0.06) + mottle)[..., None]
    grey = target.mean(2, keepdims=True)
    target = (grey + 0.88 * (target - grey)) * np.array([1.005, 0.985, 0.935], np.float32)
    out = rgb + skin[..., None] * (target - rgb)
    # rims, strands and lines that are there are no place for a line
    relative = np.abs(cv2.GaussianBlur(rgb, (0, 0), 0.02 * unit) - around).mean(2) / (around.mean(2) + 0.05)
    clear = skin * cv2.GaussianBlur(np.clip(1.8 - relative / 0.22, 0, 1), (0, 0), 0.02 * unit)
    lines, bulges = face.forehead(0.042)
    amount = 0.17 * bulges - 0.46 * lines + 0.20 * face.draw(BAGS, 0.08)
    for crease in CREASES:
        amount = amount - crease.depth * face.draw(crease.lines, crease.width)
        if crease.light:
            amount = amount + crease.light * face.draw(crease.lines, 1.3 * crease.width, *crease.bulge)
    for left, right, radius, stops in FORMS:
        for side in (left, right):
            amount = amount + stops * face.spot(points[list(side), :2].mean(0), radius)
    out = shade(out.astype(np.float32), clear * (0.4 + 0.6 * fresh) * amount)
    brown = sum(
        stops * face.spot(points[a, :2] + far * (points[b, :2] - points[a, :2]), radius)
        for a, b, far, radius, stops in SPOTS
    )
    out = out * np.exp2((clear * np.asarray(brown))[..., None] * np.array([0.6, 1.0, 1.4], np.float32))
    brows = (np.clip(1.6 * brow_mask(rgb, points), 0, 1) * (1 - hair))[..., None]
    beside = _around(rgb, skin * (1 - brows[..., 0]), 0.25 * unit)
    light = 0.6 * rgb.mean(2, keepdims=True) + 0.4 * beside.mean(2, keepdims=True)
    out = out + 0.7 * brows * (light * np.array([1.03, 1.0, 0.96], np.float32) - out)
    whole, thin = _lips(face, 0.0), _lips(face, -0.35)
    ring = np.clip(whole - thin, 0, 1)[..., None]
    out = out + 0.65 * ring * (around - out)
    pale = out.mean(2, keepdims=True) * np.array([1.13, 0.96, 0.90], np.float32)
    return np.asarray(np.clip(out + 0.40 * whole[..., None] * (pale - out), 0, 1), np.float32)
