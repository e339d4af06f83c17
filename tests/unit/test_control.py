"""Condition pictures: what is drawn where, in which colour, at any size."""

from __future__ import annotations

import numpy as np
import pytest

from mien.engine.control import CONTROLS, LEFT_EYE_RGB, LIPS, OVAL, RIGHT_PUPIL_RGB, control_picture
from mien.engine.errors import EditError
from mien.engine.types import Array


def face(size: int) -> Array:
    """68 points of a plain frontal face in a crop of that side."""
    t = np.linspace(0, np.pi, 17)
    jaw = np.stack([0.5 - 0.3 * np.cos(t), 0.45 + 0.4 * np.sin(t)], 1)
    brows = [np.stack([np.linspace(x - 0.07, x + 0.07, 5), np.full(5, 0.36)], 1) for x in (0.36, 0.64)]
    nose = np.concatenate(
        [np.stack([np.full(4, 0.5), np.linspace(0.42, 0.56, 4)], 1), [[x, 0.6] for x in (0.44, 0.47, 0.5, 0.53, 0.56)]]
    )
    ring = np.array([[-0.05, 0], [-0.02, -0.02], [0.02, -0.02], [0.05, 0], [0.02, 0.02], [-0.02, 0.02]])
    eyes = [ring + [x, 0.43] for x in (0.36, 0.64)]
    around = np.linspace(np.pi, 3 * np.pi, 13)[:-1]
    outer = np.stack([0.5 + 0.1 * np.cos(around), 0.7 + 0.05 * np.sin(around)], 1)
    inner = np.stack([0.5 + 0.07 * np.cos(around[::1][:8] * 1.5), 0.7 + 0.02 * np.sin(around[:8] * 1.5)], 1)
    return np.concatenate([jaw, *brows, nose, *eyes, outer, inner]) * size


@pytest.mark.parametrize("kind", list(CONTROLS))
@pytest.mark.parametrize("size", [64, 200, 512])
def test_pictures_are_unit_rgb_of_the_crops_size(kind: str, size: int) -> None:
    crop = np.zeros((3, size, size), np.float32)
    crop[:, size // 3 : size // 2, size // 4 : size // 2] = 1.0
    picture = control_picture(kind, crop, face(size))
    assert picture.shape == (3, size, size) and picture.dtype == np.float32
    assert picture.min() == 0.0 and 0.4 < picture.max() <= 1.0
    assert (picture > 0).any(0).mean() < 0.4, "lines on black"


def colour_at(picture: Array, x: float, y: float) -> Array:
    return np.round(picture[:, round(y), round(x)] * 255)


def test_landmarks_have_the_annotations_colours() -> None:
    size = 512
    points = face(size)
    picture = control_picture("landmarks", np.zeros((3, size, size), np.float32), points)
    np.testing.assert_allclose(colour_at(picture, *points[8]), OVAL, atol=2)
    np.testing.assert_allclose(colour_at(picture, *points[51]), LIPS, atol=2)
    # The person's left is the image's right.
    np.testing.assert_allclose(colour_at(picture, *points[42]), LEFT_EYE_RGB, atol=2)
    np.testing.assert_allclose(colour_at(picture, *points[36:42].mean(0)), RIGHT_PUPIL_RGB, atol=2)
    assert picture[:, : round(points[17:27, 1].min()) - 40].any(), "the oval closes above the brows"
    assert not picture[:, :, :20].any()


def test_canny_is_where_the_picture_changes() -> None:
    crop = np.full((3, 64, 64), -1.0, np.float32)
    crop[:, :, 32:] = 1.0
    edges = control_picture("canny", crop, face(64))
    columns = np.flatnonzero(edges[0].any(0))
    assert set(columns) <= {31, 32} and edges[:, :, columns].max() == 1.0
    assert (edges[0] == edges[1]).all() and (edges[1] == edges[2]).all()


def test_openpose_has_seventy_dots() -> None:
    points = face(512)
    picture = control_picture("openpose_face", np.zeros((3, 512, 512), np.float32), points)
    for x, y in points:
        assert picture[0, round(y), round(x)] == 1.0


def test_an_unknown_control_names_the_nearest() -> None:
    with pytest.raises(EditError, match="did you mean 'landmarks'"):
        control_picture("landmark", np.zeros((3, 64, 64), np.float32), face(64))
