"""Smoothing over time: the exact Gaussian for files, and its causal counterpart, the one-euro filter, for streams."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mien.engine.types import Array

Steady = Callable[[str, Array], Array]
"""Averages named values over the frames of a track."""

TRUNCATE = 4.0


def gaussian_kernel(sigma: float) -> Array:
    """(2 r + 1,) weights that sum to 1, r = int(4 sigma + 0.5), as scipy.ndimage.gaussian_filter1d cuts it."""
    radius = int(TRUNCATE * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def gaussian_smooth(values: Array, sigma: float) -> Array:
    """Gaussian over the first axis (n, ...), the ends reflected (d c b a | a b c d): scipy's
    gaussian_filter1d(axis=0). sigma 0 copies.
    """
    values = np.asarray(values, np.float64)
    if sigma <= 0.0 or len(values) < 2:
        return values.copy()
    weights = gaussian_kernel(sigma)
    radius = len(weights) // 2
    padded = np.pad(values, [(radius, radius)] + [(0, 0)] * (values.ndim - 1), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=0)
    return np.asarray(windows @ weights)


def _share(cutoff: Array | float) -> Array | float:
    """Weight of the new value of a first-order low-pass with a cut-off in cycles per frame."""
    rate = 2.0 * math.pi * cutoff
    return rate / (1.0 + rate)


class OneEuro:
    """Causal low-pass over points whose cut-off rises with their speed (Casiez et al. 2012): steady where still,
    prompt where moving.

    Lengths are divided by a unit of the face's size, so the numbers below hold for any resolution. A point that moves
    evenly lags at most 1 / (2 pi beta) units behind, however fast it is; a point at rest keeps `share(min_cutoff)` of
    each frame's jitter. min_cutoff, speed_cutoff: cycles per frame. beta: cycles per unit.
    """

    def __init__(self, min_cutoff: float, beta: float, speed_cutoff: float = 0.1) -> None:
        self._min_cutoff, self._beta, self._speed_cutoff = min_cutoff, beta, speed_cutoff
        self.reset()

    def reset(self) -> None:
        """Forget the past; the next value is answered as it is."""
        self._raw: Array | None = None
        self._value = self._speed = np.zeros(0)

    def __call__(self, values: Array, unit: float) -> Array:
        """Filter the next frame's points (n, 2); unit: the face's size in the points' unit."""
        values = np.asarray(values, np.float64)
        if self._raw is None:
            self._raw, self._value, self._speed = values, values, np.zeros_like(values)
            return values
        self._speed = self._speed + _share(self._speed_cutoff) * ((values - self._raw) / unit - self._speed)
        speed = np.hypot(self._speed[..., 0], self._speed[..., 1])[..., None]
        self._raw = values
        self._value = self._value + _share(self._min_cutoff + self._beta * speed) * (values - self._value)
        return self._value


def smooth_curve(line: Array, n: int) -> Array:
    """A Catmull-Rom curve of n points (n, 2) through a polyline (k, 2), evenly spaced by its corners."""
    padded = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    at = np.linspace(0, len(line) - 1 - 1e-6, n)
    i, t = at.astype(int), (at % 1)[:, None]
    p0, p1, p2, p3 = (padded[i + k] for k in range(4))
    cubic = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(0.5 * cubic)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
