"""The two samplers against polynomials they reproduce and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mien.kernels.sampling import bilinear, catmull_rom


@pytest.mark.parametrize("shape", [(9, 13), (1, 5), (5, 1), (1, 1)])
def test_bilinear_is_scipys_and_clamps(shape):
    rng = np.random.default_rng(0)
    plane = rng.random(shape)
    y, x = rng.uniform(-3, shape[0] + 3, 400), rng.uniform(-3, shape[1] + 3, 400)
    clamped = np.stack([np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)])
    expected = map_coordinates(plane, clamped, order=1, mode="nearest")
    np.testing.assert_allclose(bilinear(plane, x, y), expected, atol=1e-12)


def test_catmull_rom_reproduces_quadratics():
    """Keys' cubic with a = -1/2 is exact for polynomials of degree 2, which other values of a are not."""
    rng = np.random.default_rng(1)
    j, i = np.indices((20, 30)).astype(np.float64)

    def surface(x, y):
        return 3 + 0.5 * x - 0.2 * y + 0.1 * x * x - 0.05 * y * y + 0.07 * x * y

    x, y = rng.uniform(1, 28, 500), rng.uniform(1, 18, 500)
    np.testing.assert_allclose(catmull_rom(surface(i, j), x, y), surface(x, y), atol=1e-9)


@pytest.mark.parametrize("sampler", [bilinear, catmull_rom])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_are_returned_at_their_centres(sampler, dtype):
    plane = np.random.default_rng(2).integers(0, 1024, (7, 9), dtype=np.uint16)
    j, i = np.indices(plane.shape).astype(np.float64)
    result = sampler(plane, i, j, dtype)
    assert result.dtype == dtype
    assert np.array_equal(result, plane)
