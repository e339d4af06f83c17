"""Face coordinates: a smooth map through the landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from mien.engine.face.coordinates import MEAN_FACE, face_coordinates
from mien.engine.face.points import LEFT_EYE, MIRRORED
from mien.engine.types import Array

SIZE, CELLS = 256, 64


def at(field: Array, points: Array) -> Array:
    """A field (2, n, n) at points (k, 2) in crop pixels, bilinear."""
    x, y = ((points + 0.5) * CELLS / SIZE - 0.5).T
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = y - i, x - j
    rows = [(1 - fy) * (1 - fx) * field[:, i, j], (1 - fy) * fx * field[:, i, j + 1]]
    rows += [fy * (1 - fx) * field[:, i + 1, j], fy * fx * field[:, i + 1, j + 1]]
    return np.asarray(sum(rows).T)


def test_the_mean_face_lies_where_it_lies() -> None:
    axis = 2 * (np.arange(CELLS) + 0.5) / CELLS - 1
    field = face_coordinates(MEAN_FACE * SIZE - 0.5, SIZE, CELLS)
    assert field.shape == (2, CELLS, CELLS) and field.dtype == np.float32
    np.testing.assert_allclose(field[0], np.broadcast_to(axis, (CELLS, CELLS)), atol=1e-5)
    np.testing.assert_allclose(field[1], np.broadcast_to(axis[:, None], (CELLS, CELLS)), atol=1e-5)


def test_landmarks_come_to_those_of_the_mean_face() -> None:
    rng = np.random.default_rng(0)
    points = MEAN_FACE * SIZE - 0.5
    points = 1.15 * (points - 128) @ np.array([[0.99, 0.12], [-0.12, 0.99]]) + (140, 120) + rng.normal(0, 1, (68, 2))
    found = at(face_coordinates(points, SIZE, CELLS), points)
    assert np.abs(found - (2 * MEAN_FACE - 1)).max() * SIZE / 2 < 3.5
    assert np.abs(found - (2 * MEAN_FACE - 1)).mean() * SIZE / 2 < 0.8


def test_the_map_does_not_fold_over_closed_eyes() -> None:
    points = MEAN_FACE * SIZE - 0.5
    lids = list(LEFT_EYE)
    points[lids, 1] = points[lids, 1].mean()
    field = face_coordinates(points, SIZE, CELLS)
    assert np.isfinite(field).all()
    assert np.diff(field[0], axis=1).min() > 0 and np.diff(field[1], axis=0).min() > 0


@pytest.mark.parametrize("cells", [16, 33])
def test_a_mirrored_face_has_mirrored_coordinates(cells: int) -> None:
    points = MEAN_FACE * SIZE - 0.5 + np.random.default_rng(1).normal(0, 4, (68, 2))
    mirrored = points[list(MIRRORED)] * [-1, 1] + [SIZE - 1, 0]
    field, other = face_coordinates(points, SIZE, cells), face_coordinates(mirrored, SIZE, cells)
    np.testing.assert_allclose(other[0], -field[0, :, ::-1], atol=5e-3)  # the mean face is given to a thousandth
    np.testing.assert_allclose(other[1], field[1, :, ::-1], atol=5e-3)
