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
    size_of,
)

_JAW = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454)
CHEEK_LINE = (401, 433, 416, 434, 436, 426, 391, 393, 164, 167, 165, 206, 216, 214, 192, 213, 177)
_TEXTURE_PX = 512
_PER_UNIT = 110  # texture pixels an inter-ocular distance


@cache
def _strands() -> Array:
    """Fixed noise of short downward hairs, mean 0, sd 1: it rides on the face, so that the same face has the same beard."""
    noise = np.random.default_rng(7).standard_normal((_TEXTURE_PX, _TEXTURE_PX)).astype(np.float32)
    hairs = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.8, sigmaY=2.2)
    clumps = cv2.GaussianBlur(noise[::-1].copy(), (0, 0), sigmaX=3.0, sigmaY=6.0)
    return np.asarray(hairs / hairs.std() + 0.4 * clumps / clumps.std()) / np.float32(1.08)


def _grain(shape: tuple[int, int], points: Array) -> Array:
    """The strands where the face is."""
    axes = FaceAxes.of(points)
    k = _PER_UNIT / size_of(points)
    origin = points[164, :2]
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u = ((xx - origin[0]) * axes.right[0] + (yy - origin[1]) * axes.right[1]) * k
    v = ((xx - origin[0]) * axes.down[0] + (yy - origin[1]) * axes.down[1]) * k
    u = u * (1 + 0.0008 * v)
    at = ((u + _TEXTURE_PX / 2).astype(np.float32), (v + _TEXTURE_PX / 4).astype(np.float32))
    return np.asarray(cv2.remap(_strands(), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _colour(rgb: Array, points: Array, hair: Array) -> Array:
    """(3,) what colour a beard would have here: that of hair and brows, never lighter than dark blond unless both are grey."""
    brows = brow_mask(rgb, points) ** 2
    found = [(rgb * w[..., None]).sum((0, 1)) / w.sum() for w in (hair**3, brows) if w.sum() > 30]
    rgb_mean = np.mean(found, 0) if found else np.array([0.16, 0.11, 0.08])
    lab = cv2.cvtColor(rgb_mean.astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    grey = float(np.clip((lab[0] - 45) / 15, 0, 1) * np.clip((10 - np.hypot(lab[1], lab[2])) / 5, 0, 1))
    level = (1 - grey) * np.clip(0.72 * lab[0], 7, 32) + grey * min(float(lab[0]), 62.0)
    natural = np.array([[[level, np.clip(lab[1], 1, 13), np.clip(lab[2], 2, 19)]]], np.float32)
    return np.asarray(cv2.cvtColor(natural, cv2.COLOR_LAB2RGB)[0, 0])


def density(points: Array, shape: tuple[int, int]) -> Array:
    """How thick the beard grows, (H, W) in [0, 1], thinning out towards its edges; none on the lips."""
    unit, axes = size_of(points), FaceAxes.of(points)
    centre = points[13, :2]
    jaw = points[list(_JAW), :2]
    below = np.clip(((jaw - centre) @ axes.down) / unit, 0, 0.8)[:, None]
    jaw = jaw + 0.11 * unit * below * axes.down
    outline = np.concatenate([jaw, points[list(CHEEK_LINE), :2]])
    area = fill(shape, [outline], 0.045 * unit)
    soft = fill(shape, [outline], 0.11 * unit)
    lips = fill(shape, lines_of(points, (OUTER_UPPER + OUTER_LOWER[::-1],)), 0.012 * unit)
    thin = fill(shape, lines_of(points, ((17, 84, 181, 194, 32, 262, 418, 405, 314),)), 0.03 * unit)
    inside = fill(shape, lines_of(points, (INNER_UPPER + INNER_LOWER[::-1],)), 0)
    grown = area * np.clip(1.9 * soft - 0.35, 0, 1)
    return np.asarray(grown * (1 - np.clip(1.3 * lips, 0, 1)) * (1 - inside) * (1 - 0.35 * thin))


def beard(rgb: Array, points: Array, hair: Array, person: Array, strength: float) -> Array:
    """A full short beard with moustache in the colour of the hair; strength in [0, 1]."""
    shape = (rgb.shape[0], rgb.shape[1])
    alpha_hair = hair_matte(rgb, hair)
    grown = density(points, shape) * np.clip((person - 0.3) / 0.4, 0, 1) * (1 - 0.8 * np.clip((hair - 0.3) / 0.5, 0, 1))
    grain = _grain(shape, points)
    # thick in the middle, single hairs and their shadow at the edge
    cover = np.clip(1.8 * grown - 0.40 + 0.20 * grain * np.clip(4 * grown * (1.2 - grown), 0, 1), 0, 1)
    cover = np.maximum(cover * np.clip(3 * grown, 0, 1), 0.42 * grown)
    colour = _colour(rgb, points, alpha_hair)
    skin = face_skin(points, shape, alpha_hair, person)
    luma = cv2.GaussianBlur(rgb.mean(2), (0, 0), 0.05 * size_of(points))
    typical = float((luma * skin).sum() / (skin.sum() + 1e-6)) + 0.02
    light = np.clip(luma / typical, 0.25, 1.6) ** 0.8  # the light that falls on the face falls on the beard
    hairs = colour * (light * np.clip(1 + 0.24 * grain, 0.4, 2.0))[..., None] + 0.012 * np.clip(grain, 0, 3)[..., None]
    out = rgb + (0.93 * cover)[..., None] * (hairs - rgb)
    return np.asarray(np.clip(rgb + strength * (out - rgb), 0, 1), np.float32)
