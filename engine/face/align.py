"""FFHQ alignment: the square crop of a face (Karras et al. 2019 as used by STIT), its smoothing over time, and its
paste box.

A quad is (3, 2): centre, half axis to the right, half axis down, in luma pixels. Smoothing is linear, so the axes stay
perpendicular.
"""

from __future__ import annotations

import math

import numpy as np

from mien.engine.face.points import INNER_MOUTH, OUTER_MOUTH, eye_centres, inter_ocular
from mien.engine.face.smooth import OneEuro, gaussian_smooth
from mien.engine.types import Array

CENTRE_SIGMA, AXES_SIGMA = 1.0, 3.0
POINTS_SIGMA, MOUTH_SIGMA = 1.0, 0.6
MOUTH = OUTER_MOUTH + INNER_MOUTH
MAX_CROP_SCALE = 2.0


def ffhq_quad(points: Array) -> Array:
    """The quad of 68 points: half side max(2.0 eye distance, 1.8 eye-to-mouth distance), centred a tenth below the
    eyes.
    """
    left, right = eye_centres(points)
    eye, eyes = (left + right) / 2, right - left
    down = (points[48] + points[54]) / 2 - eye
    x = eyes + np.array([down[1], -down[0]])
    x = x / max(math.hypot(*x), 1e-6) * max(2.0 * math.hypot(*eyes), 1.8 * math.hypot(*down))
    return np.stack([eye + 0.1 * down, x, np.array([-x[1], x[0]])])


def widened(quad: Array, scale: float) -> Array:
    """The quad (3, 2) about the same centre, its half axes `scale` times as long."""
    return np.concatenate([quad[:1], quad[1:] * scale])


def crop_to_frame(quad: Array, size: int) -> Array:
    """(2, 3) affine from pixels of the size x size crop to luma pixels; crop pixel u lies at ((u + 0.5) / size * 2 -
    1) of the half axes.
    """
    linear = np.stack([quad[1], quad[2]], 1) * (2.0 / size)
    return np.concatenate([linear, (quad[0] - linear @ np.full(2, (size - 1) / 2))[:, None]], 1)


def enlarged(affine: Array, times: float) -> Array:
    """The affine (2, 3) of the same crop, its side so many times as many pixels."""
    linear = affine[:, :2] / times
    corner = affine[:, 2] - 0.5 * affine[:, :2].sum(1)
    return np.concatenate([linear, (corner + 0.5 * linear.sum(1))[:, None]], 1)


def crop_pixel(affine: Array) -> float:
    """How many pixels of the crop one of the frame is wide, by the affine (2, 3) from crop to frame."""
    return 1.0 / math.hypot(affine[0, 0], affine[1, 0])


def smooth_quads(quads: Array) -> Array:
    """Quads (n, 3, 2) of one contiguous run: Gaussian of sigma 1 on the centre and 3 on both axes, as STIT's offline
    filter.
    """
    centre = gaussian_smooth(quads[:, :1], CENTRE_SIGMA)
    return np.concatenate([centre, gaussian_smooth(quads[:, 1:], AXES_SIGMA)], 1)


def smooth_points(points: Array) -> Array:
    """Landmarks (n, 68, 2) of one contiguous run: Gaussian of sigma 1 frame, 0.6 for the mouth so that speech keeps
    its speed.
    """
    out = gaussian_smooth(points, POINTS_SIGMA)
    out[:, MOUTH] = gaussian_smooth(points[:, MOUTH], MOUTH_SIGMA)
    return out


class StreamSmoother:
    """Causal counterpart of `smooth_quads` and `smooth_points` for one track of a stream.

    At an even motion the centre and the landmarks lag at most 0.02 inter-ocular distances, the axes 0.05 (see OneEuro).
    """

    def __init__(self) -> None:
        self._centre = OneEuro(min_cutoff=0.10, beta=8.0)
        self._axes = OneEuro(min_cutoff=0.03, beta=3.2)
        self._points = OneEuro(min_cutoff=0.12, beta=8.0)
        self._mouth = OneEuro(min_cutoff=0.20, beta=10.0)

    def reset(self) -> None:
        """Forget the past: another face or another scene."""
        for part in (self._centre, self._axes, self._points, self._mouth):
            part.reset()

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """The next frame's 68 points -> smoothed quad (3, 2) and smoothed points (68, 2)."""
        unit, quad = max(inter_ocular(points), 1.0), ffhq_quad(points)
        smooth = self._points(points, unit).copy()
        smooth[MOUTH, :] = self._mouth(points[MOUTH, :], unit)
        return np.concatenate([self._centre(quad[:1], unit), self._axes(quad[1:], unit)]), smooth


def paste_box(quad: Array, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Bounding box x0, y0, x1, y1 (ends exclusive) of a quad, clipped to the frame and moved inwards to even pixels;
    may be empty.

    An end at the frame's own odd end stays, so that the last column of chroma is reached.
    """
    reach = np.abs(quad[1]) + np.abs(quad[2])
    low, high = quad[0] - reach, quad[0] + reach
    x0, y0 = (max(0, math.ceil(v / 2) * 2) for v in low)
    x1, y1 = (
        end if math.floor(v) + 1 >= end else math.floor((math.floor(v) + 1) / 2) * 2
        for v, end in zip(high, (width_px, height_px), strict=True)
    )
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, 0, 0)
