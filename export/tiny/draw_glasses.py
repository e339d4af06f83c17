"""Pair generator: sunglasses. Pictures and points as in strokes.py."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.matte import hair_matte
from mien.export.tiny.strokes import size_of
from mien.export.tiny.teachers import OVAL

_FRAME = np.array([0.016, 0.014, 0.016], np.float32)
_EDGE = np.array([0.17, 0.17, 0.18], np.float32)  # what the rim's upper edge adds
_LENS_TOP = np.array([0.095, 0.088, 0.090], np.float32)
_LENS_BOTTOM = np.array([0.40, 0.325, 0.265], np.float32)
_SKY = np.array([0.17, 0.185, 0.21], np.float32)
_FINE = 4  # supersampling of outlines
# in inter-ocular distances
_CENTRE, _HALF_WIDTH, _HALF_HEIGHT, _RIM = 0.535, 0.37, 0.285, 0.075
_DROP, _FORWARD, _WRAP, _MARGIN = 0.07, 0.16, 0.22, 0.10
_SIDES = ((-1.0, 127), (1.0, 356))  # image-left and image-right, with the mesh's point next to the ear


@dataclass(frozen=True, slots=True)
class _Head:
    """The head's axes in the picture: where one inter-ocular distance to its right, down and forward goes, (2,) each."""

    origin: Array
    right: Array
    down: Array
    forward: Array
    unit_px: float
    reach: tuple[float, float]  # how far across each side of the face goes from the origin, in pixels

    @classmethod
    def of(cls, points: Array) -> _Head:
        """The head of a mesh; its depth is used where it has one."""
        solid = np.zeros((len(points), 3))
        solid[:, : points.shape[1]] = points
        left, right = solid[[33, 133]].mean(0), solid[[263, 362]].mean(0)
        across = right - left
        unit = max(float(np.linalg.norm(across)), size_of(points))
        across = across / np.linalg.norm(across)
        down = solid[152] - solid[10]
        down = down - (down @ across) * across
        down = down / np.linalg.norm(down)
        forward = np.cross(down, across)  # towards the camera z falls
        origin = (left + right)[:2] / 2
        line = across[:2] / np.hypot(*across[:2])
        outline = (points[OVAL, :2] - origin) @ line
        reach = (float(-outline.min()), float(outline.max()))
        return cls(origin, unit * across[:2], unit * down[:2], unit * forward[:2], unit, reach)

    def at(self, x: Array, y: Array, side: float) -> Array:
        """Points (n, 2) of the picture on the glasses' curved front; one side narrows where it would leave the face."""
        centre = self.origin + _FORWARD * self.forward + _DROP * self.down
        flat = x[:, None] * self.right + y[:, None] * self.down - (_WRAP * x**2)[:, None] * self.forward
        line = self.right / np.hypot(*self.right)
        ends = np.linspace(0.1, _CENTRE + _HALF_WIDTH + _RIM, 16) * side
        extent = float((side * (ends[:, None] * self.right - _WRAP * (ends**2)[:, None] * self.forward) @ line).max())
        room = self.reach[int(side > 0)] + _MARGIN * self.unit_px - side * float((centre - self.origin) @ line)
        ratio = room / extent
        narrow = float((1 + max(ratio, 0.3) ** -12) ** (-1 / 12))  # a smooth min(1, ratio)
        return np.asarray(centre + flat + ((narrow - 1) * (flat @ line))[:, None] * line)


