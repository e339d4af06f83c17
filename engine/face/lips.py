"""Lips that part: the landmark warp, torn along the seam between them, and the gap that opens.

One smooth field would stretch both lips over the gap. So the field is made twice, for the upper side of the seam without the motions of
the lower lip and jaw and for the lower side without those of the upper lip. Each side of the gap takes its own; towards the corners of
the mouth, and beyond them, both are the same. Between landmarks a lip's edge moves by a curve through their motions: a wide mouth,
whose landmarks lie further apart, opens in one arc as a narrow one does. The seam is the darkest line near the landmarks of the inner
lips, which are seldom nearer to it than two or three pixels of a crop.

What an open mouth shows stays with the lip that moves less. Where that is the lower one, the upper lip rises off the teeth behind it, and
by so much less as it shows of them already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.face.points import face_axes
from mien.engine.face.smooth import gaussian_smooth, ramp, smooth_curve
from mien.engine.face.teeth import light_of, teeth_shown
from mien.engine.face.warp import (
    NO_SECOND_MAP,
    Motions,
    backward_field,
    forward_field,
    node_positions,
    sample_field,
)
from mien.engine.types import Array
from mien.kernels.color import luma_of

LOWER_JAW = tuple(range(4, 13))
UPPER_LIP, LOWER_LIP = (*range(49, 54), *range(61, 64)), (*range(55, 60), *range(65, 68))
INNER_UPPER, INNER_LOWER = (48, 60, 61, 62, 63, 64, 54), (48, 60, 67, 66, 65, 64, 54)
# The edges that move: 60 and 64 belong to both lips, which part there already.
UPPER_EDGES = (48, 49, 50, 51, 52, 53, 54), (48, 61, 62, 63, 54)
LOWER_EDGES = (48, 59, 58, 57, 56, 55, 54), (48, 67, 66, 65, 54)

GRID = 128  # nodes of the field a side, at most one a pixel: what lies between two of them, across the gap, is mixed
NODES = 48  # of the seam
BETWEEN = 3  # points that move with a lip's edge, between two landmarks of it
TAPER = 0.2  # share of half the mouth over which the two fields become one
# Gaps between the lips, in face units: up to the first they count as closed, from the second on the mouth's own inside shows;
# beyond the third it is so wide already that less and less is torn, at the fourth nothing.
CLOSED, PARTED, WIDE, WIDEST = 0.03, 0.07, 0.22, 0.32
LEAST_GAP_PX = 0.5

# The seam: how far from a lip's landmarks it may lie, in face units, but into a mouth that shows its inside no more than a share of
# the gap; steps in pixels; what a shade darker (of the scale 0 to 1) is worth against the whole of that
# distance, and against a bend by one step from node to node. The blur of the picture, and of the path.
REACH, INTO_GAP, STEP_PX, DARKNESS, HOME, BEND = 0.05, 0.4, 0.5, 8.0, 0.35, 0.35
LUMA_BLUR_PX, PATH_BLUR = 0.7, 2.0
# How far from the seam a mouth's own colours are taken, above it and behind a lip that rises.
BESIDE, BEHIND = 0.015, 0.05


@dataclass(frozen=True, slots=True)
class Gap:
    """The opening between parted lips, in pixels of the crop.

    origin (2,), axes (2, 2): the middle of the mouth; rows are unit vectors along it and down. across, top, bottom (NODES,): places
    along the mouth, ascending, and the edges of the opening there. unit: of the face, see `face_axes`. shown: 0 where the lips were
    closed to 1 where the mouth showed its own inside. lifted: whether that stays with the lower lip, and not with the upper one.
    beside: (NODES, 3) in [0, 1], its colours beside the seam. raised: (NODES,) how far up the upper edge has gone, at least 0. light:
    (3,), see `light_of`. share: of the tear, 1 but in a mouth that was wide open.
    """

    origin: Array
    axes: Array
    across: Array
    top: Array
    bottom: Array
    unit: float
    shown: float
    lifted: bool
    beside: Array
    raised: Array
    light: Array
    share: float


@dataclass(frozen=True, slots=True)
class Parting:
    """field: (G, G, 2) backward, in crop pixels. sides: the forward ones above and below the seam. gap: None where none opens."""

    field: Array
    sides: tuple[Array, Array]
    gap: Gap | None


def part_lips(moved: Motions, points: Array, crop: Array, steady: Callable[[str, Array], Array]) -> Parting:
    """The parting that motions make in a crop (3, S, S) in [-1, 1] with 68 landmarks in its pixels.

    steady: averages named values over the frames of a track.
    """
    size = crop.shape[1]
    grid = min(GRID, size)
    unit, rise = float(np.hypot(*face_axes(points)[1])), _rise(moved)
    upper_edge, lower_edge = points[list(INNER_UPPER)], points[list(INNER_LOWER)]
    light, lifted = steady("light", light_of(crop, points)), rise > 0.0
    if lifted:
        teeth = steady("teeth", np.array([teeth_shown(crop, light, _curve(upper_edge), _curve(lower_edge)) / unit]))
        moved = _less_lifted(moved, max(0.0, 1.0 - float(teeth[0]) / rise))

    def field_of(still: tuple[int, ...], *edges: tuple[int, ...]) -> Array:
        rest = {point: motion for point, motion in moved.items() if point not in still}
        return forward_field(*_edged(rest, points, edges), size, grid)

    along = lower_edge[-1] - lower_edge[0]
    parted = float(np.hypot(*(lower_edge - upper_edge)[2:-2].T).mean()) / unit
    share = 1.0 - ramp(parted, WIDE, WIDEST)
    width = float(np.hypot(*along))
    whole = field_of(())
    if share < 1.0:  # lips that are not torn keep their curves
        whole += (1.0 - share) * (field_of((), *UPPER_EDGES, *LOWER_EDGES) - whole)
    if share == 0.0 or width < 2.0:
        return Parting(backward_field(whole, size), (whole, whole), None)
    axes = np.array([along, [-along[1], along[0]]]) / width
    origin = lower_edge[[0, -1]].mean(0)
    tear = share * _tear(origin, axes, width, node_positions(size, grid))[..., None]
    sides = field_of(LOWER_LIP + LOWER_JAW, *UPPER_EDGES), field_of(UPPER_LIP, *LOWER_EDGES)
    upper, lower = (whole + tear * (side - whole) for side in sides)
    shown = ramp(parted, CLOSED, PARTED)
    seam, inside = _seam(crop, (upper_edge, lower_edge), axes[1], unit, shown, lifted, steady)
    edges = [(seam + sample_field(side, seam, size) - origin) @ axes.T for side in (upper, lower)]
    for edge in edges:  # the landmarks of a corner may lie one behind the other
        edge[:, 0] = np.maximum.accumulate(edge[:, 0])
    across = np.linspace(max(e[0, 0] for e in edges), min(e[-1, 0] for e in edges), NODES)
    top, bottom = (np.interp(across, e[:, 0], e[:, 1]) for e in edges)
    middle = 0.5 * (top + bottom)
    x, y = np.meshgrid(*2 * [node_positions(size, grid)])
    place = (np.stack([x, y], 2) - origin) @ axes.T
    below = place[..., 1:] > np.interp(place[..., :1], across, middle)
    field = np.where(below, backward_field(lower, size), backward_field(upper, size))
    gap = None
    if float((bottom - top).max()) > LEAST_GAP_PX:
        beside = _colours(crop, inside)
        risen = (seam - origin) @ axes[1] - edges[0][:, 1]
        raised = np.interp(across, edges[0][:, 0], np.maximum(risen, 0.0))
        top, bottom = np.minimum(top, middle), np.maximum(bottom, middle)
        gap = Gap(origin, axes, across, top, bottom, unit, shown, lifted, beside, raised, light, share)
    return Parting(field, (upper, lower), gap)


def darkest_line(luma: Array, line: Array, inwards: Array, unit: float, furthest: Array) -> Array:
    """(NODES,) how many pixels inwards from a line (NODES, 2) the darkest smooth one near it runs, by dynamic programming.

    luma: (S, S) in [0, 1]. inwards: the unit vector. furthest: (NODES,) in pixels. At its ends the picture counts for nothing.
    """
    half = max(2, round(REACH * unit / STEP_PX))
    steps = np.arange(-half, half + 1) * STEP_PX
    at = (line[:, None] + steps[:, None] * inwards).astype(np.float32)
    seen = cv2.remap(luma, at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    from_end = np.minimum(np.arange(len(line)), np.arange(len(line))[::-1]) / (0.15 * len(line))
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


def _seam(
    crop: Array,
    edges: tuple[Array, Array],
    down: Array,
    unit: float,
    shown: float,
    lifted: bool,
    steady: Callable[[str, Array], Array],
) -> tuple[Array, Array]:
    """(NODES, 2) where the picture is torn, and as many places beside it, in what the mouth shows. edges: inner ones of both lips."""
    own, other = edges if lifted else edges[::-1]
    inwards = down if lifted else -down
    line = _curve(own + 0.5 * (1.0 - shown) * (other - own))
    opening = np.maximum((_curve(other) - line) @ inwards, 0.0)
    luma = cv2.GaussianBlur(luma_of(0.5 * crop + 0.5), (0, 0), LUMA_BLUR_PX)
    furthest = shown * INTO_GAP * opening + (1.0 - shown) * REACH * unit
    seam = line + steady("seam", darkest_line(luma, line, inwards, unit, furthest))[:, None] * inwards
    into = np.minimum(BEHIND * unit, 0.5 * opening)[:, None] if lifted else BESIDE * unit
    return seam, seam + into * inwards


def _rise(moved: Motions) -> float:
    """How far up motions take the upper lip, in face units, where that is further than the lower one goes down; else 0."""
    up, down = (sum(moved[p][1] for p in lip if p in moved) / 3 for lip in ((61, 62, 63), (65, 66, 67)))
    return -up if -up > max(down, 0.0) else 0.0


def _less_lifted(moved: Motions, share: float) -> Motions:
    """Motions that raise the upper lip by a share of what they did."""
    return {p: (dx, share * dy if p in UPPER_LIP else dy, sigma) for p, (dx, dy, sigma) in moved.items()}


def _edged(moved: Motions, points: Array, edges: Sequence[tuple[int, ...]]) -> tuple[Motions, Array]:
    """Motions and points (68 + n, 2), in crop pixels: those of the 68 landmarks, and BETWEEN more between neighbours along edges, on
    curves through their places and motions. An edge is left as it is where one of its landmarks has no motion.
    """
    out, more = dict(moved), [points]
    for edge in edges:
        if not all(point in moved for point in edge):
            continue
        known = np.concatenate([points[list(edge)], [moved[point] for point in edge]], 1)
        curve = smooth_curve(known, (len(edge) - 1) * (BETWEEN + 1) + 1)
        between = curve[np.arange(len(curve)) % (BETWEEN + 1) > 0]
        first = sum(map(len, more))
        out |= {first + i: tuple(row[2:]) for i, row in enumerate(between.tolist())}
        more.append(between[:, :2])
    return out, np.concatenate(more)


def _tear(origin: Array, axes: Array, width: float, nodes: Array) -> Array:
    """(G, G) at nodes (G,): 1 in the middle of the mouth, 0 from its corners outwards."""
    x, y = np.meshgrid(*(nodes - o for o in origin))
    aside = np.abs(x * axes[0, 0] + y * axes[0, 1]) / (0.5 * width)
    t = np.clip((1.0 - aside) / TAPER, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _curve(line: Array) -> Array:
    """A Catmull-Rom curve through a polyline (k, 2) as NODES points (NODES, 2), evenly spaced."""
    dense = smooth_curve(line, 4 * NODES)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(dense, axis=0).T))])
    even = np.linspace(0, length[-1], NODES)
    return np.stack([np.interp(even, length, dense[:, k]) for k in (0, 1)], 1)


def _colours(crop: Array, places: Array) -> Array:
    """(n, 3) in [0, 1]: a crop's colours at places (n, 2), smoothed along them."""
    at = places[:, None].astype(np.float32)
    seen = [cv2.remap(p, at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0] for p in crop]
    return 0.5 + 0.5 * gaussian_smooth(np.stack(seen, 1), PATH_BLUR)
