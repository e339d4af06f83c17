"""The generator of closed eyes, on drawn ones."""

import cv2
import numpy as np
import pytest

from mien.export.tiny.draw_eyes import closed_eyes
from mien.export.tiny.strokes import EYES
from mien.export.tiny.teachers import OVAL

SIZE = 160
SKIN = np.float32([0.8, 0.6, 0.5])
CENTRES = ((52, 75), (108, 75))


def _face(half_gap_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Skin, lit from the left, with two eyes: white, iris and lashes; and its mesh."""
    mesh = np.full((478, 3), 80.0)
    angle = np.linspace(-np.pi / 2, 1.5 * np.pi, len(OVAL), endpoint=False)
    mesh[OVAL, :2] = np.stack([80 + 55 * np.cos(angle), 85 + 68 * np.sin(angle)], 1)
    rgb = np.ones((SIZE, SIZE, 1), np.float32) * SKIN * np.linspace(1, 0.8, SIZE, dtype=np.float32)[None, :, None]
    for ring, (x, y), side in zip(EYES, CENTRES, (-1, 1), strict=True):
        turn = np.linspace(0, 2 * np.pi, len(ring), endpoint=False)
        mesh[list(ring), 0] = x + side * 11 * np.cos(turn)  # the outer corner first, then over the upper lid
        mesh[list(ring), 1] = y - half_gap_px * np.sin(turn)
        opening = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(opening, [np.round(mesh[list(ring), :2]).astype(np.int32)], 1)
        rgb[opening > 0] = 0.95
        iris = cv2.circle(np.zeros_like(opening), (x, y), 4, 1, -1)
        rgb[(opening & iris) > 0] = (0.1, 0.2, 0.3)
        lashes = cv2.polylines(0 * opening, [np.round(mesh[list(ring[:9]), :2]).astype(np.int32)], False, 1)
        rgb[lashes > 0] = 0.1
    return rgb, mesh


def _from_skin(rgb: np.ndarray, x: int, y: int) -> float:
    """How far a place's colour is from the skin's."""
    light = 1 - 0.2 * x / (SIZE - 1)
    return float(np.abs(rgb[y, x] - SKIN * light).max())


@pytest.mark.parametrize("centre", CENTRES)
def test_lids_cover_white_and_iris_and_end_in_lashes(centre: tuple[int, int]) -> None:
    rgb, mesh = _face(5.0)
    out = closed_eyes(rgb, mesh, 1.0)
    x, y = centre
    for at in (x - 6, x, x + 6):
        assert _from_skin(out, at, y - 1) < 0.2 < _from_skin(rgb, at, y - 1)
        line = y - 5 + int(np.argmin(out[y - 5 : y + 9, at].mean(1)))
        assert y + 1 <= line <= y + 6 and out[line, at].mean() < 0.3
    assert _from_skin(out, x, y - 5) < 0.2 < _from_skin(rgb, x, y - 5)  # the open eye's lashes
    assert out[y - 9 : y + 9, x - 12 : x + 12].max() < 0.9  # no white


def test_only_the_eyes_change() -> None:
    rgb, mesh = _face(5.0)
    before = rgb.copy()
    out = closed_eyes(rgb, mesh, 1.0)
    np.testing.assert_array_equal(rgb, before)
    assert out.dtype == np.float32 and 0 <= out.min() and out.max() <= 1
    near = np.zeros((SIZE, SIZE), bool)
    for x, y in CENTRES:
        near[y - 13 : y + 13, x - 18 : x + 18] = True
    np.testing.assert_array_equal(out[~near], rgb[~near])


def test_lids_sink_with_strength() -> None:
    rgb, mesh = _face(6.0)
    x, y = CENTRES[0][0] - 7, CENTRES[0][1]  # beside the iris
    whites = [int((closed_eyes(rgb, mesh, s)[y - 8 : y + 8, x].min(1) > 0.8).sum()) for s in (0.0, 0.5, 0.75, 1.0)]
    assert whites[0] > whites[1] > whites[2] > whites[3] == 0
    np.testing.assert_array_equal(closed_eyes(rgb, mesh, 0.0), rgb)


def test_shut_and_hidden_eyes_stay() -> None:
    rgb, mesh = _face(0.5)
    np.testing.assert_array_equal(closed_eyes(rgb, mesh, 1.0), rgb)
    rgb, mesh = _face(5.0)
    for centre in CENTRES:
        cv2.circle(rgb, centre, 16, (0.08, 0.08, 0.08), -1)  # dark glasses
    np.testing.assert_array_equal(closed_eyes(rgb, mesh, 1.0), rgb)


def test_an_eye_turned_away_or_outside_stays() -> None:
    rgb, mesh = _face(5.0)
    ring = list(EYES[0])
    mesh[ring, 0] = CENTRES[0][0] + 0.3 * (mesh[ring, 0] - CENTRES[0][0])
    mesh[list(EYES[1]), 0] += 2 * SIZE
    np.testing.assert_array_equal(closed_eyes(rgb, mesh, 1.0)[:, : SIZE // 2], rgb[:, : SIZE // 2])
