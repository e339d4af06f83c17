"""Frames and affines for the kernel tests, and the two paths (C++ and numpy) that each test runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mien.kernels import composite_yuv, cpp, crop_yuv

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(params=["native", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once on each path."""
    if request.param == "native" and cpp.native is None:
        pytest.skip(f"no C++ module in this installation: {cpp.missing}")
    if request.param == "numpy":
        monkeypatch.setattr(crop_yuv, "native", None)
        monkeypatch.setattr(composite_yuv, "native", None)
    return str(request.param)


@pytest.fixture
def noise_frame() -> Callable[..., Planes]:
    """Make planes of random codes: (width, height, bit_depth, seed) -> Y, U, V."""

    def make(width: int, height: int, bit_depth: int = 8, seed: int = 0) -> Planes:
        rng = np.random.default_rng(seed)
        dtype: Any = np.uint8 if bit_depth == 8 else np.uint16
        half = ((height + 1) // 2, (width + 1) // 2)
        y, u, v = (rng.integers(0, 2**bit_depth, shape, dtype=dtype) for shape in ((height, width), half, half))
        return y, u, v

    return make


@pytest.fixture
def placed() -> Callable[..., np.ndarray]:
    """Make an affine: a crop of `size` turned by `degrees`, `scale` frame pixels per crop pixel, centred at (x, y)."""

    def make(size: int, x: float, y: float, scale: float, degrees: float = 0.0) -> np.ndarray:
        angle = np.deg2rad(degrees)
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([x, y]) - linear @ np.full(2, (size - 1) / 2)
        return np.column_stack([linear, centre])

    return make
