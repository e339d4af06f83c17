"""Hair as strands: guides that grow over the skull by comb and gravity, children that follow them in locks, brows bound to the skin.

A strand is a row of nodes in head space; `Strands.points` turns the nodes of one frame into the points that `render` splats.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.render.model import SKIN, FaceModel, smoothstep
from mien.export.render.paint import SkinAtlas, brow_cover
from mien.export.render.raster import rasterise

Floats = NDArray[np.float32]
_AXIS_TOP, _AXIS_Z, _DOWN = 5.0, -0.5, 8.0
_MAP = (96, 192)  # rows: height on the skull, columns: azimuth
_ROWS = (-2.2, np.pi / 2)
_LINE_AT = np.array([0, 25, 42, 56, 68, 78, 98, 112, 125, 180], np.float32)
_LINE = np.array([10.4, 10.1, 9.3, 7.6, 4.6, 2.6, 4.8, 1.0, -3.0, -6.5], np.float32)


@dataclass(frozen=True, slots=True)
class HairStyle:
    """length: height of the tips in model units (12: cropped, -8: at the chin). part: x of the parting. volume, wave: 0..2."""

    tips: float = -8.0
    part: float = 1.6
    volume: float = 1.0
    wave: float = 1.0
    short: bool = False
    strands: int = 11000
    nodes: int = 18


@dataclass(frozen=True, slots=True)
class Strands:
    """nodes (S, K, 3), tone (S,) brightness of each strand, depth (S, K) 0 inside the hair .. 1 at its surface."""

    nodes: Floats
    tone: Floats
    depth: Floats


class Skull:
    """Distance of a person's head surface from a capsule's axis, over azimuth and height; knows its hairline."""

    def __init__(self, model: FaceModel, shape: Floats):
        skin = model.triangles[model.material == SKIN]
        phi, row, radius, _ = self.coordinates(shape)
        ear = (np.abs(shape[:, 0]) > 7.45) & (np.abs(shape[:, 2] - 0.5) < 4) & (shape[:, 1] < 5.5)
        screen = np.stack([(phi / (2 * np.pi) + 0.5) * _MAP[1] - 0.5, self._row(row), np.maximum(radius, 0.1)], 1)
        wraps = np.ptp(phi[skin], axis=1) > np.pi
        low = shape[skin][..., 1].min(1) < -12
        hits = rasterise(screen.astype(np.float32), skin[~wraps & ~low & ~ear[skin].any(1)], _MAP, both_sides=True)
        flat = np.zeros(_MAP[0] * _MAP[1], np.float32)
        flat[hits.pixel] = hits.inverse_depth
        known = (flat > 0).astype(np.float32).reshape(_MAP)
        grid = flat.reshape(_MAP)
        for sigma in (1.0, 2.0, 4.0, 8.0, 16.0):
            wide, share = (cv2.GaussianBlur(np.tile(a, (1, 3)), (0, 0), sigma) for a in (grid * known, known))
            fill = (wide / np.maximum(share, 1e-4))[:, _MAP[1] : 2 * _MAP[1]]
            usable = (share > 0.02)[:, _MAP[1] : 2 * _MAP[1]] & (known == 0)
            grid, known = np.where(usable, fill, grid), np.maximum(known, usable)
        self.radius: Floats = np.asarray(cv2.GaussianBlur(grid.astype(np.float32), (0, 0), 1.5), np.float32)

    @staticmethod
    def coordinates(points: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """(azimuth in radians, 0 in front; height coordinate; distance from the axis; outward direction (..., 3)) of points (..., 3)."""
        y = points[..., 1]
        arm = np.stack([points[..., 0], np.maximum(y - _AXIS_TOP, 0), points[..., 2] - _AXIS_Z], -1)
        radius = np.linalg.norm(arm, axis=-1)
        flat = np.hypot(arm[..., 0], arm[..., 2])
        row = np.where(y > _AXIS_TOP, np.arctan2(arm[..., 1], flat), (y - _AXIS_TOP) / _DOWN)
        return np.arctan2(arm[..., 0], arm[..., 2]), row, radius, arm / (radius[..., None] + 1e-6)

    @staticmethod
    def _row(row: Floats) -> Floats:
        return np.asarray((_ROWS[1] - row) / (_ROWS[1] - _ROWS[0]) * (_MAP[0] - 1), np.float32)

    def surface(self, phi: Floats, row: Floats) -> Floats:
        """Distance of the head's surface from the axis at the coordinates."""
        shape = phi.shape
        x = ((phi / (2 * np.pi) + 0.5) * _MAP[1] - 0.5).astype(np.float32).reshape(1, -1)
        y = np.clip(self._row(row), 0, _MAP[0] - 1).reshape(1, -1)
        out = [
            cv2.remap(self.radius, a, b, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for a, b in zip(
                np.array_split(x, x.size // 30000 + 1, 1), np.array_split(y, y.size // 30000 + 1, 1), strict=True
            )
        ]
        return np.asarray(np.concatenate(out, 1).reshape(shape), np.float32)

    def push_out(self, points: Floats, lift: Floats | float) -> Floats:
        """Points (..., 3) moved outwards to at least `lift` above the head."""
        phi, row, radius, out = self.coordinates(points)
        missing = np.maximum(self.surface(phi, row) + lift - radius, 0)
        return np.asarray(points + missing[..., None] * out, np.float32)


def hairline(points: Floats) -> Floats:
    """Height above the hairline (negative: bare skin) of points (..., 3) on the neutral head, in model units."""
    phi, _, _, _ = Skull.coordinates(points)
    return np.asarray(points[..., 1] - np.interp(np.degrees(np.abs(phi)), _LINE_AT, _LINE), np.float32)


def scalp_cover(atlas: SkinAtlas, rough: Floats) -> Floats:
    """Hair cover 0..1 of the atlas texels; rough (T, 2T): unit noise that frays the line."""
    return smoothstep(-0.45, 0.75, hairline(atlas.position) + 0.13 * rough)


def grow(skull: Skull, shape: Floats, model: FaceModel, style: HairStyle, seed: int) -> Strands:
    """Strands of a hair style on a person's head (shape: (V, 3) vertices)."""
    rng = np.random.default_rng(seed)
    skin = model.triangles[model.material == SKIN]
    corners, neutral = shape[skin], model.neutral[skin]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    ear = (np.abs(neutral[..., 0]).max(1) > 7.6) & (neutral[..., 1].max(1) < 5.2)
    chance = area * smoothstep(-0.45, 0.5, hairline(neutral.mean(1))) * ~ear
    guides = 420
    pick = rng.choice(len(skin), guides + style.strands, p=chance / chance.sum())
    mix = rng.dirichlet((1, 1, 1), len(pick)).astype(np.float32)
    roots = np.einsum("nc,ncd->nd", mix, corners[pick])
    guide = _guides(skull, roots[:guides], style, rng)
    root = roots[guides:]
    nearest = _closest(root, roots[:guides])
    t = np.linspace(0, 1, style.nodes, dtype=np.float32)[:, None]
    keep = 1 - 0.72 * smoothstep(0.05, 0.8, t)
    loose = rng.normal(0, 0.22, (len(root), 1, 3)) * t + rng.normal(0, 0.09, (len(root), 1, 3))
    turns, phase = rng.uniform(1, 2.5, guides)[nearest], rng.uniform(0, 6.28, guides)[nearest]
    angle = turns[:, None] * 6.28 * t[None, :, 0] + phase[:, None]
    wave = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1) * (0.2 * style.wave * t)
    stray = (rng.random((len(root), 1, 1)) < 0.04) * rng.normal(0, 0.55, (len(root), 1, 3)) * t
    nodes = guide[nearest] + (root - roots[nearest])[:, None] * keep + loose + wave + stray
    cut = rng.uniform(0.86, 1.0, (len(root), 1)) * np.linspace(0, style.nodes - 1.001, style.nodes)
    low = cut.astype(int)
    part = (cut - low)[..., None]
    rows = np.arange(len(root))[:, None]
    nodes = nodes[rows, low] * (1 - part) + nodes[rows, low + 1] * part
    nodes = skull.push_out(nodes.astype(np.float32), 0.04)
    phi, row, radius, _ = skull.coordinates(nodes)
    height = radius - skull.surface(phi, row)
    return Strands(
        nodes,
        np.asarray(np.exp(rng.normal(0, 0.2, len(root))) * np.exp(rng.normal(0, 0.14, guides))[nearest], np.float32),
        smoothstep(0.0, 1.1 * style.volume + 0.3, height),
    )


def _closest(points: Floats, among: Floats) -> NDArray[np.int64]:
    """For each point (N, 3) the index of the nearest of `among` (M, 3)."""
    half = 0.5 * np.einsum("mc,mc->m", among, among)
    return np.concatenate([(half - part @ among.T).argmin(1) for part in np.array_split(points, 16)])


def _guides(skull: Skull, root: Floats, style: HairStyle, rng: np.random.Generator) -> Floats:
    """Guide curves (G, nodes, 3) that follow comb and gravity along the skull from their roots (G, 3)."""
    count = len(root)
    side = np.sign(root[:, 0] - style.part + rng.normal(0, 0.25, count)).astype(np.float32)
    phi, _, _, out = skull.coordinates(root)
    front = smoothstep(75, 25, np.degrees(np.abs(phi)))
    if style.short:
        length = rng.uniform(2.2, 3.6, count) * (0.55 + 0.75 * smoothstep(4, 11, root[:, 1]))
    else:
        length = (root[:, 1] - style.tips) * rng.uniform(1.1, 1.3, count) + 5.0 * smoothstep(6, 14, root[:, 1])
    step = (length / (style.nodes - 1))[:, None]
    comb = np.stack([side * (0.95 - 0.25 * front), 0.35 * front, -0.35 - 0.45 * front], 1)
    if style.short:
        comb = np.stack([side * 0.55, 0.55 * front - 0.5 * (1 - front), -0.35 + 0.2 * front], 1)
    comb += rng.normal(0, 0.12, comb.shape)
    layer = rng.uniform(0.15, 1.0, count) * style.volume * (0.7 if style.short else 1.25)
    bound = np.radians(rng.uniform(62, 76, count))
    tip = style.tips + rng.normal(0, 0.5, count)
    point, nodes = root.astype(np.float32), [root.astype(np.float32)]
    direction = out.astype(np.float32) * 0.8 + comb
    for k in range(1, style.nodes):
        t = k / (style.nodes - 1)
        phi, row, radius, out = skull.coordinates(point)
        fall = smoothstep(9.5, 4.0, point[:, 1])[:, None] * (0.55 if style.short else 1.0)
        want = comb * (1 - fall) * (1 - 0.3 * t) + np.array([0, -1.0, 0]) * (0.3 * t + fall)
        curl = smoothstep(tip + 3.5, tip, point[:, 1])[:, None] * (0.0 if style.short else 0.55)
        want = want - out * (want * out).sum(1, keepdims=True) - curl * out * (point[:, 1:2] < 1)
        direction = 0.45 * direction + 0.55 * want
        direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6
        stop = 1.0 if style.short else smoothstep(tip - 0.2, tip + 0.6, point[:, 1])[:, None]
        point = point + step * direction * stop
        lift = layer * smoothstep(0, 0.2, np.full(count, t)) * (0.42 + 0.6 * smoothstep(3, 12, point[:, 1]))
        if not style.short:
            lift = lift + smoothstep(7.5, 3.5, point[:, 1]) * (1.35 + 0.5 * layer) * min(1.0, 3 * t)
            point = _clear_face(point, bound)
        phi, row, radius, out = skull.coordinates(point)
        loose = np.maximum(radius - skull.surface(phi, row) - lift, 0) * smoothstep(-7, 0, point[:, 1])
        point = skull.push_out(point - (0.4 * loose)[:, None] * out, lift * smoothstep(-6, 0, point[:, 1]))
        nodes.append(point)
    return np.stack(nodes, 1)


def _clear_face(point: Floats, bound: Floats) -> Floats:
    """Turn points in front of the face about the vertical until their azimuth reaches `bound` (radians); the forehead's line is free."""
    phi = np.arctan2(point[:, 0], point[:, 2] - _AXIS_Z)
    need = bound * smoothstep(11.2, 6.5, point[:, 1])
    target = np.where(np.abs(phi) < need, np.sign(phi) * need, phi)
    flat = np.hypot(point[:, 0], point[:, 2] - _AXIS_Z)
    return np.stack([flat * np.sin(target), point[:, 1], flat * np.cos(target) + _AXIS_Z], 1).astype(np.float32)


def brows(atlas: SkinAtlas, model: FaceModel, count: int, seed: int) -> tuple[Strands, NDArray[np.int64]]:
    """Brow hairs on the neutral head and, for each, the vertex whose motion it follows."""
    rng = np.random.default_rng(seed)
    cover = brow_cover(atlas).ravel()
    at = atlas.position.reshape(-1, 3)[rng.choice(cover.size, count, p=cover**1.5 / (cover**1.5).sum())]
    side = np.sign(at[:, :1])
    along = np.clip((np.abs(at[:, :1]) - 1.2) / 4.6, 0, 1)
    run = np.concatenate(
        [side * (0.35 + 0.65 * np.minimum(1, 2.5 * along)), 0.95 - 1.75 * along**0.7, -0.55 * along], 1
    )
    run = run + rng.normal(0, 0.16, run.shape)
    run /= np.linalg.norm(run, axis=1, keepdims=True)
    t = np.linspace(0, 1, 6, dtype=np.float32)[None, :, None]
    size = rng.uniform(0.3, 0.62, (count, 1, 1))
    bend = np.concatenate([0.1 * side, -0.3 + 0 * side, 0 * side], 1)[:, None]
    nodes = at[:, None] + size * (run[:, None] * t + bend * t * t) + np.array([0, 0, 1.0]) * (0.04 + 0.16 * t * (1 - t))
    skin = np.unique(model.triangles[model.material == SKIN])
    neutral = model.neutral[skin]
    follow = _closest(at, neutral)
    tone = np.exp(rng.normal(0, 0.2, count)).astype(np.float32)
    return Strands(nodes.astype(np.float32), tone, np.ones((count, 6), np.float32)), skin[follow]
