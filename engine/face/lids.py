"""Lids that close: the skin above an eye comes down over it, lashes and all, and hides what lies behind.

The edge of the upper lid goes towards the lower one. Above it the picture is that of the lid, stretched as far as the brow; below it the
eye stays as it is, as far as it is still open. No smooth field does that: it would squeeze the eye into a line. The line of the lashes
lies along the edge, as dark as it is found there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mien.engine.face.points import face_axes
from mien.engine.face.smooth import gaussian_smooth, ramp
from mien.engine.types import Array

# Of each eye the upper and the lower edge from corner to corner, and the brow above it.
EYES = (
    ((36, 37, 38, 39), (36, 41, 40, 39), (18, 19, 20)),
    ((42, 43, 44, 45), (42, 47, 46, 45), (23, 24, 25)),
)
UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)
# Places along an eye, to so far beyond its corners; the blur of the opening, in places.
NODES, BEYOND, SOFTNESS = 41, 1.25, 3.0
# How far above its landmarks the lid's edge is taken to be, in face units: lashes rather than a rim of the eye.
MARGIN = 0.012
# Shares of the way to the brow, over which the lid is stretched, and of the way to the lower edge, where the lids meet.
BROW_SHARE, CLOSED = 0.6, 0.88
ITERATIONS, DAMPING = 16, 0.6
# An eye's width in face units, and the brightness of what is bright in it over that of the skin below: from none to all of it seen.
TURNED_AWAY, DARK_LENS = (0.20, 0.27), (0.34, 0.44)
# The line of the lashes: half its width in face units and in pixels of the frame; its share; how far from the edge it is looked for, in
# face units; how dark it is at least, and its tint, over the skin.
LASHES, LASHES_PIXELS, LASHES_SHARE, SEARCH = 0.018, 0.8, 0.85, 0.02
DARKEST, LASH_TINT = 0.6, np.array([1.15, 0.95, 0.9], np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Closing:
    """field: (S, S, 2) backward, in crop pixels. edges: (8, 2) where the points UPPER_LIDS and LOWER_LIDS lie then. lashes: a
    picture (3, S, S) in [-1, 1] and its share (S, S).
    """

    field: Array
    edges: Array
    lashes: tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class _Eye:
    """An eye in its own frame, lengths in pixels of the crop.

    origin (2,), axes (2, 2): the middle between the corners; rows are unit vectors along and down. half: of its width. upper, opening:
    (NODES,) places of the upper edge and its whole way down, from corner to corner. stretch: of the lid above the edge.
    """

    origin: Array
    axes: Array
    half: float
    upper: Array
    opening: Array
    stretch: Array

    def at(self, values: Array, along: Array) -> Array:
        """What `values` (NODES,) are at places along the eye; 0 beyond its corners."""
        places = np.linspace(-self.half, self.half, NODES)
        return np.interp(along, places, values, left=0.0, right=0.0)


def close_lids(
    points: Array, crop: Array, strength: float, pixel: float, steady: Callable[[str, Array], Array]
) -> Closing:
    """Close the eyes of a crop (3, S, S) in [-1, 1] by a strength in [0, 1]; points: 68 landmarks in its pixels.

    An eye that is turned away stays as it is, and so does one behind a dark lens. pixel: crop pixels that a pixel of the frame is
    wide; the line of the lashes is no narrower. steady: averages named values over the frames of a track.
    """
    size = crop.shape[1]
    field, edges = np.zeros((size, size, 2), np.float32), points[[*UPPER_LIDS, *LOWER_LIDS]]
    picture, share = np.zeros_like(crop), np.zeros((size, size), np.float32)
    unit = float(np.hypot(*face_axes(points)[1]))
    half_px = max(LASHES * unit, LASHES_PIXELS * pixel)
    eyes = list(_eyes(points, unit))
    seen = steady("eyes", np.array([_seen(crop, eye, unit) for eye in eyes], np.float32))
    for edge, eye, share_seen in zip((edges[:2], edges[2:4]), eyes, map(float, seen), strict=True):
        along = (edge - eye.origin) @ eye.axes[0]
        edge += (strength * share_seen * eye.at(eye.opening, along))[:, None] * eye.axes[1]
        reach = eye.half + half_px + 2, float(eye.opening.max() + eye.stretch.max() + half_px) + 2
        rows, columns = _box(eye, reach, size)
        x, y = np.meshgrid(np.arange(size)[columns], np.arange(size)[rows])
        if not x.size:
            continue
        place = (np.stack([x, y], 2) - eye.origin) @ eye.axes.T
        along, down = place[..., 0], place[..., 1]
        upper, way = eye.at(eye.upper, along), strength * share_seen * eye.at(eye.opening, along)
        from_line = down - (upper + way)
        lid = _fetched(down, upper, way, eye.at(eye.stretch, along)) - down
        field[rows, columns] += (np.where(from_line < 0, lid, 0.0)[..., None] * eye.axes[1]).astype(np.float32)
        thick = half_px * np.sqrt(np.clip(1 - (along / eye.half) ** 2, 0, 1)) * np.clip(way / half_px, 0, 1)
        line = np.clip(1.2 * (1.5 - np.abs(from_line) / np.maximum(thick, 1e-3)), 0, 1) * (thick > 0.1)
        share[rows, columns] = np.maximum(share[rows, columns], LASHES_SHARE * line)
        colours = _lash_colours(crop, eye, unit)
        own = np.stack([eye.at(colours[:, k], along) for k in range(3)])
        picture[:, rows, columns] = np.where(line > 0, own, picture[:, rows, columns])
    return Closing(field, edges, (picture, share))


def _eyes(points: Array, unit: float) -> Iterator[_Eye]:
    for upper, lower, brow in EYES:
        ends = points[[upper[0], upper[-1]]]
        width = max(float(np.hypot(*(ends[1] - ends[0]))), 1e-3)
        along = (ends[1] - ends[0]) / width
        axes, origin, half = np.array([along, [-along[1], along[0]]]), ends.mean(0), 0.5 * BEYOND * width
        places = np.linspace(-BEYOND, BEYOND, NODES)
        inside, edges = np.clip(places, -1, 1), []
        for line in (upper, lower):
            at = (points[list(line)] - origin) @ axes.T
            edges.append(np.polyval(np.polyfit(2 * at[:, 0] / width, at[:, 1], 3), inside))
        top = edges[0] - MARGIN * unit * np.sqrt(1 - inside**2)
        opening = gaussian_smooth(CLOSED * np.maximum(edges[1] - top, 0.0), SOFTNESS)
        brow_px = float(((points[list(brow)] - origin) @ axes[1]).mean())
        stretch = np.maximum(BROW_SHARE * (top - brow_px), 0.7 * opening.max() + 1.0)
        yield _Eye(origin, axes, half, top, opening, stretch)


def _seen(crop: Array, eye: _Eye, unit: float) -> float:
    """How far an eye is to be seen, 0 to 1: not where the head is turned from it, nor behind a dark lens."""
    places = np.linspace(-0.5, 0.5, 9) * eye.half
    inside = eye.at(eye.upper, places)[:, None] + np.linspace(0.3, 0.85, 7) * eye.at(eye.opening, places)[:, None]
    bright = float(np.quantile(_colours(crop, eye, places, inside) @ _LUMA, 0.95))
    ratio = bright / max(float(_skin(crop, eye, unit) @ _LUMA), 1e-3)
    return ramp(2 * eye.half / BEYOND / unit, *TURNED_AWAY) * ramp(ratio, *DARK_LENS)


def _skin(crop: Array, eye: _Eye, unit: float) -> Array:
    """(3,) in [0, 1]: the skin below an eye."""
    places = np.linspace(-0.5, 0.5, 9) * eye.half
    rows = eye.at(eye.upper + eye.opening, places)[:, None] + np.linspace(0.05, 0.2, 4) * unit
    return np.asarray(_colours(crop, eye, places, rows).mean((0, 1)))


def _lash_colours(crop: Array, eye: _Eye, unit: float) -> Array:
    """(NODES, 3) in [-1, 1]: as dark as it is near the upper edge, and of the skin's hue."""
    places, skin = np.linspace(-eye.half, eye.half, NODES), _skin(crop, eye, unit)
    dark = (_colours(crop, eye, places, eye.upper[:, None] + np.linspace(-SEARCH, SEARCH, 9) * unit) @ _LUMA).min(1)
    share = np.minimum(gaussian_smooth(dark, SOFTNESS) / max(float(skin @ _LUMA), 1e-3), DARKEST)
    return np.asarray(np.clip(share[:, None] * skin * LASH_TINT, 0, 1) * 2 - 1)


