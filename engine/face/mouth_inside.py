"""What shows between parted lips: a cavity, the tongue and, where the lips were closed, the upper teeth.

Of a mouth that showed its own inside before, that hangs on from the upper lip, and the cavity goes on from it. All of it is lit as the
skin around the mouth is, and no darker than the face is elsewhere. Colours are RGB in [0, 1], lengths shares of the face's unit.
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.face.lips import Gap
from mien.engine.types import Array

CAVITY, TONGUE, TEETH = (
    np.array(c, np.float32) for c in ((0.13, 0.035, 0.035), (0.46, 0.19, 0.18), (0.76, 0.71, 0.64))
)
SKIN = np.array([1.24, 0.95, 0.81], np.float32)  # of common skin in white light, over its mean
SKIN_MEAN, SKIN_REACH, EYES_REACH = 0.5, 0.55, 1.2
EDGE_PX, EDGE_PIXELS, NARROWEST = 0.9, 1.3, 0.02  # the first of the crop, the second of the frame: the softer holds
TOOTH_WIDTH, TEETH_SHOWN, TOOTH_SHOWN = 0.082, 0.42, 0.085  # the second of the opening; the shorter of both
TONGUE_FROM = 0.16  # the opening from which the whole tongue shows
LIP_SHADOW, HANGS, TEETH_HANG = 0.03, 0.045, 0.04
ENAMEL = (0.62, 0.82)  # green over red: from none to all of what is seen are teeth; tongue and lips are redder
# The share of a face's pixels that counts as its black, and how bright that may be by itself.
DARKEST, BLACK = 0.01, 0.24


def draw_inside(crop: Array, gap: Gap, pixel: float) -> tuple[Array, Array]:
    """The inside of a mouth (3, S, S) in [-1, 1], and its share (S, S) in [0, 1].

    crop: (3, S, S) in [-1, 1], before the motion. pixel: crop pixels a pixel of the frame is wide; edges are as soft as it.
    """
    size = crop.shape[1]
    picture, share = np.zeros_like(crop), np.zeros((size, size), np.float32)
    soft = max(EDGE_PX, EDGE_PIXELS * pixel)
    rows, columns = _box(gap, soft, size)
    x, y = np.meshgrid(np.arange(size)[columns], np.arange(size)[rows])
    if not x.size:
        return picture, share
    place = ((np.stack([x, y], 2) - gap.origin) @ gap.axes.T).astype(np.float32)
    across, down = place[..., 0], place[..., 1]
    top, bottom = (np.interp(across, gap.across, edge).astype(np.float32) for edge in (gap.top, gap.bottom))
    left, right = float(gap.across[0]), float(gap.across[-1])
    opening = np.maximum(bottom - top, 1e-3)
    inside = np.clip(opening / (NARROWEST * gap.unit), 0, 1)
    for distance in (down - top, bottom - down, across - left, right - across):
        inside = inside * _step(distance, soft)
    side = 2 * (across - left) / (right - left) - 1
    under, depth = np.maximum(down - top, 0) / gap.unit, np.clip((down - top) / opening, 0, 1)
    most, light = float((gap.bottom - gap.top).max()) / gap.unit, _light(crop, gap)
    colour = _mix(CAVITY * (0.7 + 0.6 * depth)[..., None], TONGUE, _tongue(side, depth, most))
    own = np.stack([np.interp(across, gap.across, gap.hanging[:, k]) for k in range(3)], 2) / light
    colour = _mix(colour, np.minimum(own, 0.5), gap.shown * _hanging(own, under))
    colour = _teeth(colour, across - 0.5 * (left + right), down - top, side, most, gap)
    colour = colour * (1 - 0.6 * (1 - gap.shown) * np.exp(-under / LIP_SHADOW))[..., None] * light
    colour = np.clip(colour, 0, 1)
    colour = colour + _haze(crop, gap) * (1 - colour) ** 2
    colour = cv2.GaussianBlur(colour.astype(np.float32), (0, 0), 0.6 * soft)
    picture[:, rows, columns] = colour.transpose(2, 0, 1) * 2 - 1
    share[rows, columns] = gap.share * inside
    return picture, share


def _hanging(own: Array, under: Array) -> Array:
    """(h, w) in [0, 1]: the share of what the mouth showed: under the seam the tongue fades, teeth end.

    own: (h, w, 3) its colour. under: (h, w) how far below the upper lip, in face units.
    """
    red = np.maximum(own[..., 0], 0.05)
    enamel = np.clip((own[..., 1] / red - ENAMEL[0]) / (ENAMEL[1] - ENAMEL[0]), 0, 1)
    fading, ending = np.exp(-under / HANGS), np.exp(-((under / TEETH_HANG) ** 4))
    return np.asarray(fading + enamel * (ending - fading))


def _tongue(side: Array, depth: Array, most: float) -> Array:
    """Share of the tongue, with its furrow."""
    body = np.clip(1.2 - (side / 0.6) ** 2, 0, 1) * np.clip((depth - 0.5) / 0.35, 0, 1)
    furrow = 1 - 0.12 * np.exp(-((side / 0.06) ** 2))
    return np.asarray(0.7 * min(1.0, most / TONGUE_FROM) * body * furrow)


def _teeth(colour: Array, across_px: Array, under_px: Array, side: Array, most: float, gap: Gap) -> Array:
    """The upper row over a colour, as far as the upper lip leaves it to be seen; darker to the sides, where the arch recedes."""
    if gap.shown == 1.0:
        return colour
    arch = np.clip(1 - (np.abs(side) / 0.84) ** 2.4, 0, 1)
    tooth = across_px / (TOOTH_WIDTH * gap.unit * (1 - 0.22 * np.abs(side)))
    rounded = 1 - 0.12 * np.abs(2 * (tooth - np.floor(tooth)) - 1) ** 4
    length_px = min(TEETH_SHOWN * most, TOOTH_SHOWN) * gap.unit * np.sqrt(arch) * rounded
    between = np.exp(-(((tooth - np.round(tooth)) / 0.07) ** 2))
    enamel = TEETH * ((0.42 + 0.58 * arch) * (1 - 0.18 * between))[..., None]
    return _mix(colour, enamel, 0.93 * (1 - gap.shown) * _step(length_px - under_px, EDGE_PX) * np.clip(arch * 3, 0, 1))


def _light(crop: Array, gap: Gap) -> Array:
    """(3,): the light's strength and, by half, its colour, as the skin around the mouth shows them."""
    skin = 0.5 + 0.5 * _around(crop, gap, SKIN_REACH).mean((1, 2))
    tint = np.clip(skin / (skin.mean() + 1e-3) / SKIN, 0.6, 1.5) ** 0.5
    return np.asarray(np.clip(skin.mean() / SKIN_MEAN, 0.3, 1.15) * tint, np.float32)


