"""Pair generator: eyelids that close over eyes. Pictures and points as in strokes.py."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.strokes import EYES, size_of, smooth_curve

# Gaps between the lids, in inter-ocular distances: up to the first an eye counts as closed, from the second on it is drawn in full.
SHUT, AJAR = 0.020, 0.032
# The same of an eye's width: a narrower one is turned away.
AWAY, SEEN = 0.20, 0.27
# Brightness of what is bright in the eyes, over that around them: darker ones are behind dark lenses.
DARK, CLEAR = 0.34, 0.44
# How far above the upper lid's edge the old lashes reach, and the width of the new ones, in inter-ocular distances.
LASHES, LINE = 0.045, 0.034
_LASH_TONE = np.array([0.24, 0.19, 0.18], np.float32)  # over the skin's
_LID_TONE = np.array([0.93, 0.87, 0.86], np.float32)  # over that of the skin around the eye


@dataclass(frozen=True, slots=True)
class _Eye:
    """An eye over a picture, in its own frame. Lengths in pixels; x, y, upper, lower are (H, W).

    x, y: the pixels' places, x from the outer corner at 0 to the inner one at `width`, y downwards; upper, lower: y of the lids' edges.
    """

    width: float
    x: Array
    y: Array
    upper: Array
    lower: Array

    @classmethod
    def of(cls, points: Array, ring: tuple[int, ...], shape: tuple[int, int]) -> _Eye:
        """The eye of a ring of the mesh."""
        origin = points[ring[0], :2]
        right = points[ring[8], :2] - origin
        right = right / max(float(np.hypot(*right)), 1e-3)
        down = np.array([-right[1], right[0]])
        down = down if float(down @ (points[152, :2] - points[10, :2])) > 0 else -down
        frame = np.stack([right, down], 1)
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        x, y = (np.asarray((xx - origin[0]) * a[0] + (yy - origin[1]) * a[1], np.float32) for a in (right, down))
        edges = []
        for arc in (ring[:9], (*ring[8:], ring[0])):
            curve = smooth_curve((points[list(arc), :2] - origin) @ frame, 32)
            curve = curve[np.argsort(curve[:, 0], kind="stable")]
            edges.append(np.interp(x, curve[:, 0], curve[:, 1]).astype(np.float32))
        return cls(max(float((points[ring[8], :2] - origin) @ right), 1.0), x, y, *edges)

    def open_to_us(self, unit: float) -> float:
        """How much there is to close, in [0, 1]: nothing of a shut or a far eye."""
        gap = float((self.lower - self.upper).max()) / unit
        return _between(gap, SHUT, AJAR) * _between(self.width / unit, AWAY, SEEN)

    def brightness(self, rgb: Array) -> float:
        """Of what is bright in it, over that of the picture."""
        across = (self.x > 0) & (self.x < self.width)
        inside = rgb[across & (self.y > self.upper) & (self.y < self.lower)].mean(1)
        return float(np.quantile(inside, 0.95) / (np.median(rgb.mean(2)) + 1e-3)) if inside.size else 0.0


def closed_eyes(source: Array, shifted: Array, strength: float) -> Array:
    """Upper lids lowered over what the landmark template left open of both eyes, by strength 1 (of (0, 1]) down to the lower lids.

    source, shifted: picture and mesh after the template. A lid has the colours of the skin around the eye, a little darker and
    redder, and ends in a line of lashes. Eyes of which the picture shows nothing stay.
    """
    unit, out = size_of(shifted), source.copy()
    views: list[tuple[_Eye, Array]] = []
    for ring in EYES:
        centre = shifted[list(ring), :2].mean(0)
        x0, y0 = (max(0, int(v - 0.7 * unit)) for v in centre)
        x1, y1 = (max(0, int(v + 0.7 * unit)) for v in centre)
        window = out[y0:y1, x0:x1]
        if window.size:
            views.append((_Eye.of(shifted[:, :2] - (x0, y0), ring, (window.shape[0], window.shape[1])), window))
    shown = _between(strength, 0, 0.2) * _between(max((e.brightness(w) for e, w in views), default=0.0), DARK, CLEAR)
    changes = [(shown * e.open_to_us(unit)) * _lid(w, e, unit, strength) for e, w in views]
    for (_, window), change in zip(views, changes, strict=True):
        np.clip(window + change, 0, 1, out=window)
    return out


def _lid(rgb: Array, eye: _Eye, unit: float, strength: float) -> Array:
    """What one lowered upper lid adds to a picture."""
    t = np.clip(eye.x / eye.width, 0, 1)
    bow, gap = 4 * t * (1 - t), np.maximum(eye.lower - eye.upper, 0)
    drop = strength**2 * (0.65 * gap + 0.012 * unit * bow)  # below the edge that the template lowered already
    edge, soft = eye.upper + drop, 0.015 * unit
    within = _step(eye.x + 0.03 * unit, soft) * _step(eye.width + 0.01 * unit - eye.x, soft)
    hole = within * _step(eye.y - eye.upper + LASHES * unit, soft) * _step(eye.lower + 0.03 * unit - eye.y, soft)
    skin = _fill(rgb, 1 - np.clip(2 * hole, 0, 1), unit) * _LID_TONE
    # The old line of lashes is painted out as far as the lid leaves it.
    start = eye.upper - np.minimum(drop, LASHES * unit)
    opening = within * _step(eye.y - start, soft) * _step(eye.lower + 0.012 * unit - eye.y, soft)
    # lashes, longest at the outer corner; those of an eye that is still open hang less far into it
    width = LINE * unit * (0.6 + 0.4 * strength) * (0.6 + 0.4 * (1 - t)) * np.clip(0.3 + 4 * bow, 0, 1)
    below = eye.y - edge + 0.5 * (1 - strength) * LINE * unit
    lash = np.exp(-(np.abs(below / np.maximum(width, 0.5)) ** 2.5))
    lid = skin * (1 - (0.85 * lash)[..., None] * (1 - _LASH_TONE))
    covered = np.maximum(np.maximum(_step(-below, 0.8), lash), _between(strength, 0.75, 0.95))
    return np.asarray((opening * covered)[..., None] * (lid - rgb), np.float32)


def _fill(rgb: Array, known: Array, unit: float) -> Array:
    """A smooth picture through what is known (H, W) in [0, 1], each place mostly like the nearest of it."""
    total = 1e-9 * np.ones((*known.shape, 4), np.float32)
    planes = np.dstack([rgb * known[..., None], known]).astype(np.float32)
    for k, sigma in enumerate((0.025, 0.05, 0.1, 0.2)):
        total += np.float32(0.05**k) * cv2.GaussianBlur(planes, (0, 0), sigma * unit)
    return np.asarray(total[..., :3] / total[..., 3:], np.float32)


def _between(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _step(distance_px: Array, soft_px: float) -> Array:
    return np.asarray(np.clip(0.5 + distance_px / (2 * soft_px), 0, 1))
