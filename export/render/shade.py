"""Light: a key with a soft shadow, fill, rim and sky; skin that scatters, hair that shines along its strands. All linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.render.raster import nearest, unit

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]
_SHADOW = 320  # texels of the shadow map's side
_REACH = 17.0  # model units from its centre to its edge


@dataclass(frozen=True, slots=True)
class Light:
    """Directions point from the subject to the light (x right in the picture, y up, z to the camera); colours are linear intensities."""

    key_from: Colour = (-0.55, 0.55, 0.75)
    key: Colour = (1.45, 1.36, 1.26)
    fill_from: Colour = (0.8, 0.15, 0.6)
    fill: Colour = (0.3, 0.34, 0.4)
    rim_from: Colour = (0.75, 0.5, -0.75)
    rim: Colour = (0.7, 0.72, 0.78)
    sky: Colour = (0.36, 0.375, 0.4)
    ground: Colour = (0.19, 0.165, 0.15)

    def unit(self, name: str) -> Floats:
        """Unit direction (3,) of `key_from`, `fill_from` or `rim_from`."""
        v = np.array(getattr(self, name), np.float32)
        return np.asarray(v / np.linalg.norm(v))


class Shadow:
    """Depth of the scene seen from the key light, orthographic: made from the points that cast, asked by the points that receive."""

    def __init__(self, casters: Floats, toward: Floats):
        side = np.cross(np.array([0, 1, 0], np.float32), toward)
        side /= np.linalg.norm(side)
        self._frame = np.stack([side, np.cross(toward, side), toward], 1).astype(np.float32)
        pixel, depth = self._place(casters)
        inside = (pixel >= 0).all(1) & (pixel < _SHADOW).all(1)
        flat = pixel[inside, 1].astype(np.int64) * _SHADOW + pixel[inside, 0].astype(np.int64)
        depth = depth[inside]
        row = nearest(flat, depth, _SHADOW * _SHADOW)
        grid = np.full(_SHADOW * _SHADOW, -100.0, np.float32)
        grid[flat[row]] = depth[row]
        self._map = cv2.dilate(grid.reshape(_SHADOW, _SHADOW), np.ones((3, 3), np.uint8))

    def _place(self, points: Floats) -> tuple[Floats, Floats]:
        local = cv2.transform(points[:, None], self._frame.T)[:, 0]
        pixel = (local[:, :2] + np.float32(_REACH)) * np.float32(_SHADOW / 2 / _REACH)
        return np.asarray(pixel, np.float32), np.asarray(local[:, 2], np.float32)

    def visible(self, points: Floats, bias: float, soft: float = 1.6) -> Floats:
        """Share (N,) of the light that reaches the points; soft: radius of the penumbra in texels, bias in model units."""
        pixel, depth = self._place(points)
        lit = np.zeros(len(points), np.float32)
        taps = [(0, 0), (-1, -0.6), (0.6, -1), (1, 0.6), (-0.6, 1)]
        for dx, dy in taps:
            x, y = ((pixel[:, k] + soft * d).astype(np.int32) for k, d in ((0, dx), (1, dy)))
            outside = (x < 0) | (y < 0) | (x >= _SHADOW) | (y >= _SHADOW)
            x, y = np.where(outside, 0, x), np.where(outside, 0, y)
            lit += np.where(outside, 1, np.clip(1 - (self._map[y, x] - depth - bias) / 0.35, 0, 1))
        return np.asarray(lit / len(taps), np.float32)


def hollow(depth: Floats, covered: Floats, scale: float) -> Floats:
    """Light (H, W) that reaches into cavities, 0..1, from how far a pixel lies behind its surroundings; scale: pixels per model unit."""
    dark = np.zeros_like(depth)
    for radius, strength, shrink in ((0.22, 0.9, 2), (0.9, 0.3, 4)):
        to = (max(1, depth.shape[1] // shrink), max(1, depth.shape[0] // shrink))
        d, m = (cv2.resize(a, to, interpolation=cv2.INTER_AREA) for a in (depth * covered, covered))
        sigma = max(0.6, radius * scale / shrink)
        mean = cv2.GaussianBlur(d, (0, 0), sigma) / np.maximum(cv2.GaussianBlur(m, (0, 0), sigma), 1e-3)
        behind = strength * np.clip(d / np.maximum(m, 1e-3) - mean - 0.03, 0, 1.5)
        dark += cv2.resize(behind, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.exp(-dark), np.float32)


def diffuse(normal: Floats, lit: Floats, cavity: Floats, light: Light, wrap: float = 0.0) -> Floats:
    """Irradiance (N, 3) over pi: key with its shadow, fill, and a sky that grades to the ground."""
    key = np.clip((normal @ light.unit("key_from") + wrap) / (1 + wrap), 0, 1) * lit
    fill = np.clip((normal @ light.unit("fill_from") + 0.3) / 1.3, 0, 1)
    up = 0.5 + 0.5 * normal[:, 1]
    sky = up[:, None] * np.array(light.sky, np.float32) + (1 - up)[:, None] * np.array(light.ground, np.float32)
    out = key[:, None] * np.array(light.key, np.float32)
    out = out + cavity[:, None] * (fill[:, None] * np.array(light.fill, np.float32) + sky)
    return np.asarray(out * (0.6 + 0.4 * cavity)[:, None], np.float32)


def gloss(normal: Floats, view: Floats, lit: Floats, light: Light, power: float) -> Floats:
    """Specular light (N, 3) of a smooth surface, before its reflectance; power: Blinn exponent."""
    out = np.zeros_like(normal)
    facing = np.clip(np.einsum("nc,nc->n", normal, view), 0, 1)
    fresnel = 1 + 6 * (1 - facing) ** 4
    for name, colour, seen in (
        ("key_from", light.key, lit),
        ("fill_from", light.fill, 1.0),
        ("rim_from", light.rim, 1.0),
    ):
        half = unit(light.unit(name) + view)
        lobe = cv2.pow(np.clip(np.einsum("nc,nc->n", normal, half), 0, 1), power).ravel() * np.float32((power + 2) / 8)
        lobe = lobe * np.clip(normal @ light.unit(name) * 4, 0, 1) * seen * fresnel
        out += lobe[:, None] * np.array(colour, np.float32)
    return out


def scatter(light: Floats, skin: Floats, scale: float) -> Floats:
    """Skin: light (H, W, 3) spread below the surface, red widest; skin (H, W) 0/1 says where; scale: pixels per model unit."""
    size = (max(1, light.shape[1] // 2), max(1, light.shape[0] // 2))
    half, share = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (light * skin[..., None], skin))
    for channel, radius in ((0, 0.30), (1, 0.13), (2, 0.08)):
        sigma = max(0.3, radius * scale / 2)
        weight = np.maximum(cv2.GaussianBlur(share, (0, 0), sigma), 1e-3)
        half[..., channel] = cv2.GaussianBlur(half[..., channel].copy(), (0, 0), sigma) / weight
    spread = cv2.resize(half, light.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(0.35 * light + 0.65 * spread, np.float32)


def hair_light(tangent: Floats, view: Floats, lit: Floats, inner: Floats, colour: Floats, light: Light) -> Floats:
    """Kajiya-Kay: hair of linear colour (N, 3) along unit tangents (N, 3); inner (N,): 0 deep in the hair, 1 at its surface."""
    out = colour * (np.array(light.sky, np.float32) * 0.75)
    for name, source, seen in (
        ("key_from", light.key, lit),
        ("fill_from", light.fill, 1.0),
        ("rim_from", light.rim, 1.0),
    ):
        toward = light.unit(name)
        along = tangent @ toward
        across = np.sqrt(np.clip(1 - along**2, 0, 1))
        tilt = np.einsum("nc,nc->n", tangent, unit(toward + view))
        shine, glow = np.clip(1 - (tilt + 0.08) ** 2, 0, 1), np.clip(1 - (tilt - 0.12) ** 2, 0, 1)
        amount = (0.5 * across * seen)[:, None] * colour + ((0.035 * shine**60) * seen)[:, None]
        amount = amount + ((0.5 * glow**18) * seen)[:, None] * colour
        out = out + amount * np.array(source, np.float32)
    return np.asarray(out * (0.25 + 0.75 * inner)[:, None], np.float32)


def tone(colour: Floats, exposure: float = 1.0) -> Floats:
    """Linear RGB (N, 3) to sRGB-like 0..1 with a soft shoulder above 0.6."""
    x = np.maximum(colour * np.float32(exposure), 0)
    bright = x > 0.6
    x[bright] = 0.6 + 0.4 * (1 - np.exp(-(x[bright] - 0.6) / 0.4))
    return np.asarray(cv2.pow(x, 1 / 2.2), np.float32)


def encode(shown: Floats) -> NDArray[np.uint8]:
    """0..1 to 8 bits."""
    return np.asarray(np.clip(255 * shown + 0.5, 0, 255), np.uint8)
