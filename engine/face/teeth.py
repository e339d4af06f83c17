"""What a crop shows of the teeth, and the light that falls on them. Colours are RGB in [0, 1]."""

from __future__ import annotations

import numpy as np

from mien.engine.face.points import LEFT_EYE, RIGHT_EYE, face_axes
from mien.engine.face.seam import MIDDLE, NODES, Mouth
from mien.engine.face.smooth import gaussian_smooth, ramp
from mien.engine.types import Array

TEETH = np.array([0.76, 0.71, 0.64], np.float32)  # common ones in common light
# How bright those are that a lip uncovers, at least, of common ones: what shows in a narrow gap lies in shadow; from such lengths of teeth
# on, in face units, these tell. The share of the mouth along which teeth tell the colour of their neighbours; that of it which shows some.
LEAST_TOOTH, TELLING, NEIGHBOURS, ENOUGH = 0.8, (0.03, 0.1), 0.15, 0.3
SKIN = np.array([1.24, 0.95, 0.81], np.float32)  # of common skin in white light, over its mean
SKIN_MEAN, SKIN_REACH = 0.5, 0.55
EYE_WHITE, EYE_SHARE = 0.72, 0.9  # how bright the whites of eyes are in that light; their quantile of an eye
# Green over red, and brightness, from where on some and all of what is seen are teeth: tongue and lips are redder, a cavity is darker.
ENAMEL, BRIGHT = (0.62, 0.82), (0.2, 0.35)


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


def teeth_shown(mouth: Mouth, light: Array) -> float:
    """How many pixels of teeth a mouth shows in its middle."""
    share = enamel_share(mouth.inside[:, MIDDLE] / light)
    return float((share.mean(0) * np.hypot(*(mouth.lower - mouth.upper)[MIDDLE].T)).mean())


def tooth_colours(mouth: Mouth, light: Array, teeth: float) -> Array:
    """(NODES, 3): the colours, light taken off, of teeth along a mouth: common ones, or what it shows of its own there and nearby.

    teeth: how many it shows, in face units.
    """
    seen = mouth.inside / light
    enamel, width = enamel_share(seen), NEIGHBOURS * NODES
    bright = enamel * seen.mean(-1)
    # Teeth that are blurred with shadows tell less.
    weight = (enamel * (bright / max(float(bright.max()), 1e-3)) ** 4)[..., None]
    there, own = (gaussian_smooth(values.mean(0), width) for values in (weight, weight * seen))
    own /= np.maximum(there, 1e-6)
    known = np.clip(gaussian_smooth(enamel.max(0), width) / ENOUGH, 0, 1)[:, None]
    least = LEAST_TOOTH * (1.0 - ramp(teeth, *TELLING))
    own *= np.maximum(1.0, least * TEETH.mean() / np.maximum(own.mean(1, keepdims=True), 0.05))
    return np.asarray(TEETH + mouth.shown * known * (own - TEETH))


def _eye_white(crop: Array, points: Array) -> float:
    """How bright the brighter eye is where it is brightest."""
    most = 0.0
    for eye in (LEFT_EYE, RIGHT_EYE):
        corners = np.clip([points[list(eye)].min(0), points[list(eye)].max(0) + 1], 0, crop.shape[1]).astype(int)
        (x0, y0), (x1, y1) = corners
        if x1 > x0 and y1 > y0:
            most = max(most, float(np.quantile(0.5 + 0.5 * crop[:, y0:y1, x0:x1].mean(0), EYE_SHARE)))
    return most
