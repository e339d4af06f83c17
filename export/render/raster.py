"""Rasterise triangles and points in numpy: perspective-correct, z-buffered, no GPU.

Triangles are sorted into buckets by the size of their box on the screen; a bucket is tested against all its pixels at once. The depth test
runs on the covered (pixel, depth, triangle) rows of all buckets together. Pixel centres lie at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096)
_CHUNK = 4_000_000  # candidate pixels tested at once
_EDGE = -1e-5  # barycentric slack: two triangles that share an edge leave no gap between them


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole on the z axis at `distance` in front of the origin, looking back along -z; y is up in the world and down in the picture."""

    focal: float  # pixels
    centre: tuple[float, float]  # picture point of the axis, pixels
    distance: float  # world units, > 0

    def project(self, points: Floats) -> Floats:
        """World (N, 3) -> (N, 3): picture x, y in pixels, and 1 / depth (larger is nearer)."""
        inverse = 1.0 / (self.distance - points[:, 2])
        x = self.centre[0] + self.focal * points[:, 0] * inverse
        y = self.centre[1] - self.focal * points[:, 1] * inverse
        return np.stack([x, y, inverse], 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Hits:
    """What the picture sees: for `pixel` (flat index, K of them, ascending) the triangle, its weights (K, 3) and 1 / depth."""

    pixel: NDArray[np.int64]
    triangle: Ints
    weights: Floats
    inverse_depth: Floats

    def only(self, rows: NDArray[np.int64]) -> Hits:
        """Some of the hits."""
        return Hits(self.pixel[rows], self.triangle[rows], self.weights[rows], self.inverse_depth[rows])


def nearest(pixel: NDArray[np.int64], inverse_depth: Floats, count: int) -> NDArray[np.int64]:
    """Index of the nearest row for every pixel that has one; ties go to any one of them. `pixel` lies in 0..count-1."""
    best = np.full(count, -np.inf, np.float32)
    owner = np.full(count, -1, np.int64)
    row = np.arange(len(pixel))
    while len(row):
        nearer = inverse_depth[row] > best[pixel[row]]
        row = row[nearer]
        best[pixel[row]] = inverse_depth[row]
        owner[pixel[row]] = row
    return owner[owner >= 0]


def rasterise(screen: Floats, triangles: Ints, size: tuple[int, int], *, both_sides: bool = False) -> Hits:
    """Visible triangle of every covered pixel.

    screen: (V, 3) from `Camera.project`. triangles: (T, 3), counter-clockwise seen from outside in a y-up world. size: (height, width).
    both_sides keeps triangles seen from behind.
    """
    height, width = size
    corner = screen[triangles]
    x, y = corner[..., 0], corner[..., 1]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    columns, rows = ((a[:, 0], a[:, 1], a[:, 2]) for a in (x, y))
    x0, x1 = np.maximum(np.ceil(_least(*columns)), 0), np.minimum(np.floor(-_least(*(-c for c in columns))), width - 1)
    y0, y1 = np.maximum(np.ceil(_least(*rows)), 0), np.minimum(np.floor(-_least(*(-r for r in rows))), height - 1)
    front = (np.abs(area) > 1e-9) if both_sides else (area < -1e-9)
    keep = np.flatnonzero(front & (x1 >= x0) & (y1 >= y0) & (_least(*corner[..., 2].T) > 0))
    side = np.maximum(x1 - x0, y1 - y0)[keep] + 1
    bucket = np.searchsorted(np.array(_SIDES), side)
    pixels, owners, weights = [], [], []
    for b in np.unique(bucket):
        members, s = keep[bucket == b], _SIDES[b]
        step = max(1, _CHUNK // (s * s))
        for start in range(0, len(members), step):
            t = members[start : start + step]
            p, o, w = _cover(x[t], y[t], area[t], np.stack([x0, y0, x1, y1], 1)[t].astype(np.int32), s, width)
            pixels.append(p)
            owners.append(t[o])
            weights.append(w)
    if not pixels:
        return Hits(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    pixel, owner, weight = np.concatenate(pixels), np.concatenate(owners), np.concatenate(weights)
    inverse = np.einsum("kc,kc->k", weight, corner[owner, :, 2])
    best = nearest(pixel, inverse, height * width)
    pixel, owner, weight, inverse = pixel[best], owner[best], weight[best], inverse[best]
    weight = weight * corner[owner, :, 2] / inverse[:, None]
    return Hits(pixel, owner.astype(np.int32), weight.astype(np.float32), inverse)


def _least(a: Floats, b: Floats, c: Floats) -> Floats:
    return np.minimum(np.minimum(a, b), c)


def _cover(
    x: Floats, y: Floats, area: Floats, box: Ints, side: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """(flat pixel, row in the bucket, screen weights (K, 3)) of the covered pixels of boxes at most `side` pixels wide and high."""
    step = np.arange(side, dtype=np.float32)
    left, top = box[:, 0].astype(np.float32), box[:, 1].astype(np.float32)
    inverse = 1.0 / area

    def plane(a: int, b: int) -> Floats:
        """Weight of the corner opposite the edge a-b on the bucket's pixel grid (N, side, side)."""
        dx, dy = (x[:, b] - x[:, a]) * inverse, (y[:, b] - y[:, a]) * inverse
        base = dx * (top - y[:, a]) - dy * (left - x[:, a])
        return np.asarray((base[:, None] + dx[:, None] * step)[:, :, None] - (dy[:, None] * step)[:, None, :])

    w0, w1 = plane(1, 2), plane(2, 0)
    w2 = 1.0 - w0 - w1
    inside = (w0 >= _EDGE) & (w1 >= _EDGE) & (w2 >= _EDGE)
    inside &= (step <= (box[:, 2] - box[:, 0])[:, None])[:, None, :]
    inside &= (step <= (box[:, 3] - box[:, 1])[:, None])[:, :, None]
    member, row, column = np.nonzero(inside)
    pixel = (box[member, 1] + row).astype(np.int64) * width + box[member, 0] + column
    return pixel, member, np.stack([w0[inside], w1[inside], w2[inside]], 1)


def interpolate(hits: Hits, triangles: Ints, attribute: Floats) -> Floats:
    """Per-vertex attribute (V, C) at the hits: (K, C)."""
    corner = triangles[hits.triangle]
    out = attribute[corner[:, 0]] * hits.weights[:, :1]
    out += attribute[corner[:, 1]] * hits.weights[:, 1:2]
    out += attribute[corner[:, 2]] * hits.weights[:, 2:]
    return np.asarray(out, np.float32)


def splat(
    screen: Floats, size: tuple[int, int], behind: Floats, spacing: float = 1.1
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Draw curves as rows of points one pixel wide.

    screen: (S, K, 3) nodes from `Camera.project`. behind: (height * width,) 1 / depth already drawn. Returns, for every pixel a curve
    wins, the flat pixel, the curve, its place along the nodes in 0..K-1, and 1 / depth.
    """
    height, width = size
    count = screen.shape[1]
    run = np.diff(screen[..., :2], axis=1)
    length = np.hypot(run[..., 0], run[..., 1]).sum(1)
    order = np.argsort(length)
    best = behind.copy()
    curve, along = np.full(height * width, -1, np.int32), np.zeros(height * width, np.float32)
    for group in np.array_split(order, max(1, len(order) // 1500)):
        steps = int(min(4000, max(2, np.ceil(length[group].max() / spacing) + 1)))
        at = np.linspace(0, count - 1.0001, steps, dtype=np.float32)
        low = at.astype(int)
        weight = np.zeros((steps, count), np.float32)
        weight[np.arange(steps), low], weight[np.arange(steps), low + 1] = 1 - (at - low), at - low
        x, y, near = (np.matmul(screen[group, :, k], weight.T).ravel() for k in range(3))
        inside = (x > -0.5) & (y > -0.5) & (x < width - 0.5) & (y < height - 0.5)
        row = np.flatnonzero(inside)
        pixel = np.rint(y[row]).astype(np.int64) * width + np.rint(x[row]).astype(np.int64)
        while len(row):
            nearer = near[row] > best[pixel]
            row, pixel = row[nearer], pixel[nearer]
            best[pixel], curve[pixel], along[pixel] = near[row], group[row // steps], at[row % steps]
    won = np.flatnonzero(curve >= 0)
    return won, curve[won].astype(np.int64), along[won], best[won]


def unit(vectors: Floats) -> Floats:
    """Vectors (N, 3) at length one; zero stays zero."""
    return np.asarray(vectors / np.sqrt(np.einsum("nc,nc->n", vectors, vectors) + 1e-12)[:, None], np.float32)
