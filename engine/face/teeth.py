"""What a crop shows of the teeth, and the light that falls on them. Colours are RGB in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.face.points import LEFT_EYE, RIGHT_EYE, face_axes
from mien.engine.face.warp import NO_SECOND_MAP
from mien.engine.types import Array

SKIN = np.array([1.24, 0.95, 0.81], np.float32)  # of common skin in white light, over its mean
SKIN_MEAN, SKIN_REACH = 0.5, 0.55
EYE_WHITE, EYE_SHARE = 0.72, 0.9  # how bright the whites of eyes are in that light; their quantile of an eye
# Green over red, and brightness, from where on some and all of what is seen are teeth: tongue and lips are redder, a cavity is darker.
ENAMEL, BRIGHT = (0.62, 0.82), (0.2, 0.35)
DEPTHS = (np.arange(9) + 0.5) / 9  # of the opening, at which teeth are looked for


def light_of(crop: Array, points: Array) -> Array:
    """(3,): the strength of the light on a mouth and, by half, its colour, as the skin around it shows them; 1 in common light.

    crop: (3, S, S) in [-1, 1] with 68 landmarks in its pixels. Dark skin in the same light has eyes as white, which tell.
    """
    skin = 0.5 + 0.5 * around_mouth(crop, points, SKIN_REACH).mean((1, 2))
    tint = np.clip(skin / (skin.mean() + 1e-3) / SKIN, 0.6, 1.5) ** 0.5
    strength = max(float(skin.mean()) / SKIN_MEAN, _eye_white(crop, points) / EYE_WHITE)
    return np.asarray(np.clip(strength, 0.3, 1.15) * tint, np.float32)


def around_mouth(crop: Array, points: Array, upwards: float) -> Array:
    """The part of a crop around a mouth: SKIN_REACH face units to the sides and down, `upwards` up."""
    unit = float(np.hypot(*face_axes(points)[1]))
    reach = np.array([[SKIN_REACH, upwards], [-SKIN_REACH, -SKIN_REACH]]) * unit
    (x0, y0), (x1, y1) = np.clip(points[[48, 54]].mean(0) - reach, 0, crop.shape[1] - 1).astype(int)
    return crop[:, y0 : y1 + 1, x0 : x1 + 1]


def enamel_share(colours: Array) -> Array:
    """(...) in [0, 1]: the share of teeth in colours (..., 3) of a mouth's inside, the light taken off them."""
    measures = (colours[..., 1] / np.maximum(colours[..., 0], 0.05), ENAMEL), (colours.mean(-1), BRIGHT)
    pale, bright = (np.clip((value - low) / (high - low), 0, 1) for value, (low, high) in measures)
    return np.asarray(pale * bright)


def teeth_shown(crop: Array, light: Array, upper: Array, lower: Array) -> float:
    """How many pixels of teeth a mouth shows in its middle, between the edges of its lips (n, 2), both from left to right."""
    middle = slice(len(upper) // 4, len(upper) - len(upper) // 4)
    upper, lower = upper[middle], lower[middle]
    at = (upper[:, None] + DEPTHS[:, None] * (lower - upper)[:, None]).astype(np.float32)
    seen = [cv2.remap(p, at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in crop]
    share = enamel_share((0.5 + 0.5 * np.stack(seen, 2)) / light)
    return float((share.mean(1) * np.hypot(*(lower - upper).T)).mean())


def _eye_white(crop: Array, points: Array) -> float:
    """How bright the brighter eye is where it is brightest."""
    most = 0.0
    for eye in (LEFT_EYE, RIGHT_EYE):
        corners = np.clip([points[list(eye)].min(0), points[list(eye)].max(0) + 1], 0, crop.shape[1]).astype(int)
        (x0, y0), (x1, y1) = corners
        if x1 > x0 and y1 > y0:
            most = max(most, float(np.quantile(0.5 + 0.5 * crop[:, y0:y1, x0:x1].mean(0), EYE_SHARE)))
    return most
