"""Luma scenes with many faces of known boxes and much that resembles a face, composed from the heads; boxes are YuNet's on one head."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny import augment
from mien.export.tiny.teachers import Teachers

MIN_WIDTH_PX, PORTRAIT_PX, MAX_WIDTH_PX = 8.0, 50.0, 300.0
CROWDS = 0.6  # of the scenes with little clutter
MAX_COVERED = 0.45  # of a box: more and the face is left out of the loss


@dataclass(frozen=True, slots=True)
class Head:
    """luma, person: (H, W) uint8. box: x, y, width, height of the face in it."""

    luma: Array
    person: Array
    box: Array


def collect(data: Path, runs: Path, split: str) -> list[Head]:
    """The heads of a split: tiles at 384 px, and the warped ones at 224 px; labelled once, then read from <runs>/detector."""
    cache = runs / "detector" / f"heads_{split}.npz"
    if not cache.exists():
        _label(data, runs, split, cache)
    stored = np.load(cache)
    out = []
    for size in ("tile", "pose"):
        arrays = [stored[f"{size}_{k}"] for k in ("luma", "person", "box")]
        out += [Head(*rows) for rows in zip(*arrays, strict=True)]
    return out


def _label(data: Path, runs: Path, split: str, cache: Path) -> None:
    teachers = Teachers(data)
    net = cv2.FaceDetectorYN.create(str(data / "weights" / "yunet_n_dynamic.onnx"), "", (384, 384), 0.6)

    def box_of(rgb: Array) -> Array | None:
        net.setInputSize((rgb.shape[1], rgb.shape[0]))
        found = net.detect(np.ascontiguousarray(rgb[..., ::-1]))[1]
        return None if found is None else np.asarray(max(found, key=lambda f: f[2] * f[3])[:4])

    kept: dict[str, list[Array]] = {f"{size}_{k}": [] for size in ("tile", "pose") for k in ("luma", "person", "box")}

    def keep(size: str, rgb: Array, person: Array, box: Array | None) -> None:
        if box is not None:
            for key, value in (("luma", cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)), ("person", person), ("box", box)):
                kept[f"{size}_{key}"].append(value)

    with (data / "faces" / "labels.csv").open() as f:
        files = [row["file"] for row in csv.DictReader(f) if row["split"] == split]
    for name in files:
        bgr = cv2.imread(str(data / "faces" / "tiles" / name))
        assert bgr is not None, f"{name} of labels.csv cannot be read"
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        keep("tile", rgb, (teachers.person(rgb) * 255).astype(np.uint8), box_of(rgb))
    pictures = np.load(runs / "poses" / f"{split}_image.npy", mmap_mode="r")
    people = np.load(runs / "poses" / f"{split}_person.npy", mmap_mode="r")
    for i in range(len(pictures)):
        rgb = np.ascontiguousarray(pictures[i])
        padded = cv2.copyMakeBorder(rgb, 0, 32, 0, 32, cv2.BORDER_CONSTANT)
        keep("pose", rgb, np.ascontiguousarray(people[i]), box_of(padded))
    cache.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {k: np.stack(v) for k, v in kept.items()}
    partial = cache.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, cache)
    print(
        f"detector: {split}: YuNet boxes on {len(kept['tile_box'])} tiles and {len(kept['pose_box'])} warped heads",
        flush=True,
    )


def turned_box(box: Array, matrix: Array) -> Array:
    """x0, y0, x1, y1 around the box's inscribed ellipse after an affine."""
    x, y, w, h = box
    centre = matrix[:, :2] @ np.array([x + w / 2 - 0.5, y + h / 2 - 0.5]) + matrix[:, 2]
    half = np.sqrt(((matrix[:, :2] * np.array([w / 2, h / 2])) ** 2).sum(1))
    return np.concatenate([centre - half, centre + half])


def faceless(head: Head, rng: np.random.Generator) -> Array:
    """The head's picture with its face filled by blur, hair or skin: the back of a head, a hat, a shop-window dummy."""
    x, y, w, h = head.box
    mask: Array = np.zeros(head.luma.shape, np.float32)
    centre, axes = (int(x + w / 2), int(y + h / 2)), (int(w * 0.6), int(h * 0.62))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), max(1.0, w / 20))
    pick = rng.random()
    if pick < 0.4:
        fill = cv2.blur(head.luma, (int(w), int(h)))
    elif pick < 0.75:
        fill = np.roll(head.luma, -int(h * rng.uniform(0.6, 1.0)), 0)
    else:
        fill = augment.texture(head.luma.shape[0], head.luma.shape[1], rng, 1)
    return np.clip(head.luma * (1 - mask) + fill * mask, 0, 255).astype(np.uint8)


