"""Procedural paint: skin, lips, brows, scalp and eyes, placed on the neutral head and looked up through its uv. Colours are linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.render.model import SKIN, FaceModel, smoothstep
from mien.export.render.raster import interpolate, rasterise

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]


def linear(colour: Colour) -> Floats:
    """8-bit sRGB to linear RGB (3,)."""
    return np.asarray((np.array(colour) / 255.0) ** 2.2, np.float32)


@dataclass(frozen=True, slots=True)
class Complexion:
    """Colours in 8-bit sRGB, amounts 0..1."""

    skin: Colour = (222, 170, 144)
    lips: Colour = (184, 98, 94)
    hair: Colour = (92, 62, 42)
    brows: Colour = (70, 48, 36)
    iris: Colour = (86, 112, 122)
    freckles: float = 0.3
    blush: float = 0.5
    beard: float = 0.0
    age: float = 0.2


def noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Floats:
    """Smooth noise (height, width), zero mean, unit variance, features about `scale` pixels, wrapping at its borders."""
    shrink = max(1, int(scale / 3))
    height, width = max(4, size[0] // shrink), max(4, size[1] // shrink)
    sigma = scale / shrink
    edge = int(4 * sigma) + 1
    plain = np.pad(rng.standard_normal((height, width)).astype(np.float32), edge, mode="wrap")
    smooth = cv2.GaussianBlur(plain, (0, 0), sigma)[edge:-edge, edge:-edge]
    smooth = cv2.resize(smooth, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((smooth - smooth.mean()) / (smooth.std() + 1e-6), np.float32)


class SkinAtlas:
    """Where on the neutral head each texel lies: `position` (T, 2T, 3); the face's tile on the left, the back of the head on the right."""

    def __init__(self, model: FaceModel, side: int):
        self.side = side
        skin = np.flatnonzero(model.material == SKIN)
        uv = np.stack([model.uv[:, 0] * side - 0.5, (1 - model.uv[:, 1]) * side - 0.5, np.ones(len(model.uv))], 1)
        hits = rasterise(uv.astype(np.float32), model.uv_triangles[skin], (side, 2 * side), both_sides=True)
        # a triangle of the rasteriser is one in uv; its corners on the head are the same row of `triangles`
        flat = np.zeros((side * 2 * side, 3), np.float32)
        flat[hits.pixel] = interpolate(hits, model.triangles[skin], model.neutral)
        empty = np.ones((side, 2 * side), np.uint8)
        empty.ravel()[hits.pixel] = 0
        _, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
        filled = np.zeros(label.max() + 1, np.int64)
        filled[label[empty == 0]] = np.flatnonzero(empty.ravel() == 0)
        self.position: Floats = flat[filled[label]].reshape(side, 2 * side, 3)
        self.landmarks: Floats = model.neutral[model.landmarks]

    def lookup(self, uv: Floats) -> tuple[Floats, Floats]:
        """Texel coordinates (x, y) of model uv (N, 2), as `cv2.remap` wants them."""
        return (uv[:, 0] * self.side - 0.5).astype(np.float32), ((1 - uv[:, 1]) * self.side - 0.5).astype(np.float32)


def _blob(position: Floats, centre: tuple[float, ...], radius: tuple[float, ...]) -> Floats:
    """exp(-d^2) of the scaled distance from a point, and from its mirror image in x."""
    far = np.square((np.abs(position[..., 0]) - centre[0]) / radius[0])
    far += np.square((position[..., 1] - centre[1]) / radius[1])
    far += np.square((position[..., 2] - centre[2]) / radius[2])
    return np.asarray(cv2.exp(-far), np.float32)


def _inside(atlas: SkinAtlas, outline: Floats, soft: float) -> Floats:
    """Soft membership of the texels in an outline of the front view (K, 2), both in model units."""
    scale, origin = 80.0, np.array([-5.0, -6.0], np.float32)
    canvas = np.zeros((1200, 800), np.uint8)
    cv2.fillPoly(canvas, [np.round((outline - origin) * scale).astype(np.int32)], 1)
    blur = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), soft * scale)
    at = (atlas.position[..., :2] - origin) * scale
    inside = cv2.remap(blur, at[..., 0].copy(), at[..., 1].copy(), cv2.INTER_LINEAR, borderValue=0.0)
    return np.asarray(inside * (atlas.position[..., 2] > 6.0), np.float32)


def _smooth(points: Floats, count: int) -> Floats:
    """A closed outline through `points` (K, 2) with `count` points between two of them (Catmull-Rom)."""
    before, after, far = (np.roll(points, k, 0) for k in (1, -1, -2))
    out = [
        0.5
        * (
            2 * points
            + (after - before) * t
            + (2 * before - 5 * points + 4 * after - far) * t**2
            + (3 * points - before - 3 * after + far) * t**3
        )
        for t in np.arange(count) / count
    ]
    return np.asarray(np.stack(out, 1).reshape(-1, 2), np.float32)


