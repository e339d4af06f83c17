"""What shows between parted lips: a cavity, the tongue and the upper teeth, as far as closed lips let them be seen.

Where the upper lip rises, the teeth stay and show that much more. What a mouth showed of its own inside before goes on into the gap from
the lip that it stays with. All of it is lit as the skin around the mouth is, and no darker than the face is elsewhere. Colours are RGB in
[0, 1], lengths shares of the face's unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mien.engine.face.lips import Gap
from mien.engine.face.teeth import around_mouth, enamel_share
from mien.engine.types import Array

CAVITY, TONGUE = (np.array(c, np.float32) for c in ((0.13, 0.035, 0.035), (0.46, 0.19, 0.18)))
EYES_REACH = 1.2
EDGE_PX, EDGE_PIXELS, NARROWEST = 0.9, 1.3, 0.05  # the first of the crop, the second of the frame: the softer holds
TOOTH_WIDTH, LONGEST_TOOTH = 0.082, 0.15
TEETH_SHOWN, TOOTH_SHOWN = 0.42, 0.085  # below a lip that does not rise: the first of the opening; the shorter of both
TONGUE_FROM = 0.16  # the opening from which the whole tongue shows
SHADE = np.array([1.0, 1.25, 1.35], np.float32)  # lips and tongue tint what light they leave
LIP_SHADOW, HANGS, TEETH_HANG = 0.03, 0.045, 0.04
# The share of a face's pixels that counts as its black, and how bright that may be by itself.
DARKEST, BLACK = 0.01, 0.24


def draw_inside(crop: Array, points: Array, gap: Gap, pixel: float) -> tuple[Array, Array]:
    """The inside of a mouth (3, S, S) in [-1, 1], and its share (S, S) in [0, 1].

    crop: (3, S, S) in [-1, 1] with 68 landmarks in its pixels, before the motion. pixel: crop pixels a pixel of the frame is wide;
    edges are as soft as it.
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
    most = float((gap.bottom - gap.top).max()) / gap.unit
    colour = _mix(CAVITY * (0.7 + 0.6 * depth)[..., None], TONGUE, _tongue(side, depth, most))
    own = _along(gap, gap.beside / gap.light, across)
    enamel = enamel_share(own)
    beyond = np.maximum(bottom - down, 0) / gap.unit if gap.lifted else under
    dim = np.minimum(1, (0.5 + 0.5 * enamel) / np.maximum(own.max(2), 1e-3))[..., None]
    colour = _mix(colour, own * dim, gap.shown * _going_on(enamel, beyond))
    tooth = _along(gap, gap.teeth, across)
    usual, longest = min(TEETH_SHOWN * most, TOOTH_SHOWN) * gap.unit, LONGEST_TOOTH * gap.unit
    raised = np.minimum(np.interp(across, gap.across, gap.raised), longest)
    lengths = (1 - gap.shown, np.minimum(usual + raised, longest)), (1.0, raised)
    along = (across - 0.5 * (left + right)) / gap.unit
    colour = _teeth(colour, tooth, (along, down - top, side), lengths, 1 - gap.shown * enamel)
    colour = colour * (1 - 0.6 * (1 - gap.shown) * np.exp(-under / LIP_SHADOW))[..., None] * gap.light
    colour = np.clip(colour, 0, 1)
    colour = colour + _haze(crop, points) * (1 - colour) ** 2
    colour = cv2.GaussianBlur(colour.astype(np.float32), (0, 0), 0.6 * soft)
    picture[:, rows, columns] = colour.transpose(2, 0, 1) * 2 - 1
    share[rows, columns] = gap.share * inside
    return picture, share


def _along(gap: Gap, colours: Array, across: Array) -> Array:
    """(h, w, 3): colours (NODES, 3) of the gap at places along it (h, w)."""
    return np.stack([np.interp(across, gap.across, channel) for channel in colours.T], 2)


def _going_on(enamel: Array, beyond: Array) -> Array:
    """(h, w) in [0, 1]: the share of what the mouth showed, `beyond` face units from it: the tongue fades, teeth end."""
    fading, ending = np.exp(-beyond / HANGS), np.exp(-((beyond / TEETH_HANG) ** 4))
    return np.asarray(fading + enamel * (ending - fading))


def _tongue(side: Array, depth: Array, most: float) -> Array:
    """Share of the tongue, with its furrow."""
    body = np.clip(1.2 - (side / 0.6) ** 2, 0, 1) * np.clip((depth - 0.5) / 0.35, 0, 1)
    furrow = 1 - 0.12 * np.exp(-((side / 0.06) ** 2))
    return np.asarray(0.7 * min(1.0, most / TONGUE_FROM) * body * furrow)


def _teeth(
    colour: Array,
    tooth: Array,
    place: tuple[Array, Array, Array],
    lengths: Sequence[tuple[float, Array]],
    free: Array,
) -> Array:
    """The upper row, of colours `tooth`, over a colour; darker to the sides, where the arch recedes.

    place: along the mouth in face units, under the lip in pixels, and along it from -1 to 1. lengths: how much is there of teeth of a
    length in pixels, as they are in the middle; of several the most. free: whether they end there, and do not go on in own ones.
    """
    along, under_px, side = place
    arch = np.clip(1 - (np.abs(side) / 0.84) ** 2.4, 0, 1)
    count = along / (TOOTH_WIDTH * (1 - 0.22 * np.abs(side)))
    rounded = np.sqrt(arch) * (1 - 0.12 * np.abs(2 * (count - np.floor(count)) - 1) ** 4)
    between = np.exp(-(((count - np.round(count)) / 0.07) ** 2))
    enamel = tooth * ((0.42 + 0.58 * arch) * (1 - 0.18 * between))[..., None] ** SHADE
    there = np.zeros_like(arch)
    for share, length_px in lengths:
        end = _step(length_px * (1 + free * (rounded - 1)) - under_px, EDGE_PX)
        there = np.maximum(there, share * np.clip(length_px / (2 * EDGE_PX), 0, 1) * end)
    return _mix(colour, enamel, 0.93 * there * np.clip(arch * 3, 0, 1))


def _haze(crop: Array, points: Array) -> float:
    """How bright black is in this picture: what is darkest in the face, eyes and nostrils, beyond what they are themselves."""
    grey = around_mouth(crop, points, EYES_REACH).mean(0)
    return max(0.0, float(np.quantile(0.5 + 0.5 * grey, DARKEST)) - BLACK)


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
