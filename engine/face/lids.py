"""Lids that close: the skin above an eye comes down over it, lashes and all, and hides what lies behind.

The edges of the lids go towards each other, the upper one most of the way. Beyond them the skin is stretched, above as far as below the
brow; between them the eye stays as it is, as far as it is still open. No smooth field does that: it would squeeze the eye into a line.
What is dark in the stretched lid, its folds and lashes that would point up, gives way to the skin below the eye. The line of the lashes
lies along the edge, as dark as it is found there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.face.points import face_axes
from mien.engine.face.smooth import Steady, gaussian_smooth, ramp
from mien.engine.face.warp import NO_SECOND_MAP
from mien.engine.types import Array
from mien.kernels.color import LUMA, luma_of

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
BROW_SHARE, MEET = 0.6, 0.85
# The steepest end of a cubic from (0, 0) with slope 1 to (1, 1) that still grows (Fritsch and Carlson 1980).
STEEPEST = 3.0
# An eye's width in face units, and the brightness of what is bright in it over that of the skin below: from none to all of it seen.
TURNED_AWAY, DARK_LENS = (0.20, 0.27), (0.34, 0.44)
# The line of the lashes: half its width in face units and in pixels of the frame; its share, less for a line that was
# widened; how far from the edge it is looked for, in face units; how dark it is at least, and its tint, over the skin.
LASHES, LASHES_PIXELS, LASHES_SHARE, SEARCH = 0.018, 1.3, 0.85, 0.02
DARKEST, LASH_TINT = 0.6, np.array([1.04, 0.98, 0.96], np.float32)
# A shut lid: its light over that of the skin below the eye, which stands in, by a share at most, where the stretched lid is darker by so
# much (its folds, lashes that would point up); the blur of that, in face units.
LID_LIGHT, LID_SHARE, FOLD, LID_BLUR = 0.9, 0.9, (0.05, 0.35), 0.008


@dataclass(frozen=True, slots=True)
class Closing:
    """field: (S, S, 2) backward, in crop pixels. edges: (8, 2) where the points UPPER_LIDS and LOWER_LIDS lie then. drawn: a
    picture (3, S, S) in [-1, 1] and its share (S, S).
    """

    field: Array
    edges: Array
    drawn: tuple[Array, Array]


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

    def at_colours(self, colours: Array, along: Array) -> Array:
        """(3, ...): what colours (NODES, 3) are at places along the eye."""
        return np.stack([self.at(colours[:, k], along) for k in range(3)])


@dataclass(frozen=True, slots=True)
class _Part:
    """The pixels around an eye, each (h, w), in pixels of the crop: the place along it, the height above the moved edge, that edge's
    way, the lid's stretch, and how far down what lies there afterwards is fetched.
    """

    along: Array
    above: Array
    way: Array
    stretch: Array
    moved: Array


def close_lids(points: Array, crop: Array, strength: float, pixel: float, steady: Steady) -> Closing:
    """Close the eyes of a crop (3, S, S) in [-1, 1] by a strength in [0, 1]; points: 68 landmarks in its pixels.

    An eye that is turned away stays as it is, and so does one behind a dark lens. pixel: crop pixels that a pixel of the frame is
    wide; the line of the lashes is no narrower.
    """
    size = crop.shape[1]
    field, edges = np.zeros((size, size, 2), np.float32), points[[*UPPER_LIDS, *LOWER_LIDS]]
    picture, share = np.zeros_like(crop), np.zeros((size, size), np.float32)
    unit = float(np.hypot(*face_axes(points)[1]))
    half_px = max(LASHES * unit, LASHES_PIXELS * pixel)
    eyes = list(_eyes(points, unit))
    luma = luma_of(0.5 * crop + 0.5)
    seen = steady("eyes", np.array([_seen(crop, eye, unit) for eye in eyes], np.float32))
    for k, (eye, closed) in enumerate(zip(eyes, map(float, strength * seen), strict=True)):
        for lid, shared in ((edges[2 * k : 2 * k + 2], MEET), (edges[2 * k + 4 : 2 * k + 6], MEET - 1)):
            along = (lid - eye.origin) @ eye.axes[0]
            lid += (closed * shared * eye.at(eye.opening, along))[:, None] * eye.axes[1]
        reach = eye.half + half_px + 2, float(eye.opening.max() + eye.stretch.max() + half_px) + 2
        box = _box(eye, reach, size)
        pixels = np.stack(np.meshgrid(np.arange(size)[box[1]], np.arange(size)[box[0]]), 2)
        if not pixels.size:
            continue
        part = _part(eye, pixels, closed)
        field[box] += (part.moved[..., None] * eye.axes[1]).astype(np.float32)
        source = (pixels + field[box]).astype(np.float32)
        fetched = cv2.remap(luma, source, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        colours = [eye.at_colours(of(crop, eye, unit), part.along) for of in (_lid_colours, _lash_colours)]
        thick = half_px * np.sqrt(np.clip(1 - (part.along / eye.half) ** 2, 0, 1))
        paler = (LASHES * unit / half_px) ** 0.5
        drawn, drawn_share = _draw(part, fetched, closed, colours, thick, paler, LID_BLUR * unit)
        picture[:, *box] = np.where(drawn_share > 0, 2 * drawn - 1, picture[:, *box])
        share[box] = np.maximum(share[box], drawn_share)
    return Closing(field, edges, (picture, share))


def _part(eye: _Eye, pixels: Array, closed: float) -> _Part:
    """pixels: (h, w, 2), x and y in the crop."""
    place = (pixels - eye.origin) @ eye.axes.T
    along, down = place[..., 0], place[..., 1]
    upper, opening, stretch = (eye.at(values, along) for values in (eye.upper, eye.opening, eye.stretch))
    way, back = closed * MEET * opening, closed * (1 - MEET) * opening
    above, below = upper + way - down, down - (upper + opening - back)
    moved = np.where(above > 0, above - way - _stretched(above, way, stretch), 0.0)
    moved += np.where(below > 0, _stretched(below, back, opening + 1) + back - below, 0.0)
    return _Part(along, above, way, stretch, moved)


def _draw(
    part: _Part, fetched: Array, closed: float, colours: Sequence[Array], thick: Array, paler: float, blur_px: float
) -> tuple[Array, Array]:
    """A picture (3, h, w) in [0, 1] of a shut lid and its lashes, and its share (h, w).

    fetched: (h, w) the brightness that the motion brings; colours: of the skin and of the lashes, (3, h, w); thick: (h, w) half
    the width of their line when the lid is down, paler: its share.
    """
    skin, lashes = colours
    darker = (1 - fetched / np.maximum(luma_of(skin), 1e-3) - FOLD[0]) / (FOLD[1] - FOLD[0])
    fading = np.clip(1.5 * (1 - part.above / np.maximum(part.stretch + part.way, 1e-3)), 0, 1) * (part.above > 0)
    smoothed = cv2.GaussianBlur(np.clip(darker, 0, 1) * fading, (0, 0), blur_px)
    lid_share = LID_SHARE * closed * smoothed * (part.above > 0)
    thick = thick * np.clip(part.way / max(float(thick.max()), 1e-3), 0, 1)
    line = np.clip(1.2 * (1.5 - np.abs(part.above) / np.maximum(thick, 1e-3)), 0, 1) * (thick > 0.1)
    line_share = paler * LASHES_SHARE * line
    share = line_share + (1 - line_share) * lid_share
    return skin + (line_share / np.maximum(share, 1e-6)) * (lashes - skin), share


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
        opening = gaussian_smooth(np.maximum(edges[1] - top, 0.0), SOFTNESS)
        brow_px = float(((points[list(brow)] - origin) @ axes[1]).mean())
        stretch = np.maximum(BROW_SHARE * (top - brow_px), 1.0)
        yield _Eye(origin, axes, half, top, opening, stretch)


def _seen(crop: Array, eye: _Eye, unit: float) -> float:
    """How far an eye is to be seen, 0 to 1: not where the head is turned from it, nor behind a dark lens."""
    places = np.linspace(-0.5, 0.5, 9) * eye.half
    inside = eye.at(eye.upper, places)[:, None] + np.linspace(0.3, 0.75, 7) * eye.at(eye.opening, places)[:, None]
    bright = float(np.quantile(_colours(crop, eye, places, inside) @ LUMA, 0.95))
    ratio = bright / max(float(_skin(crop, eye, unit) @ LUMA), 1e-3)
    return ramp(2 * eye.half / BEYOND / unit, *TURNED_AWAY) * ramp(ratio, *DARK_LENS)


def _skin(crop: Array, eye: _Eye, unit: float) -> Array:
    """(3,) in [0, 1]: the skin below an eye."""
    places = np.linspace(-0.5, 0.5, 9) * eye.half
    rows = eye.at(eye.upper + eye.opening, places)[:, None] + np.linspace(0.05, 0.2, 4) * unit
    return np.asarray(_colours(crop, eye, places, rows).mean((0, 1)))


def _lid_colours(crop: Array, eye: _Eye, unit: float) -> Array:
    """(NODES, 3) in [0, 1]: the skin of a shut lid from corner to corner, as that below the eye."""
    places = np.linspace(-eye.half, eye.half, NODES)
    below = _colours(crop, eye, places, (eye.upper + eye.opening)[:, None] + np.linspace(0.06, 0.16, 4) * unit).mean(1)
    return gaussian_smooth(LID_LIGHT * below, SOFTNESS)


def _lash_colours(crop: Array, eye: _Eye, unit: float) -> Array:
    """(NODES, 3) in [0, 1]: as dark as it is near the upper edge, and of the skin's hue."""
    places, skin = np.linspace(-eye.half, eye.half, NODES), _skin(crop, eye, unit)
    dark = (_colours(crop, eye, places, eye.upper[:, None] + np.linspace(-SEARCH, SEARCH, 9) * unit) @ LUMA).min(1)
    share = np.minimum(gaussian_smooth(dark, SOFTNESS) / max(float(skin @ LUMA), 1e-3), DARKEST)
    return np.asarray(np.clip(share[:, None] * skin * LASH_TINT, 0, 1))


