"""Pair generator: a full short beard. Pictures and points as in strokes.py."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.matte import brow_mask, hair_matte
from mien.export.tiny.strokes import (
    INNER_LOWER,
    INNER_UPPER,
    OUTER_LOWER,
    OUTER_UPPER,
    FaceAxes,
    face_skin,
    fill,
    lines_of,
    polyline,
    side_weights,
    size_of,
    spot,
    stroke,
)

_JAW = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454)
CHEEK_LINE = (401, 433, 416, 434, 436, 391, 393, 164, 167, 165, 216, 214, 192, 213, 177)
# each half of the moustache; and how it goes on around the corners of the mouth into the goatee
_MOUSTACHE = ((43, 57, 186, 92, 165, 167, 164), (273, 287, 410, 322, 391, 393, 164))
_CORNERS = ((92, 186, 57, 43, 106, 182), (322, 410, 287, 273, 335, 406))
_SOUL_PATCH = (17, 18, 200, 199)
_BARE = ((181, 194, 204, 43), (405, 418, 424, 273))  # each side of the soul patch
_TEXTURE_PX = 512
_PER_UNIT = 110  # texture pixels an inter-ocular distance: about twice the crop's


@cache
def _strands() -> Array:
    """Fixed tufts, mean 0, sd 1: they ride on the face, so that the same face has the same beard."""
    noise = np.random.default_rng(7).standard_normal((_TEXTURE_PX, _TEXTURE_PX)).astype(np.float32)
    tufts = cv2.GaussianBlur(noise, (0, 0), sigmaX=2.4, sigmaY=5.5, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(tufts / tufts.std())


def _grain(shape: tuple[int, int], points: Array) -> Array:
    """The tufts where the face is, fanning out from the nose."""
    axes = FaceAxes.of(points)
    k = _PER_UNIT / size_of(points)
    origin = points[164, :2]
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u = ((xx - origin[0]) * axes.right[0] + (yy - origin[1]) * axes.right[1]) * k
    v = ((xx - origin[0]) * axes.down[0] + (yy - origin[1]) * axes.down[1]) * k
    u = u / (1 + 0.004 * np.clip(v, 0, 150))
    at = ((u + _TEXTURE_PX / 2).astype(np.float32), (v + _TEXTURE_PX / 4).astype(np.float32))
    return np.asarray(cv2.remap(_strands(), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _colour(rgb: Array, points: Array, hair: Array, skin: Array) -> Array:
    """(3,) what colour a beard would have here: that of hair and brows, much darker than the skin unless both are grey."""
    brows = brow_mask(rgb, points) ** 2
    found = [(rgb * w[..., None]).sum((0, 1)) / w.sum() for w in (hair**3, brows) if w.sum() > 30]
    rgb_mean = np.mean(found, 0) if found else np.array([0.16, 0.11, 0.08])
    lab = cv2.cvtColor(rgb_mean.astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    grey = float(np.clip((lab[0] - 45) / 15, 0, 1) * np.clip((10 - np.hypot(lab[1], lab[2])) / 5, 0, 1))
    bare = (rgb * skin[..., None]).sum((0, 1)) / (skin.sum() + 1e-6)
    most = 0.42 * float(cv2.cvtColor(bare.astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0, 0])
    level = (1 - grey) * np.clip(0.6 * lab[0], 4, min(most, 23.0)) + grey * min(float(lab[0]), 62.0)
    chroma = min(1.0, level / 18)
    natural = np.array([[[level, chroma * np.clip(lab[1], 1, 11), chroma * np.clip(lab[2], 2, 16)]]], np.float32)
    return np.asarray(cv2.cvtColor(natural, cv2.COLOR_LAB2RGB)[0, 0])


def _thickness(points: Array, shape: tuple[int, int], unit: float) -> Array:
    """How dense the beard is from place to place, (H, W) in [0, 1]: full around the mouth and along the jaw, thin on the cheeks."""
    ring = np.maximum(
        stroke(shape, lines_of(points, _MOUSTACHE), 0.20 * unit, 0.03 * unit),
        stroke(shape, lines_of(points, _CORNERS), 0.22 * unit, 0.04 * unit),
    )
    patch = stroke(shape, lines_of(points, (_SOUL_PATCH,)), 0.17 * unit, 0.025 * unit)
    chin = spot(shape, (points[199, :2] + points[152, :2]) / 2, 0.34 * unit)
    jaw = polyline(shape, lines_of(points, (_JAW[3:-3],)), 0.30 * unit)
    jaw = cv2.GaussianBlur(jaw, (0, 0), 0.10 * unit)
    bare = stroke(shape, lines_of(points, _BARE), 0.11 * unit, 0.03 * unit) * (1 - patch)
    full = np.maximum.reduce([ring, patch, np.clip(1.3 * chin, 0, 1), 0.9 * jaw])
    return np.asarray((0.42 + 0.58 * full) * (1 - 0.4 * bare), np.float32)


def density(points: Array, shape: tuple[int, int]) -> Array:
    """How thick the beard grows, (H, W) in [0, 1], thinning out towards its edges; none on the lips."""
    unit, axes = size_of(points), FaceAxes.of(points)
    centre = points[13, :2]
    jaw = points[list(_JAW), :2]
    below = np.clip(((jaw - centre) @ axes.down) / unit, 0, 0.8)[:, None]
    jaw = jaw + 0.17 * unit * below * axes.down
    cheeks, half = points[list(CHEEK_LINE), :2], len(_JAW) // 2
    middle = points[[17, 0, 164], :2]
    past = 0.13 * unit * axes.right  # each half goes a little past the middle: up to the profile of a turned head
    left = np.concatenate([jaw[: half + 1], jaw[half : half + 1] + past, middle + past, cheeks[len(cheeks) // 2 + 1 :]])
    right = np.concatenate([jaw[half:], cheeks[: len(cheeks) // 2], middle[::-1] - past, jaw[half : half + 1] - past])
    sides = (
        np.clip(5 * seen, 0, 1) * fill(shape, [o], 0)
        for o, seen in zip((left, right), side_weights(points), strict=True)
    )
    soft = cv2.GaussianBlur(np.maximum(*sides).astype(np.float32), (0, 0), 0.055 * unit)
    grown = np.clip(1.5 * soft - 0.35, 0, 1) * _thickness(points, shape, unit)
    lips = fill(shape, lines_of(points, (OUTER_UPPER + OUTER_LOWER[::-1],)), 0.015 * unit)
    inside = fill(shape, lines_of(points, (INNER_UPPER + INNER_LOWER[::-1],)), 0)
    return np.asarray(grown * (1 - np.clip(1.3 * lips, 0, 1)) * (1 - inside))


def beard(rgb: Array, points: Array, hair: Array, person: Array, strength: float) -> Array:
    """A full short beard with moustache in the colour of the hair; strength in [0, 1]."""
    shape, unit = (rgb.shape[0], rgb.shape[1]), size_of(points)
    alpha_hair = hair_matte(rgb, hair)
    grown = (
        density(points, shape) * np.clip((person - 0.08) / 0.3, 0, 1) * (1 - 0.8 * np.clip((hair - 0.3) / 0.5, 0, 1))
    )
    grain = _grain(shape, points)
    # closed where it is thick; where it is thin the tufts part and skin shows
    parted = np.clip(grown + 0.10 * grain * np.clip(5 * grown, 0, 1) * (1.15 - grown), 0, 1)
    cover = np.clip((parted - 0.06) / 0.60, 0, 1)
    cover = cover * cover * (3 - 2 * cover)
    skin = face_skin(points, shape, alpha_hair, person)
    colour = _colour(rgb, points, alpha_hair, skin)
    luma = cv2.GaussianBlur(rgb.mean(2), (0, 0), 0.05 * unit)
    typical = float((luma * skin).sum() / (skin.sum() + 1e-6)) + 0.02
    light = np.clip(luma / typical, 0.25, 1.6) ** 0.8  # the light that falls on the face falls on the beard
    tufts = np.clip(1 + 0.26 * grain, 0.4, 1.8)[..., None] * colour + 0.010 * np.clip(grain, 0, 3)[..., None]
    hairs = light[..., None] * tufts
    out = rgb + (0.96 * cover)[..., None] * (hairs - rgb)
    return np.asarray(np.clip(rgb + strength * (out - rgb), 0, 1), np.float32)
