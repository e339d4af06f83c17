"""Shoulders in a sweater, and the room behind: what a portrait needs around the head."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
# height, half width, half depth, z of the centre, exponent of the super-ellipse
_RINGS = (
    (-12.3, 7.5, 6.5, -1.6, 2.0),
    (-13.1, 8.0, 7.0, -1.5, 2.0),
    (-13.3, 8.8, 7.4, -1.4, 2.0),
    (-13.6, 10.6, 7.9, -1.4, 2.1),
    (-14.6, 13.6, 8.5, -1.5, 2.2),
    (-16.4, 17.2, 9.1, -1.6, 2.3),
    (-19.0, 20.3, 9.7, -1.6, 2.4),
    (-23.0, 22.2, 10.3, -1.4, 2.5),
    (-28.0, 23.0, 11.0, -1.2, 2.6),
    (-46.0, 23.5, 12.0, -1.2, 2.6),
)


def sweater(around: int = 160, down: int = 90) -> tuple[Floats, Ints]:
    """Vertices (V, 3) and triangles (T, 3), seen from outside, of a crew-neck sweater below the model's neck."""
    rings = np.array(_RINGS)
    at = np.interp(np.linspace(0, 1, down) ** 1.6, np.linspace(0, 1, len(rings)), np.arange(len(rings)))
    spec = np.stack([np.interp(at, np.arange(len(rings)), rings[:, k]) for k in range(5)], 1)
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)
    c, s = np.cos(angle)[None], np.sin(angle)[None]
    power = 2 / spec[:, 4:5]
    x = spec[:, 1:2] * np.sign(s) * np.abs(s) ** power
    z = spec[:, 2:3] * np.sign(c) * np.abs(c) ** power + spec[:, 3:4]
    front = np.clip(c, 0, 1) * np.exp(-np.square((spec[:, :1] + 13.5) / 3.0))
    y = spec[:, :1] - 1.5 * front
    collar = 0.35 * np.exp(-np.square((np.linspace(0, 1, down)[:, None] ** 1.6 * 9 - 0.6) / 0.45))
    points = np.stack([x + collar * s, y + 0 * x, z + collar * c], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(down - 1), np.arange(around), indexing="ij")
    a, b = i * around + j, i * around + (j + 1) % around
    quads = np.stack([a, a + around, b + around, b], -1).reshape(-1, 4)
    return points.astype(np.float32), np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]).astype(np.int32)


def room(size: tuple[int, int], tone: Floats, seed: int, blur: float = 0.02) -> Floats:
    """A softly blurred interior (height, width, 3), linear RGB: a wall with a light fall-off, shelves, a few lights. tone: (3,) wall."""
    height, width = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(height)
    aspect = width / height
    lamp = np.exp(-(np.square(x - rng.uniform(0.1, 0.9) * aspect) / 0.5 + np.square(y - rng.uniform(0.0, 0.4)) / 0.4))
    out = tone[None, None] * (0.45 + 0.75 * lamp)[..., None]
    for _ in range(int(rng.integers(4, 10))):
        w, h = rng.uniform(0.04, 0.22), rng.uniform(0.12, 0.6)
        left, top = rng.uniform(-0.05, aspect), rng.uniform(-0.1, 0.8)
        inside = (x > left) & (x < left + w) & (y > top) & (y < top + h)
        out[inside] *= (rng.uniform(0.35, 1.35) * np.exp(rng.normal(0, 0.22, 3))).astype(np.float32)
    for _ in range(int(rng.integers(2, 7))):
        r = rng.uniform(0.012, 0.03)
        spot = np.square(x - rng.uniform(0, aspect)) + np.square(y - rng.uniform(0, 0.7)) < r * r
        out[spot] += np.array([0.5, 0.4, 0.26], np.float32) * np.float32(rng.uniform(0.3, 1.0))
    return np.asarray(cv2.GaussianBlur(out.astype(np.float32), (0, 0), max(0.8, blur * height)), np.float32)