def _haze(crop: Array, gap: Gap) -> float:
    """How bright black is in this picture: what is darkest in the face, eyes and nostrils, beyond what they are themselves."""
    grey = _around(crop, gap, EYES_REACH).mean(0)
    return max(0.0, float(np.quantile(0.5 + 0.5 * grey, DARKEST)) - BLACK)


def _around(crop: Array, gap: Gap, upwards: float) -> Array:
    """The part of a crop around a mouth: SKIN_REACH to the sides and down, `upwards` up."""
    reach = np.array([[SKIN_REACH, upwards], [-SKIN_REACH, -SKIN_REACH]]) * gap.unit
    (x0, y0), (x1, y1) = np.clip(gap.origin - reach, 0, crop.shape[1] - 1).astype(int)
    return crop[:, y0 : y1 + 1, x0 : x1 + 1]


def _box(gap: Gap, soft_px: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of the crop that the gap can reach."""
    edges = [gap.origin + np.stack([gap.across, edge], 1) @ gap.axes for edge in (gap.top, gap.bottom)]
    every, margin = np.concatenate(edges), 2 + 2 * soft_px
    low, high = (np.clip(v, 0, size).astype(int) for v in (every.min(0) - margin, every.max(0) + margin + 1))
    return slice(low[1], high[1]), slice(low[0], high[0])


def _mix(colour: Array, other: Array, share: Array) -> Array:
    return np.asarray(colour + share[..., None] * (other - colour))


def _step(distance_px: Array, soft_px: float) -> Array:
    return np.asarray(np.clip(0.5 + distance_px / (2 * soft_px), 0, 1))
