"""Where lips meet or part in a crop: whether a mouth shows its inside, and the line along which the picture is torn.

Landmarks of the inner lips lie seldom nearer to it than two or three pixels of a crop. Where lips touch it is the darkest line near them;
where they part, the line along which the redness of a lip ends, be it at teeth or at a dark cavity, so that what the mouth shows is
not torn with the lip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.face.points import face_axes
from mien.engine.face.smooth import Steady, gaussian_smooth, ramp, smooth_curve
from mien.engine.face.warp import NO_SECOND_MAP
from mien.engine.types import Array
from mien.kernels.color import luma_of

NODES = 48  # of the seam
MIDDLE = slice(NODES // 4, NODES - NODES // 4)
INNER_UPPER, INNER_LOWER = (48, 60, 61, 62, 63, 64, 54), (48, 60, 67, 66, 65, 64, 54)
LIPS_MIDDLE = ((50, 51, 52, 56, 57, 58), (61, 62, 63, 67, 66, 65))  # outer and inner landmarks on both sides of it
# Gaps between the lips, in face units: up to the first they count as closed, from the second on the mouth's own inside shows. It has
# to be seen, too: how far its redness or brightness is from that of the lips, as a share of it.
CLOSED, PARTED = 0.03, 0.07
ALIKE, UNLIKE = 0.15, 0.3
# Teeth tell sooner than a dark line, which touching lips have, too: the gaps; how much paler; how bright, as a share of the lips.
TEETH_PARTED, TEETH_UNLIKE, DARK = (0.005, 0.04), (0.25, 0.5), (0.4, 0.6)
DEPTHS = (np.arange(9) + 0.5) / 9  # of the opening, at which a mouth's inside is looked at

# How far from a lip's landmarks the seam may lie, in face units, and twice as far where lips part, but into such a mouth no more than a
# share of the gap; steps in pixels; what a shade darker (of the scale 0 to 1) is worth against the whole of that distance, and against a
# bend by one step from node to node; what a fall of redness is worth against darkness.
REACH, INTO_GAP, STEP_PX, DARKNESS, HOME, BEND, REDNESS = 0.05, 0.4, 0.5, 8.0, 0.35, 0.35, 2.0
# Shares of the line at its ends along which the picture counts for less: of lips that touch, and that part.
ENDS_CLOSED, ENDS_PARTED = 0.15, 0.05
# The blur of the picture, and of the path. How far beyond the middle of its edge, in face units, a lower lip reddens what is behind it.
PICTURE_BLUR_PX, PATH_BLUR, REDDENED = 0.7, 2.0, 0.012


@dataclass(frozen=True, slots=True)
class Mouth:
    """A mouth in a crop. upper, lower: (NODES, 2), the inner edges of the lips by their landmarks, from left to right. unit: of the face,
    see `face_axes`. inside: (DEPTHS, NODES, 3) in [0, 1], the colours between them. parted: the mean gap in the middle, in face units.
    shown: 0 where the mouth shows nothing of its inside to 1 where it does.
    """

    upper: Array
    lower: Array
    unit: float
    inside: Array
    parted: float
    shown: float

    @classmethod
    def seen(cls, crop: Array, points: Array) -> Mouth:
        """Of a crop (3, S, S) in [-1, 1] with 68 landmarks in its pixels."""
        unit = float(np.hypot(*face_axes(points)[1]))
        upper, lower = (points[list(edge)] for edge in (INNER_UPPER, INNER_LOWER))
        parted = float(np.hypot(*(lower - upper)[2:-2].T).mean()) / unit
        curves = _curve(upper), _curve(lower)
        inside = colours_at(crop, curves[0] + DEPTHS[:, None, None] * (curves[1] - curves[0]))
        lips = colours_at(crop, 0.5 * (points[list(LIPS_MIDDLE[0])] + points[list(LIPS_MIDDLE[1])])[None])
        unlike, teeth = _unlike(inside[:, MIDDLE], lips)
        shown = max(
            ramp(parted, CLOSED, PARTED) * ramp(unlike, ALIKE, UNLIKE),
            ramp(parted, *TEETH_PARTED) * ramp(teeth, *TEETH_UNLIKE),
        )
        return cls(*curves, unit, inside, parted, shown)


def colours_at(crop: Array, places: Array) -> Array:
    """(h, w, 3) in [0, 1]: a crop's colours at places (h, w, 2)."""
    at = places.astype(np.float32)
    seen = [cv2.remap(p, at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in crop]
    return np.asarray(0.5 + 0.5 * np.stack(seen, 2))


def find_seam(crop: Array, mouth: Mouth, down: Array, lifted: bool, steady: Steady) -> tuple[Array, Array]:
    """(NODES, 2) where the picture is torn, along the upper lip if that is lifted, else along the lower one; and (NODES,) how many
    pixels there are from there to the other lip, at least 0.

    down: the unit vector from lip to lip.
    """
    own, other, inwards = (mouth.upper, mouth.lower, down) if lifted else (mouth.lower, mouth.upper, -down)
    line = own + 0.5 * (1.0 - mouth.shown) * (other - own)
    opening = np.maximum((other - line) @ inwards, 0.0)
    seen = cv2.GaussianBlur(luma_of(0.5 * crop + 0.5), (0, 0), PICTURE_BLUR_PX)
    seen = seen + np.float32(mouth.shown) * (REDNESS * _redder_inwards(crop, inwards) - seen)
    reach = (1.0 + mouth.shown) * REACH * mouth.unit
    furthest = mouth.shown * INTO_GAP * opening + (1.0 - mouth.shown) * reach
    ends = ENDS_CLOSED + mouth.shown * (ENDS_PARTED - ENDS_CLOSED)
    offset = steady("seam", darkest_line(seen, line, inwards, reach, furthest, ends))
    if not lifted:
        offset = offset + mouth.shown * REDDENED * mouth.unit
    return line + offset[:, None] * inwards, np.maximum(opening - offset, 0.0)


def darkest_line(luma: Array, line: Array, inwards: Array, reach_px: float, furthest: Array, ends: float) -> Array:
    """(NODES,) how many pixels inwards from a line (NODES, 2) the darkest smooth one near it runs, by dynamic programming.

    luma: (S, S). inwards: the unit vector. furthest: (NODES,) in pixels. ends: the share of the line, at each end of it, along which
    the picture counts for less.
    """
    half = max(2, round(reach_px / STEP_PX))
    steps = np.arange(-half, half + 1) * STEP_PX
    at = (line[:, None] + steps[:, None] * inwards).astype(np.float32)
    seen = cv2.remap(luma, at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    from_end = np.minimum(np.arange(len(line)), np.arange(len(line))[::-1]) / (ends * len(line))
    sure = DARKNESS * np.minimum(1.0, from_end)[:, None]
    cost = sure * (seen - seen.mean(1, keepdims=True)) + HOME * (steps / (half * STEP_PX)) ** 2
    cost[steps > furthest[:, None]] = np.inf
    bend = BEND * np.abs(steps[:, None] - steps)
    best, came = cost[0], np.zeros(cost.shape, int)
    for node in range(1, len(line)):
        ways = best + bend
        came[node] = ways.argmin(1)
        best = ways.min(1) + cost[node]
    path = np.empty(len(line), int)
    path[-1] = best.argmin()
    for node in range(len(line) - 1, 0, -1):
        path[node - 1] = came[node, path[node]]
    return gaussian_smooth(steps[path], PATH_BLUR)


def _redder_inwards(crop: Array, inwards: Array) -> Array:
    """(S, S): how much redder the picture is a pixel inwards than a pixel outwards; lowest where a lip ends."""
    red = cv2.GaussianBlur(0.5 * (crop[0] - crop[1]), (0, 0), PICTURE_BLUR_PX)
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, red.shape[::-1]
    shifts = (np.array([[1, 0, sign * inwards[0]], [0, 1, sign * inwards[1]]]) for sign in (1, -1))
    inner, outer = (cv2.warpAffine(red, s, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for s in shifts)
    return np.asarray(inner - outer)


def _unlike(inside: Array, lips: Array) -> tuple[float, float]:
    """How far colours between the lips (DEPTHS, n, 3) are, where they are furthest, from the redness or the brightness of the lips
    (1, m, 3), as a share of these; and from their redness alone, where it is not dark.
    """
    (red_inside, bright_inside), (red, bright) = (
        (np.median(seen[..., 0] - seen[..., 1], 1), np.median(seen.mean(-1), 1)) for seen in (inside, lips)
    )
    paler, share = 1.0 - red_inside / np.maximum(red, 0.02), bright_inside / np.maximum(bright, 0.02)
    lit = np.clip((share - DARK[0]) / (DARK[1] - DARK[0]), 0, 1)
    return float(max(paler.max(), np.abs(share - 1.0).max())), float((paler * lit).max())


def _curve(line: Array) -> Array:
    """A Catmull-Rom curve through a polyline (k, 2) as NODES points (NODES, 2), evenly spaced."""
    dense = smooth_curve(line, 4 * NODES)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(dense, axis=0).T))])
    even = np.linspace(0, length[-1], NODES)
    return np.stack([np.interp(even, length, dense[:, k]) for k in (0, 1)], 1)
