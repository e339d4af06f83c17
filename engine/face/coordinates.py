"""Face coordinates: which place of a mean face every place of a crop shows, as a smooth map through the landmarks.

A thin-plate spline (Bookstein 1989) that carries the landmarks of a crop to those of the mean face, regularised because
landmarks may fall on one another (closed lids). A network that reads them draws what lies on a face by rote.
"""

from __future__ import annotations

import numpy as np

from mien.engine.types import Array

# Keeps the spline from folding where landmarks meet; leaves 0.3 % of the crop's side on open faces.
STIFFNESS = 2e-3

# Mean landmarks of the training faces in their aligned crops, in thousandths of its side.
_MEAN = (
    (239, 425), (238, 537), (243, 593), (268, 718), (291, 771), (318, 810), (381, 869), (451, 906), (500, 912), (549, 906),
    (619, 869), (682, 810), (709, 771), (732, 718), (757, 593), (762, 537), (761, 425), (265, 398), (304, 394), (340, 382),
    (387, 384), (443, 393), (557, 393), (613, 384), (660, 382), (696, 394), (735, 398), (500, 462), (500, 522), (500, 573),
    (500, 606), (451, 641), (470, 654), (500, 656), (530, 654), (549, 641), (333, 473), (356, 456), (394, 455), (436, 481),
    (400, 487), (362, 487), (564, 481), (606, 455), (644, 456), (667, 473), (638, 487), (600, 487), (400, 741), (443, 717),
    (471, 709), (500, 715), (529, 709), (557, 717), (600, 741), (557, 778), (530, 787), (500, 789), (470, 787), (443, 778),
    (409, 741), (476, 737), (500, 738), (524, 737), (591, 741), (524, 749), (500, 751), (476, 749),
)  # fmt: skip
MEAN_FACE: Array = np.array(_MEAN, np.float64).reshape(68, 2) / 1000


def face_coordinates(points: Array, size: int, cells: int) -> Array:
    """(2, n, n) float32: x and y on the mean face, -1 to 1 across its crop, at the centres of n x n cells of a crop.

    points: (68, 2) in crop pixels, pixel centres at integers. size: the crop's side S.
    """
    here = (np.asarray(points, np.float64) + 0.5) / size
    system = np.zeros((71, 71))
    system[:68, :68] = _bend(here, here) + STIFFNESS * np.eye(68)
    system[:68, 68:] = np.column_stack([np.ones(68), here])
    system[68:, :68] = system[:68, 68:].T
    weights = np.linalg.solve(system, np.concatenate([MEAN_FACE - here, np.zeros((3, 2))])).astype(np.float32)
    axis = ((np.arange(cells) + 0.5) / cells).astype(np.float32)
    at = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    there = at + _bend(at, here.astype(np.float32)) @ weights[:68] + weights[68] + at @ weights[69:]
    return np.ascontiguousarray(2 * there.T.reshape(2, cells, cells) - 1)


def _bend(a: Array, b: Array) -> Array:
    """(n, m): r^2 log r between places (n, 2) and (m, 2)."""
    squared = np.square(a[:, :1] - b[:, 0]) + np.square(a[:, 1:] - b[:, 1])
    return np.asarray(squared * np.log(squared + squared.dtype.type(1e-12)) / 2)