def _fill(shape: tuple[int, int], polygons: list[Array]) -> Array:
    """Polygons (n, 2) united, supersampled: smooth curves want cleaner edges than cv2 draws; (H, W) in [0, 1]."""
    mask = np.zeros((_FINE * shape[0], _FINE * shape[1]), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(16 * (_FINE * (polygon + 0.5) - 0.5)).astype(np.int32)], 255, shift=4)
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _lens(head: _Head, side: float, rim: float) -> Array:
    """Outline of one lens, grown by `rim`."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    x, y = np.sign(c) * np.abs(c) ** 0.62, np.sign(s) * np.abs(s) ** 0.68
    x = x * (1 - 0.10 * y)  # wider at the top
    y = y - 0.10 * x * np.clip(-y, 0, 1)  # the outer corner rises
    return head.at(side * (_CENTRE + (_HALF_WIDTH + rim) * x), (_HALF_HEIGHT + rim) * y, side)


def _frame(head: _Head, shape: tuple[int, int]) -> Array:
    """Rims, lenses and bridge, filled."""
    x = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    top, bottom = -0.16 - 0.05 * (1 - (x / 0.2) ** 2), -0.03 - 0.07 * (1 - (x / 0.2) ** 2)
    left, right = x <= 0, x > 0
    edges = [np.concatenate([head.at(x[left], y[left], -1.0), head.at(x[right], y[right], 1.0)]) for y in (top, bottom)]
    bridge = np.concatenate([edges[0], edges[1][::-1]])
    return _fill(shape, [_lens(head, -1.0, _RIM), _lens(head, 1.0, _RIM), bridge])


def glasses_front(points: Array, shape: tuple[int, int]) -> Array:
    """(H, W) in [0, 1]: what the glasses of a mesh (478, 3) cover, without their arms."""
    return _frame(_Head.of(points), shape)


def _arms(head: _Head, points: Array, shape: tuple[int, int]) -> Array:
    """Both arms, from the hinge to the ear, fading out as the head's turn hides them behind the lens."""
    arms = np.zeros(shape, np.float32)
    for side, ear in _SIDES:
        ends = head.at(side * np.full(2, _CENTRE + 0.9 * (_HALF_WIDTH + _RIM)), np.array([-0.27, -0.14]), side)
        along = points[ear, :2] - ends.mean(0) - 0.10 * head.down
        tip = ends.mean(0) + 1.25 * along
        half = 0.033 * head.down
        outwards = side * float(along @ head.right) / float(head.right @ head.right)
        seen = float(np.clip(outwards / 0.12, 0, 1))
        arms = np.maximum(arms, seen * _fill(shape, [np.stack([ends[0], tip - half, tip + half, ends[1]])]))
    return arms


def _tint(head: _Head, shape: tuple[int, int]) -> Array:
    """(H, W, 3) the lenses' colours: darker at the top, with a broad soft reflection."""
    line, fall = (v / np.hypot(*v) / head.unit_px for v in (head.right, head.down))
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    nose_side = (xx - head.origin[0] - _FORWARD * head.forward[0]) * line[0]
    nose_side += (yy - head.origin[1] - _FORWARD * head.forward[1]) * line[1]
    colours = np.zeros((*shape, 3), np.float32)
    for side, _ in _SIDES:
        x, y = head.at(np.array([side * _CENTRE]), np.zeros(1), side)[0]
        down = ((xx - x) * fall[0] + (yy - y) * fall[1]) / _HALF_HEIGHT
        across = ((xx - x) * line[0] + (yy - y) * line[1]) / _HALF_WIDTH
        level = np.clip(0.5 + 0.5 * down, 0, 1)[..., None] ** 1.8
        gleam = np.exp(-(((across + 0.35 + 0.45 * down) / 0.22) ** 2)) * np.clip(0.25 - down, 0, 1)
        colour = _LENS_TOP + level * (_LENS_BOTTOM - _LENS_TOP) + gleam[..., None] * _SKY
        colours[side * nose_side > 0] = colour[side * nose_side > 0]
    return colours


def sunglasses(rgb: Array, points: Array, strength: float, hair: Array | None = None) -> Array:
    """Thick-rimmed sunglasses with graded lenses; strength in [0, 1] is their opacity. Arms go under `hair` (H, W), if given."""
    head, shape = _Head.of(points), (rgb.shape[0], rgb.shape[1])
    unit = head.unit_px
    front = _frame(head, shape)
    arms = _arms(head, points, shape)
    if hair is not None:
        arms = arms * (1 - hair_matte(rgb, hair))
    frame = np.maximum(front, arms)
    glass = _fill(shape, [_lens(head, side, 0.0) for side, _ in _SIDES])
    face = _fill(shape, [points[OVAL, :2]])
    light = float(np.clip((rgb.mean(2) * face).sum() / (face.sum() + 1e-6) / 0.45, 0.45, 1.0))
    move = np.array([[1, 0, 0.06 * head.down[0]], [0, 1, 0.06 * head.down[1]]])
    shadow = cv2.warpAffine(cv2.GaussianBlur(frame, (0, 0), 0.05 * unit), move, shape[::-1])
    out = rgb * (1 - 0.30 * shadow * face)[..., None]
    lift = np.array([[1, 0, 0.045 * head.down[0]], [0, 1, 0.045 * head.down[1]]])
    upper = cv2.GaussianBlur(np.clip(front - cv2.warpAffine(front, lift, shape[::-1]), 0, 1), (0, 0), 0.8)
    out = out + frame[..., None] * (_FRAME + light * upper[..., None] * _EDGE - out)
    out = out + glass[..., None] * (0.97 * light * _tint(head, shape) + 0.03 * rgb - out)
    return np.asarray(np.clip(rgb + strength * (out - rgb), 0, 1), np.float32)
