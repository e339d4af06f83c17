"""Stage `poses`: more heads from the prepared crops, turned and re-expressed by thin-plate warps, labelled anew by the mesh teacher.

Writes to `<runs>/poses` for each split, N variants of `POOL_PX` pictures: <split>_image.npy uint8 (N, 224, 224, 3) RGB, <split>_hair.npy
and <split>_person.npy uint8 (N, 224, 224), <split>_points.npy float32 (N, 478, 2) pool pixels. Every tile gives one variant as it is.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68, OVAL, Teachers

POOL_PX, SOURCE_PX = 224, 320
VARIANTS = {"train": 4, "val": 2}
MAX_TURN, MAX_YAW, MAX_UNTURN = 28.0, 42.0, 12.0  # degrees; a warp cannot show a cheek that the tile hides
GRID = 36  # nodes a side on which a warp is evaluated
MAX_DISAGREEMENT = 0.12  # of the inter-ocular distance, between the teacher and the warped points
INNER_LIPS = [78, 82, 13, 312, 308, 317, 14, 87]
UPPER_LIDS, LOWER_LIDS = ([159, 160, 158], [386, 385, 387]), ([145, 144, 153], [374, 380, 373])


class ThinPlate:
    """Interpolates source = f(target) through control points (N, 2), smoothed by `stiffness` (pixels squared of the kernel)."""

    def __init__(self, target: Array, source: Array, stiffness: float = 1.0) -> None:
        n = len(target)
        self.target = target
        system = np.zeros((n + 3, n + 3))
        system[:n, :n] = self._kernel(target) + stiffness * np.eye(n)
        system[:n, n:] = np.concatenate([np.ones((n, 1)), target], 1)
        system[n:, :n] = system[:n, n:].T
        self.weights = np.linalg.solve(system, np.concatenate([source, np.zeros((3, 2))]))

    def _kernel(self, points: Array) -> Array:
        square = ((points[:, None] - self.target[None]) ** 2).sum(-1)
        return np.asarray(0.5 * square * np.log(square + 1e-6))

    def __call__(self, points: Array) -> Array:
        """(M, 2) target points -> (M, 2) source points."""
        linear = np.concatenate([np.ones((len(points), 1)), points], 1)
        return np.asarray(self._kernel(points) @ self.weights[:-3] + linear @ self.weights[-3:])


def turn(points: Array, yaw: float, pitch: float) -> Array:
    """Rotate mesh points (478, 3), z towards the camera negative, about a point behind the face; radians."""
    width = np.ptp(points[:, 0])
    centre = points.mean(0) + np.array([0.0, 0.0, 0.35 * width])
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    rotation = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray((points - centre) @ rotation.T + centre)


def _yaw_change(points: Array, rng: np.random.Generator) -> float:
    """A turn in radians that mostly leads away from the frontal view."""
    side = points[454] - points[234]
    yaw = float(np.rad2deg(np.arctan2(-side[2], side[0])))
    low = max(-MAX_TURN if yaw < 8 else -MAX_UNTURN, -MAX_YAW - yaw)
    high = min(MAX_TURN if yaw > -8 else MAX_UNTURN, MAX_YAW - yaw)
    return float(np.deg2rad(rng.uniform(min(low, 0.0), max(high, 0.0))))


def express(points: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Move mesh points (478, 3) into another expression; also how far the mouth was opened, in face heights."""
    p = points.copy()
    height = np.linalg.norm(p[152] - p[10])
    down = (p[152] - p[10]) / height
    across = (p[454] - p[234]) / np.linalg.norm(p[454] - p[234])
    mouth = p[INNER_LIPS].mean(0)
    opened = 0.0

    def push(at: list[int], move: Array, sigma: float) -> None:
        distance = np.linalg.norm(points[:, None, :2] - points[None, at, :2], axis=-1).min(1)
        p[:] += np.exp(-0.5 * (distance / (sigma * height)) ** 2)[:, None] * move

    if rng.random() < 0.55:
        opened = float(rng.uniform(0.02, 0.22) * rng.uniform(0.4, 1.0))
        along, aside = (points - mouth) @ down / height, np.abs((points - mouth) @ across) / height
        weight = np.clip(along / 0.06, 0, 1) * np.exp(-0.5 * (aside / 0.28) ** 2)
        weight[[13, 82, 312, 81, 311, 80, 310, 0, 37, 267]] = 0.0
        weight[[14, 87, 317, 88, 318, 95, 324, 178, 402, 17, 84, 314]] = 1.0
        p += weight[:, None] * down * opened * height
        push([61, 291, 78, 308], down * opened * height * 0.45, 0.03)
    if rng.random() < 0.5:
        factor = rng.uniform(-0.3, 0.2)
        offset = (points - mouth) @ across
        near = np.exp(-0.5 * (np.linalg.norm((points - mouth)[:, :2], axis=1) / (0.17 * height)) ** 2)
        p += (factor * offset * near)[:, None] * across
    if rng.random() < 0.5:
        push([61, 291], -down * rng.uniform(-0.03, 0.05) * height, 0.07)
    for upper, lower, brow in zip(UPPER_LIDS, LOWER_LIDS, ([105, 66, 63], [334, 296, 293]), strict=True):
        if rng.random() < 0.4:
            gap = p[lower].mean(0) - p[upper].mean(0)
            push(upper, gap * rng.uniform(0.4, 1.0), 0.018)
        if rng.random() < 0.4:
            push(brow, -down * rng.uniform(-0.025, 0.05) * height, 0.07)
    return p, opened


