"""The landmark warp: edits' motions of landmarks become one smooth displacement field over the crop.

F(q) = sum_i k_i(q) d_i / max(1, sum_i k_i(q)) with k_i a Gaussian around landmark i moves the point q to q + F(q). The
compositor wants the opposite, where a picture point comes from: B with out(p) = src(p + B(p)), so B(p) = -F(p + B(p)),
found by damped iteration on a coarse grid: it converges where F stretches by less than 1 + F' = 2 / DAMPING, a parting pair of
lips included, and where F does not fold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from mien.engine.face.points import face_axes
from mien.engine.manifest import LandmarkShift
from mien.engine.types import Array

GRID = 64
ITERATIONS, DAMPING = 10, 0.6
POINT_ITERATIONS, POINT_DAMPING = 30, 0.4
# In crop pixels; moves no 8-bit sample by more than half a code even at an edge from black to white. Without it the tails
# of the Gaussians move three times as many samples as can be seen to move.
STILL_PX = 1 / 512

NO_THIRD: Any = None  # of gemm's matrices
NO_SECOND_MAP: Any = None  # where the first map has both coordinates; an empty array reads beyond its end in OpenCV 5

Motions = dict[int, tuple[float, float, float]]
"""landmark -> (dx, dy, sigma): in inter-ocular distances, along the face's own axes."""


def motions(templates: Iterable[tuple[tuple[LandmarkShift, ...], float]]) -> Motions:
    """Templates with their strengths, added up by landmark; where two carry one landmark the wider sigma holds.

    A landmark with no motion holds its surroundings still, by its share of the normalisation.
    """
    out: Motions = {}
    for shifts, strength in templates:
        for shift in shifts:
            x, y = (strength, strength) if strength > 0 else (strength * shift.back[0], strength * shift.back[1])
            for point in shift.points:
                dx, dy, sigma = out.get(point, (0.0, 0.0, 0.0))
                out[point] = (dx + x * shift.dx, dy + y * shift.dy, max(sigma, shift.sigma))
    return out


def scaled(moved: Motions, weight: float) -> Motions:
    """Motions of so many times their size."""
    return {point: (weight * dx, weight * dy, sigma) for point, (dx, dy, sigma) in moved.items()}


def node_positions(size: int, grid: int = GRID) -> Array:
    """(G,) crop coordinates of the grid's nodes: (j + 0.5) size / G - 0.5."""
    return np.asarray((np.arange(grid) + 0.5) * (size / grid) - 0.5)


def forward_field(moved: Motions, points: Array, size: int, grid: int = GRID) -> Array:
    """(G, G, 2) F in crop pixels; points: 68 landmarks in crop pixels.

    The Gaussians are isotropic, so each is a product of a row and a column whatever the face's roll, and the sums are
    matrix products. OpenCV's, in this thread: numpy's are handed to threads, which are waited for a hundred times as long as the
    sums take where other work has the cores.
    """
    axis_x, axis_y = face_axes(points)
    unit = float(np.hypot(*axis_y))
    index = np.fromiter(moved, int)
    values = np.array(list(moved.values()))
    d = values[:, :1] * axis_x + values[:, 1:2] * axis_y
    nodes = node_positions(size, grid)
    width = values[:, 2] * unit
    x, y = (np.exp(-0.5 * ((nodes - points[index, a][:, None]) / width[:, None]) ** 2) for a in (0, 1))
    total, *sums = (
        cv2.gemm(y * scale, x, 1.0, NO_THIRD, 0.0, flags=cv2.GEMM_1_T) for scale in (1.0, d[:, :1], d[:, 1:])
    )
    return np.asarray(np.stack(sums, 2) / np.maximum(total, 1.0)[..., None])


def backward_field(forward: Array, size: int) -> Array:
    """(G, G, 2) B in crop pixels with out(p) = src(p + B(p)); F is continued beyond the grid by its edge."""
    grid = forward.shape[0]
    here = _positions(grid)
    field = forward.astype(np.float32)
    step = field * np.float32(DAMPING)
    back: Array = -field
    to_nodes = np.float32(grid / size)
    there = np.empty_like(back)
    for _ in range(ITERATIONS):
        np.multiply(back, to_nodes, out=there)
        np.add(there, here, out=there)
        fetched = cv2.remap(step, there, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.multiply(back, np.float32(1 - DAMPING), out=back)
        np.subtract(back, fetched, out=back)
    return back


def warp_field(moved: Motions, points: Array, support: Array, size: int, grid: int = GRID) -> Array | None:
    """(G, G, 2) float32 backward field in crop pixels, times the support (P, P) in [0, 1]; None where nothing moves.

    The Gaussians' far tails are cut, see `held_still`.
    """
    if not any(dx or dy for dx, dy, _ in moved.values()):
        return None
    return held_still(backward_field(forward_field(moved, points, size, grid), size), support)


def held_still(back: Array, support: Array) -> Array:
    """A backward field (G, G, 2) float32 times the support (P, P) in [0, 1]; motions of less than STILL_PX become none."""
    grid = len(back)
    held = cv2.resize(support, (grid, grid), interpolation=cv2.INTER_AREA)
    held[np.hypot(back[..., 0], back[..., 1]) * held < STILL_PX] = 0
    return np.asarray(back * held[..., None], np.float32)


def sample_field(field: Array, places: Array, size: int) -> Array:
    """(n, 2) the values of a field (G, G, 2) at places (n, 2) in pixels of a crop of side `size`, its edge continued."""
    at = ((places[:, None] + 0.5) * (len(field) / size) - 0.5).astype(np.float32)
    values = cv2.remap(field.astype(np.float32), at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values[:, 0])


def warp_crop(image: Array, field: Array) -> Array:
    """A crop (C, S, S) float32 sampled through a backward field (G, G, 2), the field bilinear between nodes as in the
    compositor.
    """
    size, grid = image.shape[1], field.shape[0]
    out = image.copy()
    moves = (field[..., 0] != 0) | (field[..., 1] != 0)
    rows, columns = (np.flatnonzero(moves.any(axis)) for axis in (1, 0))
    if not rows.size:
        return out
    # A node reaches as far as its neighbours; where none moves the crop stays as it is.
    pitch = size / grid
    y0, x0 = (max(int((first - 1) * pitch), 0) for first in (rows[0], columns[0]))
    y1, x1 = (min(math.ceil((last + 2) * pitch), size) for last in (rows[-1], columns[-1]))
    fine = cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR)[y0:y1, x0:x1]
    there = fine + _positions(size)[y0:y1, x0:x1]
    for source, target in zip(image, out, strict=True):
        target[y0:y1, x0:x1] = cv2.remap(source, there, NO_SECOND_MAP, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return out


def moved_points(points: Array, field: Array, size: int) -> Array:
    """Where points (n, 2) in pixels of a crop of side `size` go under a backward field: the q with q + B(q) = p, by iteration."""
    out = np.array(points)
    for _ in range(POINT_ITERATIONS):
        out += POINT_DAMPING * (points - sample_field(field, out, size) - out)
    return out


@functools.cache
def _positions(side: int) -> Array:
    """(side, side, 2) float32: each position itself, (x, y); read-only."""
    out = np.ascontiguousarray(np.mgrid[:side, :side][::-1].transpose(1, 2, 0), np.float32)
    out.setflags(write=False)
    return out