def _colours(crop: Array, eye: _Eye, places: Array, rows: Array) -> Array:
    """(n, m, 3) in [0, 1]: the crop's colours at places (n,) along an eye and (n, m) down."""
    at = eye.origin + np.stack(np.broadcast_arrays(places[:, None], rows), 2) @ eye.axes
    x, y = (np.clip(np.rint(at[..., k]).astype(int), 0, crop.shape[1] - 1) for k in (0, 1))
    return np.asarray(0.5 + 0.5 * crop[:, y, x].transpose(1, 2, 0))


def _fetched(down: Array, upper: Array, way: Array, stretch: Array) -> Array:
    """Where a place of the closed lid comes from: the d with d + way w((upper - d) / stretch) = down, by damped iteration."""
    out = down - way
    for _ in range(ITERATIONS):
        v = np.clip((upper - out) / np.maximum(stretch, 1e-3), 0, 1)
        held = 1 - v + 0.3 * np.sin(2 * np.pi * v) / (2 * np.pi)  # 1 at the edge, 0 at the brow
        out = out + DAMPING * (down - way * held - out)
    return np.asarray(out)


def _box(eye: _Eye, reach: tuple[float, float], size: int) -> tuple[slice, slice]:
    """Rows and columns of the crop within a reach along and down from the eye's middle."""
    corners = np.array([(a * reach[0], b * reach[1]) for a in (-1, 1) for b in (-1, 1)]) @ eye.axes + eye.origin
    low, high = (np.clip(v, 0, size).astype(int) for v in (corners.min(0), corners.max(0) + 1))
    return slice(low[1], high[1]), slice(low[0], high[0])
