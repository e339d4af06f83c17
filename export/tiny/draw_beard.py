"""Pair generator: a beard trimmed to a few millimetres. Pictures and points as in strokes.py.

Hairs this short are finer than the latents hold; what is seen of them from afar is skin that is darker and greyer. So the
skin stays and is multiplied, with a faint grain that is coarse enough to be learned.
"""

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
CHEEK_LINE = (447, 352, 376, 416, 436, 391, 393, 164, 167, 165, 216, 192, 147, 123, 227)
# each half of the moustache; and how it goes on around the corners of the mouth into the goatee
_MOUSTACHE = ((43, 57, 186, 92, 165, 167, 164), (273, 287, 410, 322, 391, 393, 164))
_CORNERS = ((92, 186, 57, 43, 106, 182), (322, 410, 287, 273, 335, 406))
_SOUL_PATCH = (17, 18, 200, 199)
_PHILTRUM = (2, 164, 0)
_BARE = ((181, 194, 204, 43), (405, 418, 424, 273))  # each side of the soul patch
_COVER = 0.76  # how much of the skin hairs hide where they are densest
_TEXTURE_PX = 256
_PER_UNIT = 55  # texture pixels an inter-ocular distance: about the crop's
_GRAIN = 0.09


@cache
def _texture() -> Array:
    """Fixed grain of 4 to 16 pixels' wavelength, mean 0, sd 1: it rides on the face, so that the same face has the same beard."""
    noise = np.random.default_rng(7).standard_normal((_TEXTURE_PX, _TEXTURE_PX)).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(noise, (0, 0), s, borderType=cv2.BORDER_REFLECT_101) for s in (0.9, 3.5))
    return np.asarray((fine - coarse) / (fine - coarse).std())


def _along(shape: tuple[int, int], origin: Array, axis: Array) -> Array:
    """(H, W) how far every pixel is from a point along an axis, in pixels."""
    x, y = (np.arange(n) - o for n, o in zip(shape[::-1], origin, strict=True))
    return np.asarray(x * axis[0] + y[:, None] * axis[1], np.float32)