def _colours(crop: Array, eye: _Eye, places: Array, rows: Array) -> Array:
    """(n, m, 3) in [0, 1]: the crop's colours at places (n,) along an eye and (n, m) down."""
    at = eye.origin + np.stack(np.broadcast_arrays(places[:, None], rows), 2) @ eye.axes
    x, y = (np.clip(np.rint(at[..., k]).astype(int), 0, crop.shape[1] - 1) for k in (0, 1))
    return np.asarray(0.5 + 0.5 * crop[:, y, x].transpose(1, 2, 0))


def _stretched(beyond: Array, way: Array, stretch: Array) -> Array:
    """Where skin `beyond` an edge comes from that moved by `way`: `stretch` of it covers `stretch + way`, and joins the rest smoothly."""
    whole = np.maximum(stretch + way, 1e-3)
    slope = np.minimum(whole / np.maximum(stretch, 1e-3), STEEPEST)
    u = np.clip(beyond / whole, 0, 1)
    share = u * ((1 - u) ** 2 + u * (3 - 2 * u - slope * (1 - u)))
    return np.asarray(np.where(u < 1, stretch * share, beyond - way))


def _box(eye: _Eye, reach: tuple[float, float], size: int) -> tuple[slice, slice]:
    """Rows and columns of the crop within a reach along and down from the eye's middle."""
    corners = np.array([(a * reach[0], b * reach[1]) for a in (-1, 1) for b in (-1, 1)]) @ eye.axes + eye.origin
    low, high = (np.clip(v, 0, size).astype(int) for v in (corners.min(0), corners.max(0) + 1))
    return slice(low[1], high[1]), slice(low[0], high[0])