def paint_skin(atlas: SkinAtlas, look: Complexion, scalp: Floats, seed: int) -> tuple[Floats, Floats]:
    """(colour (T, 2T, 3) linear, relief (T, 2T) in model units, gloss is left to the shader) of the skin; scalp (T, 2T): hair cover."""
    rng, p, side = np.random.default_rng(seed), atlas.position, atlas.side
    size = p.shape[:2]
    unit = side / 24.0  # texels per model unit, about
    fine, pores = noise(rng, size, max(1.0, 0.05 * unit)), noise(rng, size, max(1.0, 0.09 * unit))
    patch, broad = noise(rng, size, 0.35 * unit), noise(rng, size, 1.6 * unit)
    base = linear(look.skin)
    colour = np.broadcast_to(base, (*size, 3)).copy()
    shade = 1 + 0.035 * fine + 0.025 * patch + 0.03 * broad
    red = _blob(p, (4.3, 0.4, 8.5), (2.2, 1.9, 4)) * 0.8 + _blob(p, (0, 0.6, 12.5), (1.5, 1.5, 2.5)) * 0.7
    red += _blob(p, (8.0, 2.0, 0.0), (1.8, 3.5, 3.0)) * 0.6 + _blob(p, (0, -6.6, 10.8), (1.5, 1.2, 2)) * 0.35
    red += 0.12 * patch + 0.1 * broad
    colour *= np.exp(red[..., None] * look.blush * np.array([-0.01, -0.26, -0.22], np.float32))
    pale = _blob(p, (0, 8.5, 10), (5.5, 2.5, 4))
    colour *= 1 + pale[..., None] * np.array([0.03, 0.035, 0.0], np.float32)
    under = _blob(p, (3.0, 2.35, 9.3), (1.5, 0.45, 1.5)) * (0.35 + 0.5 * look.age)
    lid = _blob(p, (3.1, 4.35, 9.5), (1.7, 0.5, 1.5)) * 0.5
    colour *= np.exp(-(under + lid)[..., None] * np.array([0.2, 0.34, 0.3], np.float32))
    beard = smoothstep(-0.2, -2.6, p[..., 1]) * smoothstep(-11.0, -8.5, p[..., 1]) * smoothstep(3.0, 6.0, p[..., 2])
    beard = np.maximum(
        beard * (1 - 0.8 * _blob(p, (3.6, -1.0, 9.0), (1.6, 1.6, 4))), _blob(p, (1.2, -1.9, 11.5), (1.4, 0.5, 2))
    )
    stubble = smoothstep(-0.2, 1.4, fine) * 0.8 + 0.35
    colour *= np.exp(-(look.beard * beard * stubble)[..., None] * np.array([0.95, 0.85, 0.7], np.float32))
    dots = smoothstep(1.7, 2.4, pores + 0.3 * broad) * np.minimum(1, _blob(p, (2.6, 1.0, 10), (3.2, 2.2, 5)) + 0.15)
    colour *= np.exp(-(look.freckles * dots)[..., None] * np.array([0.35, 0.6, 0.7], np.float32))
    colour *= shade[..., None]

    marks = atlas.landmarks[:, :2]
    lips = _inside(atlas, _smooth(marks[48:60], 8), 0.09)
    lines = noise(rng, (size[0], size[1]), max(1.0, 0.06 * unit))
    lip = linear(look.lips) * (1 + 0.06 * lines + 0.05 * patch)[..., None]
    colour += (0.86 * lips)[..., None] * (lip - colour)
    brow = brow_cover(atlas)
    colour += (0.42 * brow)[..., None] * (linear(look.brows) * 1.3 - colour)
    rim = _blob(p, (1.95, 3.25, 9.2), (0.28, 0.22, 0.5))
    colour += (0.6 * rim)[..., None] * (linear((206, 128, 118)) - colour)
    colour += (0.92 * scalp)[..., None] * (linear(look.hair) * 0.55 - colour)
    relief = 0.006 * pores + 0.004 * fine + 0.012 * lips * lines
    return np.clip(colour, 0.002, 1).astype(np.float32), relief.astype(np.float32)


def brow_cover(atlas: SkinAtlas) -> Floats:
    """Soft brow shape 0..1 on the atlas, from the brow landmarks."""
    top = atlas.landmarks[17:22, :2] + np.array(
        [[0, 0.05], [0, 0.12], [0, 0.08], [0, -0.12], [0.05, -0.36]], np.float32
    )
    low = top - np.array([[-0.15, 0.12], [0, 0.42], [0, 0.62], [0, 0.78], [-0.05, 0.85]], np.float32)
    half = np.concatenate([top, low[::-1]])
    mirrored = half * np.array([-1, 1], np.float32)
    return np.maximum(_inside(atlas, half, 0.12), _inside(atlas, mirrored, 0.12))


def paint_eye(local: Floats, look: Complexion, pupil: float, seed: int) -> Floats:
    """Linear colour (N, 3) of an eye at directions (N, 3) from its centre (z: optical axis); pupil: its share of the iris, 0..1."""
    angle = np.degrees(np.arccos(np.clip(local[:, 2], -1, 1)))
    turn = np.arctan2(local[:, 1], local[:, 0])
    r = angle / 20.5
    table = noise(np.random.default_rng(seed), (8, 512), 3.0)
    fibre = table[np.clip(r * 7, 0, 7).astype(int), ((turn / (2 * np.pi) % 1) * 511).astype(int)]
    iris = linear(look.iris)
    inner = (
        iris[None] * (0.75 + 0.5 * smoothstep(0.9, 0.45, r) + 0.16 * fibre)[:, None]
        + np.array([0.05, 0.03, 0.0]) * smoothstep(0.62, 0.4, r)[:, None]
    )
    inner *= 1 - 0.75 * smoothstep(0.78, 1.0, r)[:, None]
    inner *= 1 - 0.98 * smoothstep(pupil + 0.06, pupil - 0.02, r)[:, None]
    white = np.array([0.66, 0.60, 0.56]) * (1 - 0.25 * smoothstep(30, 75, angle))[:, None]
    white = white * np.array([1.0, 1 - 0.12, 1 - 0.14]) ** smoothstep(35, 70, angle)[:, None]
    cover = smoothstep(1.06, 0.95, r)[:, None]
    return np.asarray(white + cover * (np.maximum(inner, 0.002) - white), np.float32)
