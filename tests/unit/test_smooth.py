"""Smoothing: the exact Gaussian against scipy, the one-euro filter's lag and steadiness."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mien.engine.face.align import StreamSmoother, smooth_quads
from mien.engine.face.smooth import OneEuro, gaussian_smooth


@pytest.mark.parametrize("sigma", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("length", [1, 2, 5, 13, 60])
def test_gaussian_is_scipys(length: int, sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(length).standard_normal((length, 3, 2)) * 50
    want = ndimage.gaussian_filter1d(values, sigma, axis=0, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(gaussian_smooth(values, sigma), want, rtol=1e-10, atol=1e-10)


def test_quads_take_sigma_1_and_3() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    quads = np.random.default_rng(0).standard_normal((40, 3, 2)) + 100
    got = smooth_quads(quads)
    np.testing.assert_allclose(got[:, 0], ndimage.gaussian_filter1d(quads[:, 0], 1.0, axis=0), rtol=1e-10)
    np.testing.assert_allclose(got[:, 1:], ndimage.gaussian_filter1d(quads[:, 1:], 3.0, axis=0), rtol=1e-10)


@pytest.mark.parametrize("speed", [0.005, 0.05, 0.5])
@pytest.mark.parametrize("beta", [3.2, 8.0])
def test_one_euro_lag_is_bounded_at_any_speed(speed: float, beta: float) -> None:
    smooth, unit = OneEuro(0.1, beta), 60.0
    lag = 0.0
    for i in range(200):
        point = np.array([[100 + speed * unit * i, 50.0]])
        lag = float(point[0, 0] - smooth(point, unit)[0, 0]) / unit
    assert 0 < lag <= 1 / (2 * math.pi * beta)


def test_one_euro_steadies_a_still_point_and_forgets() -> None:
    rng, smooth = np.random.default_rng(1), OneEuro(0.12, 8.0)
    noisy = 200 + rng.standard_normal((400, 1, 2)) * 0.5  # 0.5 px at 60 px between the eyes: 0.8 %
    steady = np.stack([smooth(p, 60.0) for p in noisy])
    assert np.diff(steady, axis=0).std() < 0.45 * np.diff(noisy, axis=0).std()
    smooth.reset()
    np.testing.assert_array_equal(smooth(np.array([[0.0, 0.0]]), 60.0), [[0.0, 0.0]])


def test_stream_lags_no_more_than_its_docstring_says(face: np.ndarray) -> None:
    smoother, unit = StreamSmoother(), float(np.hypot(*(face[42:48].mean(0) - face[36:42].mean(0))))
    for i in range(120):
        moved = face + np.array([0.2 * unit * i, 0.0])
        quad, points = smoother(moved)
    from mien.engine.face.align import ffhq_quad

    assert np.abs(points - moved).max() <= 0.02 * unit
    assert np.abs(quad - ffhq_quad(moved)).max() <= 0.05 * unit
