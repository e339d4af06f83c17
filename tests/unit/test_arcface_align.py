"""The five-point crop of the ArcFace networks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mien.engine.errors import InputError
from mien.engine.face.points import transform
from mien.engine.networks.arcface_align import TEMPLATE, arcface_crop, five_points, similarity
from mien.engine.types import Array


def moved(points: Array, angle: float = 0.4, scale: float = 2.5) -> Array:
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    return np.asarray(points @ np.array([[c, s], [-s, c]]) + [310.0, 95.0])


def test_the_template_anywhere_comes_back_to_the_template(face: Array) -> None:
    points = face.copy()
    eye = points[36:42] - points[36:42].mean(0)
    points[36:42], points[42:48] = eye + TEMPLATE[0], eye + TEMPLATE[1]
    points[30], points[48], points[54] = TEMPLATE[2:]
    affine = arcface_crop(moved(points))
    np.testing.assert_allclose(transform(affine, TEMPLATE), moved(TEMPLATE), atol=1e-9)
    half = arcface_crop(moved(points), 56)
    np.testing.assert_allclose(transform(half, TEMPLATE / 2), moved(TEMPLATE), atol=1e-9)


def test_five_points_are_eye_centres_nose_and_corners(face: Array) -> None:
    np.testing.assert_allclose(
        five_points(face), [face[36:42].mean(0), face[42:48].mean(0), face[30], face[48], face[54]]
    )


def test_the_similarity_is_the_least_squares_one() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((5, 2)) * 20 + 60, rng.standard_normal((5, 2)) * 20 + 50
    # x' = a x - b y + e, y' = b x + a y + f: linear in (a, b, e, f)
    rows = np.zeros((10, 4))
    rows[0::2] = np.stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)], 1)
    rows[1::2] = np.stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)], 1)
    a, b, e, f = np.linalg.lstsq(rows, target.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, e], [b, a, f]], atol=1e-10)


def test_points_that_coincide_are_refused() -> None:
    with pytest.raises(InputError, match="5 points of a face coincide"):
        similarity(np.full((5, 2), 3.0), TEMPLATE)
