"""Stage `parser`: train the face parser on the mesh oval, the hair and person masks, and pasted hands and things."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mien.engine.networks.parser import INPUT_PX, Parser
from mien.engine.types import Array
from mien.export.tiny import augment, training
from mien.export.tiny.dataset import planes
from mien.export.tiny.loop import mixed_precision
from mien.export.tiny.poses import POOL_PX, SOURCE_PX
from mien.export.tiny.prepare import CROP_PX
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import OVAL

BATCH = 24
BACKGROUND, FACE, HAIR, BODY = range(4)
# The crop is the FFHQ crop, or for hair and skin one 1.3 times as wide, give or take; in logarithms.
WIDER = (-0.2, 0.32)
VALIDATED = (1.0, 1.3)  # widths of the plain crops
PALETTE = np.array([[40, 40, 40], [240, 120, 90], [90, 160, 240], [120, 220, 110]], np.float32)


class Heads:
    """The pictures and masks of one split, and the labelled crops made of them."""

    def __init__(self, folder: Path, split: str) -> None:
        self.pictures, self.hair, self.person = (
            np.load(folder / f"{split}_{n}.npy", mmap_mode="r") for n in ("image", "hair", "person")
        )
        self.points = np.load(folder / f"{split}_points.npy")

    def crop(self, i: int, matrix: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Picture (128, 128, 3) uint8 and soft class masks (4, 128, 128) float32 that sum to 1."""
        size = (INPUT_PX, INPUT_PX)
        border = augment.draw_border(rng)  # hair that the picture repeats outside is hair there too
        picture = augment.warp(self.pictures[i], matrix, size, rng, border)
        hair, person = (
            cv2.warpAffine(m[i], matrix, size, flags=cv2.INTER_LINEAR, borderMode=border).astype(np.float32) / 255.0
            for m in (self.hair, self.person)
        )
        oval = np.zeros(size, np.uint8)
        ring = augment.map_points(matrix, self.points[i][OVAL])
        cv2.fillPoly(oval, [np.round(ring * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        face = oval.astype(np.float32) / 255.0
        hair = np.clip((hair - 0.3) / 0.4, 0, 1) * (1 - face)
        body = np.maximum(np.clip((person - 0.3) / 0.4, 0, 1) - face - hair, 0)
        return picture, np.stack([1 - face - hair - body, face, hair, body])

    def sample(self, i: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """A jittered, covered, degraded crop and its masks."""
        side = CROP_PX * POOL_PX / SOURCE_PX * float(np.exp(rng.uniform(*WIDER)))
        centre = (POOL_PX - 1) / 2 + rng.uniform(-0.08, 0.08, 2) * side
        matrix = augment.similarity(side, centre, float(rng.normal(0, 0.12)), INPUT_PX)
        picture, masks = self.crop(i, matrix, rng)
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.35, 0.18, 0.07]))):
            ring = augment.map_points(matrix, self.points[i])
            at = ring[int(rng.integers(468))] + rng.normal(0, 10, 2)
            skin = np.median(picture[masks[FACE] > 0.9], 0) if (masks[FACE] > 0.9).any() else np.full(3, 128.0)
            other = self.pictures[int(rng.integers(len(self.points)))]
            size_px = float(rng.uniform(10, 42))
            cover, fill, kind = augment.occluder((INPUT_PX, INPUT_PX), at, size_px, skin, rng, other)
            picture = augment.shadow(picture, cover, rng) if kind == "body" else picture
            picture = augment.paste(picture, cover, fill, rng)
            masks = masks * (1 - cover)
            masks[BODY if kind == "body" else BACKGROUND] += cover
        if rng.random() < 0.5:
            picture, masks = np.ascontiguousarray(picture[:, ::-1]), masks[:, :, ::-1]
        return augment.degrade(augment.colour(picture, rng), rng), masks

    def batch(self, rng: np.random.Generator) -> dict[str, Array]:
        """BATCH crops and masks."""
        made = [self.sample(int(i), rng) for i in rng.integers(0, len(self.points), BATCH)]
        masks = np.stack([m for _, m in made])
        return {"image": np.stack([p for p, _ in made]), "masks": (masks * 255 + 0.5).astype(np.uint8)}


def loss(network: Parser, batch: training.Batch) -> Tensor:
    """Cross entropy against the soft masks, and one minus the soft overlaps of the face and of the hair."""
    image = planes(batch["image"])
    with mixed_precision(image.device.type):
        logits = network.logits(image)
    logits = logits.float()
    target = batch["masks"].float() / 255.0
    entropy = -(target * functional.log_softmax(logits, 1)).sum(1).mean()
    found, wanted = torch.softmax(logits, 1)[:, [FACE, HAIR]], target[:, [FACE, HAIR]]
    both = (found * wanted).sum((2, 3))
    overlap = (both + 20.0) / ((found + wanted - found * wanted).sum((2, 3)) + 20.0)
    return entropy + (1 - overlap).mean()


@torch.no_grad()
def validate(network: Parser, heads: Heads, pictures_to: Path | None = None) -> str:
    """IoU of the face, the hair and the body on plain crops of every width in VALIDATED, and of the face on covered ones."""
    sides = [CROP_PX * POOL_PX / SOURCE_PX * width for width in VALIDATED]
    matrices = [augment.similarity(side, np.full(2, (POOL_PX - 1) / 2), 0.0, INPUT_PX) for side in sides]
    scores: dict[str, list[float]] = {}
    shown: list[Array] = []
    for i in range(0, len(heads.points), max(1, len(heads.points) // 128)):
        rng = np.random.default_rng(i)
        plain, covered = [heads.crop(i, matrix, rng) for matrix in matrices], heads.sample(i, rng)
        found = network(planes(torch.from_numpy(np.stack([picture for picture, _ in (*plain, covered)])))).numpy()
        judged = [
            (f"{part}{'' if width == 1 else f' at {width}'}", picked, masks, which)
            for width, picked, (_, masks) in zip(VALIDATED, found[:-1], plain, strict=True)
            for part, which in (("face", FACE), ("hair", HAIR), ("body", BODY))
        ]
        for key, picked, masks, which in [*judged, ("covered face", found[-1], covered[1], FACE)]:
            a, b = picked.argmax(0) == which, masks.argmax(0) == which
            if b.sum() > 100:
                scores.setdefault(key, []).append(float((a & b).sum() / (a | b).sum()))
        if pictures_to is not None and len(shown) < 96:
            for p in (covered[0], np.tensordot(found[-1], PALETTE, (0, 0)), np.tensordot(covered[1], PALETTE, (0, 0))):
                shown.append(np.asarray(p, np.uint8))
    if pictures_to is not None:
        training.sheet(pictures_to, shown, 12)
    return "val IoU " + ", ".join(f"{k} {np.mean(v):.3f}" for k, v in scores.items())


def run(args: Arguments) -> None:
    """Train, validate, draw the sheet, export."""
    train, val = Heads(args.runs / "poses", "train"), Heads(args.runs / "poses", "val")
    folder = args.runs / "parser"
    network = training.train("parser", Parser, {}, train.batch, loss, lambda n: validate(n, val), args)
    validate(network, val, folder / "sheet.png")  # type: ignore[arg-type]
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, INPUT_PX, INPUT_PX)).astype(np.float32)
    training.write_onnx(network, {"image": image}, folder / "parser.onnx")
