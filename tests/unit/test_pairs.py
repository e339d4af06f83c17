"""The pair generators of the recipe, on a drawn face."""

import cv2
import numpy as np
import pytest

from mien.export.tiny.draw import FaceAxes, age, smile_folds, sunglasses
from mien.export.tiny.recolour import HAIR_COLOURS, recolour_hair
from mien.export.tiny.teachers import OVAL

SIZE = 128


def _mesh() -> np.ndarray:
    """478 points on an ellipse and on plausible places of what the generators use."""
    rng = np.random.default_rng(0)
    mesh = np.concatenate([rng.uniform(40, 88, (478, 2)), np.zeros((478, 1))], 1)
    angle = np.linspace(-np.pi / 2, 1.5 * np.pi, len(OVAL), endpoint=False)
    mesh[OVAL, :2] = np.stack([64 + 30 * np.cos(angle), 70 + 42 * np.sin(angle)], 1)
    places = {33: (42, 60), 133: (54, 60), 263: (86, 60), 362: (74, 60), 105: (47, 50), 334: (81, 50), 168: (64, 60)}
    for index, at in places.items():
        mesh[index, :2] = at
    return mesh


@pytest.fixture
def face() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rgb = np.full((SIZE, SIZE, 3), (0.3, 0.5, 0.6), np.float32)
    mesh = _mesh()
    person = cv2.fillPoly(np.zeros((SIZE, SIZE), np.float32), [mesh[OVAL, :2].astype(np.int32)], 1.0)
    hair = np.zeros((SIZE, SIZE), np.float32)
    hair[4:26, 30:98] = 1.0
    rgb[person > 0] = (0.8, 0.6, 0.5)
    rng = np.random.default_rng(1)
    rgb[hair > 0] = np.float32([0.35, 0.22, 0.12]) * rng.uniform(0.7, 1.3, (int((hair > 0).sum()), 1)).astype(
        np.float32
    )
    return rgb, mesh, hair, person


@pytest.mark.parametrize("colour", HAIR_COLOURS)
def test_recolour_reaches_its_colour_and_leaves_the_rest(face: tuple[np.ndarray, ...], colour: str) -> None:
    rgb, _, hair, _ = face
    out = recolour_hair(rgb, hair, colour, 1.0)
    np.testing.assert_allclose(out[hair == 0], rgb[hair == 0], atol=2e-3)  # the Lab round trip
    lab = cv2.cvtColor(out, cv2.COLOR_RGB2LAB)[hair > 0]
    assert abs(lab[:, 0].mean() - HAIR_COLOURS[colour][0]) < 3.0
    assert lab[:, 0].std() > 1.0  # strands survive


def test_recolour_needs_hair_and_strength(face: tuple[np.ndarray, ...]) -> None:
    rgb, _, hair, _ = face
    assert recolour_hair(rgb, 0 * hair, "hair_dark", 1.0) is rgb
    assert recolour_hair(rgb, hair, "hair_dark", 0.0) is rgb


def test_sunglasses_darken_the_eyes_only(face: tuple[np.ndarray, ...]) -> None:
    rgb, mesh, _, _ = face
    out = sunglasses(rgb, mesh, 1.0)
    for x in (48, 80):
        assert out[60, x].max() < 0.25 < rgb[60, x].min()
    np.testing.assert_array_equal(out[:40], rgb[:40])
    np.testing.assert_array_equal(out[90:], rgb[90:])


def test_age_has_two_opposite_signs(face: tuple[np.ndarray, ...]) -> None:
    rgb, mesh, hair, person = face
    older = age(rgb, mesh, hair, person, 1.0, np.random.default_rng(0))
    younger = age(rgb, mesh, hair, person, -1.0, np.random.default_rng(0))
    assert older[hair > 0].mean() > rgb[hair > 0].mean() + 0.1  # greyed
    skin = (person > 0) & (hair == 0)
    assert older[skin].std(0).sum() > 1.2 * rgb[skin].std(0).sum()  # lines and mottle
    assert younger[skin].mean() > rgb[skin].mean() + 0.01


def test_smile_folds_shade_little_and_vanish_at_zero(face: tuple[np.ndarray, ...]) -> None:
    rgb, mesh, _, _ = face
    np.testing.assert_allclose(smile_folds(rgb, mesh, 0.0), rgb, atol=1e-6)
    change = np.abs(smile_folds(rgb, mesh, 1.0) - rgb)
    assert 0.02 < change.max() < 0.35


def test_axes_of_a_turned_face() -> None:
    mesh = _mesh()
    turned = mesh.copy()
    turned[:, 0], turned[:, 1] = -mesh[:, 1], mesh[:, 0]  # a quarter turn
    axes = FaceAxes.of(turned)
    np.testing.assert_allclose(axes.right, [0, 1], atol=1e-12)
    np.testing.assert_allclose(axes.down, [-1, 0], atol=1e-12)
    assert axes.iod_px == pytest.approx(32.0)