def _paint_mouth(image: Array, points: Array, rng: np.random.Generator) -> None:
    """Fill an opened mouth with a dark inside and sometimes teeth, in place."""
    ring = points[[78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]]
    mask = np.zeros(image.shape[:2], np.float32)
    cv2.fillPoly(mask, [np.round(ring * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    inside = np.ones(image.shape, np.float32) * rng.uniform([25, 8, 8], [110, 50, 50])
    tall = ring[:, 1].max() - ring[:, 1].min()
    for rows, chance in ((points[13, 1] + tall * rng.uniform(0.15, 0.35), 0.7), (None, 0.2)):
        if rng.random() < chance:
            teeth = np.zeros(mask.shape, np.float32)
            if rows is not None:
                teeth[: int(rows)] = 1.0
            else:
                teeth[int(points[14, 1] - tall * 0.2) :] = 1.0
            soft = cv2.GaussianBlur(teeth, (3, 3), 0)[..., None]
            inside = inside * (1 - soft) + soft * rng.uniform([150, 140, 125], [235, 225, 215])
    edge = cv2.GaussianBlur(mask, (3, 3), 0)[..., None]
    image[:] = (image * (1 - edge) + inside * edge).astype(np.uint8)


def warp_tile(
    picture: Array, masks: list[Array], points: Array, rng: np.random.Generator, plain: bool
) -> tuple[Array, list[Array], Array]:
    """One variant: picture (320, 320, 3), masks (320, 320), mesh (478, 3) -> the same at 224 px and points (478, 2)."""
    factor = POOL_PX / SOURCE_PX
    if plain:
        small = cv2.resize(picture, (POOL_PX, POOL_PX), interpolation=cv2.INTER_AREA)
        flat = [cv2.resize(m, (POOL_PX, POOL_PX), interpolation=cv2.INTER_AREA) for m in masks]
        return small, flat, (points[:, :2] + 0.5) * factor - 0.5
    posed, opened = express(points, rng)
    posed = turn(posed, _yaw_change(points, rng), np.deg2rad(rng.uniform(-16, 16)))
    control = np.unique(np.concatenate([MESH_TO_68, OVAL, np.arange(0, 468, 6)]))
    ring = np.linspace(0, SOURCE_PX - 1, 5)
    border = np.array([(x, y) for x in ring for y in ring if x in (0, SOURCE_PX - 1) or y in (0, SOURCE_PX - 1)])
    plate = ThinPlate(
        np.concatenate([posed[control, :2], border]), np.concatenate([points[control, :2], border]), stiffness=40.0
    )
    nodes = (np.arange(GRID) + 0.5) * SOURCE_PX / GRID - 0.5
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    flow = plate(grid).reshape(GRID, GRID, 2).astype(np.float32)
    dense = cv2.resize(flow, (POOL_PX, POOL_PX), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(picture, (3, 3), 0.6)
    x, y = np.ascontiguousarray(dense[..., 0]), np.ascontiguousarray(dense[..., 1])
    image, *warped = (
        np.asarray(cv2.remap(p, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
        for p in (blurred, *masks)
    )
    out = (posed[:, :2] + 0.5) * factor - 0.5
    if opened > 0.03:
        _paint_mouth(image, out, rng)
    return image, warped, out


def interocular(points: Array) -> float:
    """Distance between the eyes' centres of 478 mesh points."""
    left, right = points[[33, 133], :2].mean(0), points[[362, 263], :2].mean(0)
    return float(np.hypot(*(right - left)))


def relabel(teachers: Teachers, image: Array, points: Array) -> Array | None:
    """The teacher's points (478, 2) on a variant, or None where it sees no face or disagrees with the warp."""
    face = points[MESH_TO_68]
    low, high = face.min(0), face.max(0)
    found, logit = teachers.mesh(image, (low[0], low[1], high[0] - low[0], high[1] - low[1]), passes=2)
    apart = np.hypot(*(found[MESH_TO_68, :2] - face).T).mean()
    if logit <= 0 or apart > MAX_DISAGREEMENT * max(interocular(points), 0.25 * float(np.ptp(face[:, 1]))):
        return None
    return np.asarray(found[:, :2], np.float32)


def run(args: Arguments) -> None:
    """Make both pools; prints how many variants the teacher accepted."""
    prepared, out = args.runs / "prepared", args.runs / "poses"
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads((prepared / "index.json").read_text())
    crops, hair, person = (np.load(prepared / f"{n}.npy", mmap_mode="r") for n in ("crops", "hair", "person"))
    points = np.load(prepared / "points.npy")
    teachers = Teachers(args.data)
    for split, count in VARIANTS.items():
        kept: dict[str, list[Array]] = {"image": [], "hair": [], "person": [], "points": []}
        tried = 0
        for i in (i for i, row in enumerate(rows) if row["split"] == split):
            rng = np.random.default_rng((args.seed, i))
            for variant in range(count):
                tried += 1
                image, masks, moved = warp_tile(crops[i], [hair[i], person[i]], points[i], rng, variant == 0)
                label = moved if variant == 0 else relabel(teachers, image, moved)
                if label is not None:
                    for key, value in zip(kept, (image, *masks, label.astype(np.float32)), strict=True):
                        kept[key].append(value)
        for key, values in kept.items():
            np.save(out / f"{split}_{key}.npy", np.stack(values))
        print(f"poses: {split}: kept {len(kept['points'])} of {tried} variants", flush=True)