def _grain(shape: tuple[int, int], points: Array) -> Array:
    """The texture where the face is."""
    axes = FaceAxes.of(points)
    k = _PER_UNIT / size_of(points)
    u, v = (_along(shape, points[164, :2], a) * k + _TEXTURE_PX / 2 for a in (axes.right, axes.down))
    return np.asarray(cv2.remap(_texture(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _lab(colour: Array) -> Array:
    return np.asarray(cv2.cvtColor(colour.astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0])


def _tint(rgb: Array, points: Array, hair: Array, bare: Array) -> Array:
    """(3,) what full cover multiplies skin of a colour `bare` (3,) by: towards hair and brows, well darker than skin unless grey."""
    brows = brow_mask(rgb, points) ** 2
    found = [(rgb * w[..., None]).sum((0, 1)) / w.sum() for w in (hair**3, brows) if w.sum() > 30]
    lab, skin = _lab(np.mean(found, 0) if found else np.array([0.16, 0.11, 0.08])), _lab(bare)
    grey = float(np.clip((lab[0] - 45) / 15, 0, 1) * np.clip((10 - np.hypot(lab[1], lab[2])) / 5, 0, 1))
    level = (1 - grey) * np.clip(0.5 * lab[0], 4, min(0.36 * skin[0], 20.0)) + grey * min(lab[0], 0.75 * skin[0])
    yellow = min(1.0, level / 18) * np.clip(lab[2], 2, 24)
    natural = np.array([[[level, 0.7 * yellow, yellow]]], np.float32)  # no beard is purple
    ratio = cv2.cvtColor(natural, cv2.COLOR_LAB2RGB)[0, 0] / (bare + 0.02)
    mean = float(ratio.mean())
    hue = np.clip(ratio / (mean + 1e-6), [0.9, 0.75, 0.5], [1.6, 1.0, 1.1])  # never greener than the skin
    return np.asarray(min(mean, 1.0) * hue, np.float32)


def _thickness(points: Array, shape: tuple[int, int], unit: float) -> Array:
    """How dense the beard is from place to place, (H, W) in [0, 1]: full around the mouth and along the jaw, thin on the cheeks."""
    ring = np.maximum(
        stroke(shape, lines_of(points, _MOUSTACHE), 0.18 * unit, 0.04 * unit),
        0.9 * stroke(shape, lines_of(points, _CORNERS), 0.20 * unit, 0.05 * unit),
    )
    patch = stroke(shape, lines_of(points, (_SOUL_PATCH,)), 0.15 * unit, 0.035 * unit)
    chin = spot(shape, (points[199, :2] + points[152, :2]) / 2, 0.34 * unit)
    jaw = polyline(shape, lines_of(points, (_JAW[1:-1],)), 0.42 * unit)
    jaw = cv2.GaussianBlur(jaw, (0, 0), 0.12 * unit)
    bare = stroke(shape, lines_of(points, _BARE), 0.13 * unit, 0.04 * unit) * (1 - patch)
    gap = stroke(shape, lines_of(points, (_PHILTRUM,)), 0.07 * unit, 0.03 * unit)
    full = np.maximum.reduce([ring, 0.9 * patch, np.clip(1.2 * chin, 0, 1), jaw])
    return np.asarray((0.46 + 0.54 * full) * (1 - 0.38 * bare) * (1 - 0.4 * gap), np.float32)


def _lowered(outline: Array, top: Array, axes: FaceAxes) -> Array:
    """An outline (n, 2) whose points do not rise above the point `top` along the face."""
    return np.asarray(outline + np.clip((top - outline) @ axes.down, 0, None)[:, None] * axes.down)


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
        np.clip(5 * seen, 0, 1) * fill(shape, [_lowered(o, centre - (0.25 + seen**3) * unit * axes.down, axes)], 0)
        for o, seen in zip((left, right), side_weights(points), strict=True)
    )
    soft = cv2.GaussianBlur(np.maximum(*sides).astype(np.float32), (0, 0), 0.07 * unit)
    height = _along(shape, centre, -axes.down) / unit
    faded = 1 - 0.8 * np.clip((height - 0.4) / 0.7, 0, 1)  # up the sideburns
    grown = np.clip(1.3 * soft - 0.25, 0, 1) * faded * _thickness(points, shape, unit)
    lips = fill(shape, lines_of(points, (OUTER_UPPER + OUTER_LOWER[::-1],)), 0.015 * unit)
    inside = fill(shape, lines_of(points, (INNER_UPPER + INNER_LOWER[::-1],)), 0)
    return np.asarray(grown * (1 - np.clip(1.3 * lips, 0, 1)) * (1 - inside))


def beard(rgb: Array, points: Array, hair: Array, person: Array, strength: float) -> Array:
    """A trimmed beard with moustache in the colour of the hair, a shadow of one at 0.3; strength in [0, 1]."""
    shape, unit = (rgb.shape[0], rgb.shape[1]), size_of(points)
    matte = hair_matte(rgb, hair)
    skin = face_skin(points, shape, matte, person)
    bare = (rgb * skin[..., None]).sum((0, 1)) / (skin.sum() + 1e-6)
    tint = _tint(rgb, points, matte, bare)
    # what is as dark as the beard would be is a beard, or too dark to show one
    level, dark = cv2.GaussianBlur(rgb.mean(2), (0, 0), 0.05 * unit) / (bare.mean() + 0.02), float(tint.mean())
    shown = np.clip((level - dark) / (0.55 * (1 - min(dark, 0.9))), 0, 1)
    worn = np.clip((person - 0.08) / 0.3, 0, 1) * (1 - 0.8 * np.clip((hair - 0.3) / 0.5, 0, 1))
    grown = density(points, shape) * worn * shown
    cover = _COVER * grown * (1 + _GRAIN * (1.8 - grown) * _grain(shape, points))
    matt = np.clip(level, 1, 2) ** -cover  # hairs do not shine as skin does
    factor = matt[..., None] * (1 - np.clip(cover, 0, 1)[..., None] * (1 - tint))
    return np.asarray(np.clip(rgb * (1 + strength * (factor - 1)), 0, 1), np.float32)
