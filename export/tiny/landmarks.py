"""Stage `landmarks`: train the 68-landmark network on the mesh teacher's points over the prepared and warped heads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mien.engine.networks.landmarks import INPUT_PX, Landmarks
from mien.engine.networks.pyramid import CELL_PX
from mien.engine.types import Array
from mien.export.tiny import augment, training
from mien.export.tiny.dataset import planes
from mien.export.tiny.loop import mixed_precision
from mien.export.tiny.scenes import skull
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68, OVAL

BATCH, NEGATIVES = 20, 4
CROP_RATIO = 1.6
HEAT_SIGMA_PX = 4.0
FAR_SHARE = 0.25
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


def square(points: Array) -> tuple[Array, float, float]:
    """Centre, side and roll of the square that the runtime crops for 68 points: 1.6 times their roll-aligned extent."""
    d = points[42:48].mean(0) - points[36:42].mean(0)
    roll = float(np.arctan2(d[1], d[0]))
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    turned = points @ turn.T
    low, high = turned.min(0), turned.max(0)
    return turn.T @ ((low + high) / 2), CROP_RATIO * float((high - low).max()), roll


class Heads:
    """The pictures and points of one split, and the crops made of them."""

    def __init__(self, folder: Path, split: str) -> None:
        self.pictures = np.load(folder / f"{split}_image.npy", mmap_mode="r")
        self.meshes = np.load(folder / f"{split}_points.npy")
        self.points = self.meshes[:, MESH_TO_68]

    def positive(self, i: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """A jittered, degraded crop (128, 128, 3) uint8 and its points (68, 2) in crop pixels."""
        centre, side, roll = square(self.points[i])
        side *= float(np.exp(rng.uniform(-0.25, 0.32)))
        centre = centre + rng.uniform(-0.13, 0.13, 2) * side
        angle = roll + float(np.deg2rad(np.clip(rng.normal(0, 8), -24, 24)))
        matrix = augment.similarity(side, centre, angle, INPUT_PX)
        picture = augment.warp(self.pictures[i], matrix, (INPUT_PX, INPUT_PX), rng)
        points = augment.map_points(matrix, self.points[i])
        if rng.random() < 0.45:
            over_mouth = rng.random() < 0.6  # where hands go
            at = points[int(rng.integers(48, 68)) if over_mouth else int(rng.integers(68))] + rng.normal(0, 12, 2)
            skin = picture[tuple(np.clip(points[30].astype(int)[::-1], 0, INPUT_PX - 1))].astype(np.float64)
            other = self.pictures[int(rng.integers(len(self.points)))]
            mask, fill, _ = augment.occluder((INPUT_PX, INPUT_PX), at, float(rng.uniform(8, 40)), skin, rng, other)
            picture = augment.paste(augment.shadow(picture, mask, rng), mask, fill, rng)
        if rng.random() < 0.5:
            picture, points = picture[:, ::-1], (points * [-1, 1] + [INPUT_PX - 1, 0])[MIRROR]
        return seen(np.ascontiguousarray(picture), rng), points

    def negative(self, i: int, rng: np.random.Generator) -> Array:
        """A crop (128, 128, 3) uint8 whose landmarks nobody should trust."""
        kind = rng.random()
        if kind < 0.2:
            print_, soft = skull(INPUT_PX, rng)
            ground = augment.texture(INPUT_PX, INPUT_PX, rng)
            at = augment.similarity(
                INPUT_PX * float(rng.uniform(0.7, 1.5)), rng.normal(64, 6, 2), rng.normal(0, 0.2), INPUT_PX
            )
            cover = cv2.warpAffine(soft, at, (INPUT_PX, INPUT_PX)) * float(rng.uniform(0.6, 1.0))
            tinted = cv2.warpAffine(print_, at, (INPUT_PX, INPUT_PX))[..., None] * rng.uniform(0.7, 1.0, 3)
            return seen(augment.paste(ground, cover, tinted, rng), rng)
        if kind < 0.3:
            return augment.degrade(augment.texture(INPUT_PX, INPUT_PX, rng), rng)
        centre, side, roll = square(self.points[i])
        picture = self.pictures[i]
        if kind < 0.5:  # beside the face
            t = rng.uniform(0, 2 * np.pi)
            side *= float(rng.uniform(0.4, 1.0))
            centre = centre + np.array([np.cos(t), np.sin(t)]) * (
                0.31 * square(self.points[i])[1] + rng.uniform(0.35, 0.7) * side
            )
        elif kind < 0.6:  # a part of the face
            side, centre = side * float(rng.uniform(0.2, 0.36)), centre + rng.normal(0, 0.12, 2) * side
        elif kind < 0.7:  # a head far too small for the crop
            side *= float(rng.uniform(2.6, 5.0))
        elif kind < 0.85:  # a head without a face
            picture = picture.copy()
            mask = np.zeros(picture.shape[:2], np.uint8)
            cv2.fillPoly(mask, [self.meshes[i][OVAL].astype(np.int32)], 255)
            mask = cv2.dilate(mask, np.ones((9, 9), np.uint8))
            soft = cv2.GaussianBlur(mask, (15, 15), 0)[..., None] / 255.0
            fill = (
                cv2.blur(picture, (61, 61)) if rng.random() < 0.5 else np.roll(picture, int(rng.integers(70, 150)), 0)
            )
            picture = (picture * (1 - soft) + fill * soft).astype(np.uint8)
        angle = roll + float(rng.normal(0, 0.3))
        crop = augment.warp(picture, augment.similarity(side, centre, angle, INPUT_PX), (INPUT_PX, INPUT_PX), rng)
        if kind >= 0.85:  # the parts of a face in disorder
            n = int(rng.choice([3, 4]))
            cell = INPUT_PX // n
            tiles = [crop[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] for y in range(n) for x in range(n)]
            order = np.roll(rng.permutation(n * n), 1)
            rows = [np.concatenate([tiles[order[y * n + x]] for x in range(n)], 1) for y in range(n)]
            crop = cv2.resize(np.concatenate(rows, 0), (INPUT_PX, INPUT_PX))
        return seen(np.ascontiguousarray(crop), rng)

    def batch(self, rng: np.random.Generator) -> dict[str, Array]:
        """BATCH crops, the last NEGATIVES of them without a face."""
        made = [self.positive(int(i), rng) for i in rng.integers(0, len(self.points), BATCH - NEGATIVES)]
        pictures = [p for p, _ in made] + [
            self.negative(int(i), rng) for i in rng.integers(0, len(self.points), NEGATIVES)
        ]
        return {"image": np.stack(pictures), "points": np.stack([p for _, p in made]).astype(np.float32)}


def seen(crop: Array, rng: np.random.Generator) -> Array:
    """A crop (H, W, 3) uint8 in another light, through a camera that may be far from it."""
    crop = augment.colour(crop, rng)
    return augment.far_away(crop, rng) if rng.random() < FAR_SHARE else augment.degrade(crop, rng)


def loss(network: Landmarks, batch: training.Batch) -> Tensor:
    """Pixel distance of the soft-argmax, cross entropy of the heat maps against Gaussians, cross entropy of presence."""
    image = planes(batch["image"])
    with mixed_precision(image.device.type):
        heat, logit = network.heat_logits(image)
    heat, logit = heat.float(), logit.float()  # the soft-argmax needs the digits
    points = batch["points"]
    n = len(points)
    log_heat = functional.log_softmax(heat[:n], -1)
    found = log_heat.exp() @ network.grid
    cells = INPUT_PX // CELL_PX
    ticks = network.grid[:cells, 0]  # the Gaussian is the product of one along x and one along y
    along = torch.softmax(-((points[..., None] - ticks) ** 2) / (2 * HEAT_SIGMA_PX**2), -1)
    rows = log_heat.reshape(n, -1, cells, cells) @ along[:, :, 0, :, None]
    inside = ((points > -CELL_PX) & (points < INPUT_PX + CELL_PX - 1)).all(-1).float()
    entropy = -((rows[..., 0] * along[:, :, 1]).sum(-1) * inside).sum() / inside.sum()
    distance = (
        functional.smooth_l1_loss(found, points, beta=0.5, reduction="none").sum(-1) * inside
    ).sum() / inside.sum()
    wanted = torch.zeros_like(logit)
    wanted[:n] = 1.0
    return 0.5 * distance + 1.5 * entropy + functional.binary_cross_entropy_with_logits(logit, wanted)


@torch.no_grad()
def validate(network: Landmarks, heads: Heads, pictures_to: Path | None = None) -> str:
    """Mean distance over the inter-ocular distance on undegraded crops with small jitter; presence on both kinds."""
    rng = np.random.default_rng(7)
    chosen = range(0, len(heads.points), max(1, len(heads.points) // 192))
    crops, wanted = [], []
    for i in chosen:
        centre, side, roll = square(heads.points[i])
        side, centre = side * rng.uniform(0.95, 1.05), centre + rng.normal(0, 0.02, 2) * side
        matrix = augment.similarity(side, centre, roll, INPUT_PX)
        crops.append(cv2.warpAffine(heads.pictures[i], matrix, (INPUT_PX, INPUT_PX), borderMode=cv2.BORDER_REPLICATE))
        wanted.append(augment.map_points(matrix, heads.points[i]))
    points = np.stack(wanted)
    found, presence = (t.numpy() for t in network(planes(torch.from_numpy(np.stack(crops)))))
    none = torch.from_numpy(np.stack([heads.negative(i, rng) for i in chosen]))
    absence = network(planes(none))[1].numpy()
    apart = np.maximum(np.linalg.norm(points[:, 42:48].mean(1) - points[:, 36:42].mean(1), axis=-1), 16.0)
    percent = 100 * np.linalg.norm(found - points, axis=-1).mean(1) / apart
    shown = []
    for crop, dots in list(zip(crops, found, strict=True))[:48] if pictures_to is not None else []:
        big = cv2.resize(crop, None, fx=2, fy=2)
        for q in dots:
            cv2.circle(big, (int(q[0] * 32), int(q[1] * 32)), 24, (0, 255, 0), -1, cv2.LINE_AA, 4)
        shown.append(big)
    if pictures_to is not None:
        training.sheet(pictures_to, shown, 12)
    kept, dropped = float((presence > 0.5).mean()), float((absence < 0.5).mean())
    return (
        f"val error {percent.mean():.2f} % of inter-ocular (p90 {np.percentile(percent, 90):.2f}),"
        f" presence right on {100 * kept:.1f} % of faces, {100 * dropped:.1f} % of others"
    )


def run(args: Arguments) -> None:
    """Train, validate, draw the sheet, export."""
    train, val = Heads(args.runs / "poses", "train"), Heads(args.runs / "poses", "val")
    folder = args.runs / "landmarks"
    network = training.train("landmarks", Landmarks, {}, train.batch, loss, lambda n: validate(n, val), args)
    validate(network, val, folder / "sheet.png")  # type: ignore[arg-type]
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, INPUT_PX, INPUT_PX)).astype(np.float32)
    training.write_onnx(network, {"image": image}, folder / "landmarks.onnx")
