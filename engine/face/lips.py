"""Lips that part: the landmark warp, torn along the seam between them, and the gap that opens.

One smooth field would stretch both lips over the gap. So the field is made twice, for the upper side of the seam without the motions of
the lower lip and jaw and for the lower side without those of the upper lip. Each side of the gap takes its own; towards the corners of
the mouth, and beyond them, both are the same. Between landmarks a lip's edge moves by a curve through their motions: a wide mouth,
whose landmarks lie further apart, opens in one arc as a narrow one does.

What an open mouth shows stays with the lip that moves less. Where that is the lower one, the upper lip rises off the teeth behind it, and
by so much less as it shows of them already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mien.engine.face.seam import NODES, Mouth, colours_at, find_seam
from mien.engine.face.smooth import Steady, gaussian_smooth, ramp, smooth_curve
from mien.engine.face.teeth import light_of, teeth_shown, tooth_colours
from mien.engine.face.warp import (
    Motions,
    backward_field,
    forward_field,
    node_positions,
    sample_field,
)
from mien.engine.types import Array

LOWER_JAW = tuple(range(4, 13))
UPPER_LIP, LOWER_LIP = (*range(49, 54), *range(61, 64)), (*range(55, 60), *range(65, 68))
# The edges that move: 60 and 64 belong to both lips, which part there already.
UPPER_EDGES = (48, 49, 50, 51, 52, 53, 54), (48, 61, 62, 63, 54)
LOWER_EDGES = (48, 59, 58, 57, 56, 55, 54), (48, 67, 66, 65, 54)

GRID = 128  # nodes of the field a side, at most one a pixel: what lies between two of them, across the gap, is mixed
BETWEEN = 3  # points that move with a lip's edge, between two landmarks of it
TAPER = 0.2  # share of half the mouth over which the two fields become one
# Gaps between the lips, in face units: beyond the first it is so wide already that less and less is torn, at the second nothing.
WIDE, WIDEST = 0.22, 0.32
LEAST_GAP_PX = 0.5
# How far behind a lip a mouth's own colours are taken, and how wide a rim of it the lip shadows or is blurred with, in face units. The
# blur along the seam, in nodes.
BEHIND, RIM, ALONG = 0.03, 0.025, 2.0


@dataclass(frozen=True, slots=True)
class Gap:
    """The opening between parted lips, in pixels of the crop.

    origin (2,), axes (2, 2): the middle of the mouth; rows are unit vectors along it and down. across, top, bottom (NODES,): places
    along the mouth, ascending, and the edges of the opening there. unit: of the face, see `face_axes`. shown: 0 where the lips were
    closed to 1 where the mouth showed its own inside. lifted: whether that stays with the lower lip, and not with the upper one.
    beside: (NODES, 3) in [0, 1], its colours beside the seam. teeth: (NODES, 3), see `tooth_colours`. raised: (NODES,) how far up the
    upper edge has gone, at least 0. light: (3,), see `light_of`. share: of the tear, 1 but in a mouth that was wide open.
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
    teeth: Array
    raised: Array
    light: Array
    share: float


@dataclass(frozen=True, slots=True)
class Parting:
    """field: (G, G, 2) backward, in crop pixels. sides: the forward ones above and below the seam. gap: None where none opens."""

    field: Array
    sides: tuple[Array, Array]
    gap: Gap | None


def part_lips(moved: Motions, points: Array, crop: Array, steady: Steady) -> Parting:
    """The parting that motions make in a crop (3, S, S) in [-1, 1] with 68 landmarks in its pixels."""
    size = crop.shape[1]
    grid = min(GRID, size)
    rise, mouth = _rise(moved), Mouth.seen(crop, points)
    light, lifted, unit = steady("light", light_of(crop, points)), rise > 0.0, mouth.unit
    teeth = float(steady("teeth", np.array([teeth_shown(mouth, light) / unit]))[0])
    if lifted:
        moved = _less_lifted(moved, max(0.0, 1.0 - teeth / rise))

    def field_of(still: tuple[int, ...], *edges: tuple[int, ...]) -> Array:
        rest = {point: motion for point, motion in moved.items() if point not in still}
        return forward_field(*_edged(rest, points, edges), size, grid)

    along = mouth.lower[-1] - mouth.lower[0]
    share, width = 1.0 - ramp(mouth.parted, WIDE, WIDEST), float(np.hypot(*along))
    whole = field_of(())
    if share < 1.0:  # lips that are not torn keep their curves
        whole += (1.0 - share) * (field_of((), *UPPER_EDGES, *LOWER_EDGES) - whole)
    if share == 0.0 or width < 2.0:
        return Parting(backward_field(whole, size), (whole, whole), None)
    axes = np.array([along, [-along[1], along[0]]]) / width
    origin = mouth.lower[[0, -1]].mean(0)
    tear = share * _tear(origin, axes, width, node_positions(size, grid))[..., None]
    sides = field_of(LOWER_LIP + LOWER_JAW, *UPPER_EDGES), field_of(UPPER_LIP, *LOWER_EDGES)
    upper, lower = (whole + tear * (side - whole) for side in sides)
    seam, opening = find_seam(crop, mouth, axes[1], lifted, steady)
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
        inwards = axes[1] if lifted else -axes[1]
        into = np.minimum(BEHIND * unit, 0.5 * opening)[:, None]
        beside = gaussian_smooth(colours_at(crop, (seam + into * inwards)[None])[0], ALONG)
        of_teeth = steady("tooth colours", tooth_colours(mouth, light, teeth))
        risen = (seam - origin) @ axes[1] - edges[0][:, 1]
        raised = np.interp(across, edges[0][:, 0], np.maximum(risen, 0.0))
        # What is drawn covers the rim of what the mouth shows, which the lip shadows or is blurred with.
        rim = mouth.shown * np.interp(across, edges[1][:, 0], np.minimum(RIM * unit, 0.25 * opening))
        top, bottom = np.minimum(top, middle) - (not lifted) * rim, np.maximum(bottom, middle) + lifted * rim
        raised += lifted * rim
        gap = Gap(origin, axes, across, top, bottom, unit, mouth.shown, lifted, beside, of_teeth, raised, light, share)
    return Parting(field, (upper, lower), gap)


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
