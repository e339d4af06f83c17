"""The flicker that an edit has by its nature, on pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from mien.bench import painted
from mien.export.tiny.paint import PAINTERS


def test_smoothing_keeps_what_is_still_and_damps_what_shakes() -> None:
    still = np.ones((6, 478, 3))
    np.testing.assert_allclose(painted.smoothed(still), still)
    shaking = still.copy()
    shaking[::2] += 1.0
    smooth = painted.smoothed(shaking)
    assert smooth.shape == still.shape and np.ptp(smooth[2:-2], 0).max() < 0.3


def test_flicker_is_the_mean_difference_inside_the_hull() -> None:
    pictures = [np.full((4, 6, 3), level, np.uint8) for level in (10, 14, 20)]
    pictures[1][:, 3:] = 200
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    assert painted.flicker(pictures, [left] * 3) == pytest.approx(5.0)


def test_each_picture_is_painted_on_its_own_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def paint(rgb: np.ndarray, face: object, strength: float, rng: object) -> np.ndarray:
        seen.append((float(face.mesh[0, 0]), strength))  # type: ignore[attr-defined]
        return rgb + 0.5

    monkeypatch.setitem(PAINTERS, "sunglasses", paint)
    meshes = np.stack([np.full((478, 3), k, float) for k in range(2)])
    out = painted.painted("sunglasses", [np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)], meshes)
    assert seen == [(0.0, 1.0), (1.0, 1.0)]
    assert out[0].max() == 128 and out[1].min() == 255 and out[0].dtype == np.uint8