def skull(size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A printed face-like pattern, (size, size) uint8, and its soft mask: dark sockets in a pale oval, teeth, often rough as a stencil."""
    tone, mask = np.ones((size, size), np.float32), np.zeros((size, size), np.float32)
    c = size // 2
    cv2.ellipse(
        mask,
        (c, int(c * 0.95)),
        (int(size * rng.uniform(0.28, 0.42)), int(size * 0.45)),
        0,
        0,
        360,
        1.0,
        -1,
        cv2.LINE_AA,
    )
    for side in (-1, 1):
        eye = (int(c + side * size * rng.uniform(0.12, 0.18)), int(size * rng.uniform(0.34, 0.46)))
        axes = (max(1, int(size * rng.uniform(0.05, 0.14))), max(1, int(size * rng.uniform(0.04, 0.13))))
        cv2.ellipse(tone, eye, axes, side * float(rng.uniform(-40, 40)), 0, 360, 0.0, -1, cv2.LINE_AA)
        if rng.random() < 0.5:  # a hollow cheek
            cheek = (int(c + side * size * 0.2), int(size * rng.uniform(0.58, 0.68)))
            cv2.ellipse(
                tone, cheek, (max(1, size // 16), max(1, size // 8)), -side * 20.0, 0, 360, 0.0, -1, cv2.LINE_AA
            )
        if rng.random() < 0.3:  # a glint
            cv2.circle(tone, eye, max(1, size // 40), 1.0, -1, cv2.LINE_AA)
    if rng.random() < 0.8:
        nose = np.array([[c, size * 0.5], [c - size * 0.05, size * 0.61], [c + size * 0.05, size * 0.61]]).astype(
            np.int32
        )
        cv2.fillConvexPoly(tone, nose, 0.0, cv2.LINE_AA)
    for k in range(int(rng.integers(0, 8))):
        x = int(c + (k - 3.5) * size * 0.055)
        cv2.line(
            tone, (x, int(size * 0.69)), (x, int(size * rng.uniform(0.76, 0.84))), 0.0, max(1, size // 40), cv2.LINE_AA
        )
    if rng.random() < 0.6:  # a stencil: rough edges, two tones
        cells = int(rng.integers(6, 20))
        rough = cv2.resize(
            rng.normal(0, 0.35, (cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        tone = np.clip((cv2.GaussianBlur(tone * mask, (0, 0), max(0.8, size / 40)) + rough - 0.45) * 8, 0, 1)
    dark, pale = rng.uniform(0, 90), rng.uniform(120, 255)
    dark, pale = (pale, dark) if rng.random() < 0.2 else (dark, pale)
    picture = dark + (pale - dark) * tone + rng.normal(0, rng.uniform(0, 15), tone.shape)
    return np.asarray(np.clip(picture, 0, 255), np.uint8), mask


class Composer:
    """Makes scenes from heads."""

    def __init__(self, heads: list[Head]) -> None:
        self.heads = heads

    def _lay(self, scene: Array, picture: Array, mask: Array, matrix: Array) -> Array:
        height, width = scene.shape
        k = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        if k < 0.7:
            size = (max(2, round(picture.shape[1] * k)), max(2, round(picture.shape[0] * k)))
            fx, fy = picture.shape[1] / size[0], picture.shape[0] / size[1]
            picture, mask = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (picture, mask))
            offset = matrix[:, :2] @ np.array([fx / 2 - 0.5, fy / 2 - 0.5]) + matrix[:, 2]
            matrix = np.concatenate([matrix[:, :2] * [fx, fy], offset[:, None]], 1)
        over = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR).astype(np.float32) * (1 / 255)
        return (scene + (over.astype(np.float32) - scene) * alpha).astype(np.uint8)

    def _matrix(
        self, box: Array, width_px: float, at: Array, rng: np.random.Generator, turn_deg: float = 30.0
    ) -> Array:
        k = width_px / box[2]
        t = np.deg2rad(np.clip(rng.normal(0, turn_deg / 2.5), -turn_deg, turn_deg))
        rotation = (
            np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) * k * np.exp(rng.normal(0, 0.04, 2))[:, None]
        )
        if rng.random() < 0.5:
            rotation = rotation @ np.diag([-1.0, 1.0])
        centre = box[:2] + box[2:] / 2 - 0.5
        return np.concatenate([rotation, (at - rotation @ centre)[:, None]], 1)

    def _backdrop(self, height: int, width: int, rng: np.random.Generator) -> Array:
        pick = rng.random()
        if pick < 0.3:
            return augment.texture(height, width, rng, 1)
        head = self.heads[int(rng.integers(len(self.heads)))]
        picture = faceless(head, rng)
        n = picture.shape[0]
        side = max(16, int(n * rng.uniform(0.1, 0.9)))
        x, y = rng.integers(0, n - side + 1, 2)
        return cv2.resize(picture[y : y + side, x : x + side], (width, height), interpolation=cv2.INTER_LINEAR)

    def _clutter(self, scene: Array, count: int, rng: np.random.Generator) -> Array:
        height, width = scene.shape
        for _ in range(count):
            at = rng.uniform(0, [width, height])
            size = float(np.exp(rng.uniform(np.log(10), np.log(200))))
            pick = rng.random()
            if pick < 0.5:
                head = self.heads[int(rng.integers(len(self.heads)))]
                mask = head.person if rng.random() < 0.8 else np.full_like(head.person, 255)
                scene = self._lay(scene, faceless(head, rng), mask, self._matrix(head.box, size, at, rng, 60.0))
            elif pick < 0.72:
                picture, soft = skull(int(np.clip(size * 1.3, 12, 200)), rng)
                box = np.array([0, 0, *picture.shape[::-1]], float)
                mask = (soft * 255 * rng.uniform(0.5, 1.0)).astype(np.uint8)
                scene = self._lay(scene, picture, mask, self._matrix(box, size, at, rng, 50.0))
            else:
                shade = np.full(3, rng.uniform(20, 240))
                cover, tone, _ = augment.occluder(scene.shape, at, size * 0.5, shade, rng)
                scene = augment.paste(scene, cover, np.asarray(tone), rng)
        return scene

    def scene(self, height: int, width: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Luma (height, width) uint8, face boxes (N, 4) x0, y0, x1, y1, and which of them count (N,) bool."""
        heavy = rng.random() < 0.45
        scene = self._clutter(
            self._backdrop(height, width, rng), int(rng.integers(2, 7) if heavy else rng.integers(0, 3)), rng
        )
        count = int(rng.integers(0, 3)) if heavy else int(rng.choice([1, 1, 2, 3, 5, 8]))
        boxes: list[Array] = []
        shown: list[float] = []
        smallest, largest = MIN_WIDTH_PX, MAX_WIDTH_PX if count == 1 else 0.6 * width / np.sqrt(max(count, 1))
        if not heavy and rng.random() < CROWDS:  # far away
            count, smallest, largest = int(rng.integers(5, 13)), 13.0, 45.0
        for _ in range(count):
            head = self.heads[int(rng.integers(len(self.heads)))]
            portrait = not boxes and count <= 3 and rng.random() < 0.5
            low, high = (PORTRAIT_PX, MAX_WIDTH_PX) if portrait else (smallest, largest)
            high = min(high, 0.75 * min(width, height))
            size = float(rng.uniform(low, high) if portrait else np.exp(rng.uniform(np.log(low), np.log(high))))
            at = rng.uniform(0.35 * size, np.maximum(np.array([width, height]) - 0.35 * size, 0.36 * size))
            matrix = self._matrix(head.box, size, at, rng)
            box = turned_box(head.box, matrix)
            cut = head.person if rng.random() < 0.7 else np.full_like(head.person, 255)
            reach = matrix[:, :2] @ np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]]) * max(head.luma.shape) * 0.35
            around = np.concatenate([at + reach.min(1), at + reach.max(1)])
            if any(_overlap(b, box) > 0.1 for b in boxes):
                continue
            for j, b in enumerate(boxes):  # the new head's shoulders may hide an earlier face
                shown[j] -= _overlap(b, around)
            scene = self._lay(scene, head.luma, cut, matrix)
            inside = np.concatenate([np.maximum(box[:2], 0), np.minimum(box[2:], [width, height])])
            shown.append(_overlap(box, inside))
            boxes.append(box)
            if rng.random() < 0.25:
                spot = rng.uniform(box[:2], box[2:])
                cover, tone, _ = augment.occluder(
                    scene.shape, spot, size * float(rng.uniform(0.15, 0.5)), np.full(3, 140.0), rng
                )
                scene = augment.paste(scene, cover, np.asarray(tone), rng)
                x0, y0, x1, y1 = np.clip(box, 0, [width, height] * 2).astype(int)
                shown[-1] -= float(cover[y0:y1, x0:x1].mean()) if x1 > x0 and y1 > y0 else 1.0
        scene = augment.degrade(augment.colour(scene, rng), rng)
        if rng.random() < 0.15:
            bar = int(rng.uniform(0.02, 0.2) * width)
            scene[:, :bar] = 0
            shown = [s - _overlap(b, np.array([0, 0, bar, height])) for s, b in zip(shown, boxes, strict=True)]
        counts = np.array([s > 1 - MAX_COVERED for s in shown], bool)
        return scene, np.array(boxes, np.float32).reshape(-1, 4), counts


def _overlap(box: Array, other: Array) -> float:
    """Part of `box` that lies in `other`."""
    size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.prod(np.maximum(size, 0)) / np.prod(box[2:] - box[:2]))
