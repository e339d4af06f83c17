"""Stage `detector`: train the luma face detector on composed scenes with YuNet's boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mien.engine.face.detect import decode, suppress
from mien.engine.networks.detector import STRIDES, Detector
from mien.engine.types import Array
from mien.export.tiny import training
from mien.export.tiny.loop import mixed_precision
from mien.export.tiny.scenes import Composer, collect
from mien.export.tiny.stage import Arguments

BATCH, VAL_PX = 8, 320
SCENES_PX, SCENE_SHARES = ((192, 320), (256, 256), (384, 384)), (0.4, 0.35, 0.25)
SIZES = {8: (0.0, 34.0), 16: (26.0, 88.0), 32: (68.0, 1e9)}  # sqrt(area) in px of the faces each stride answers for
CENTRE, RIM = 0.22, 0.36  # of the box: cells nearer its middle are positive, those up to the rim are left out
VAL_SCENES = 96
THRESHOLD = 0.5


def targets(boxes: Array, counts: Array, height: int, width: int) -> dict[str, Array]:
    """Per stride: want_s (H/s, W/s) float32 of 1 face, 0 none, -1 left out, and goal_s (4, H/s, W/s) x0, y0, x1, y1 in pixels."""
    out: dict[str, Array] = {}
    size = np.sqrt(np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-6))
    for s in STRIDES:
        h, w = height // s, width // s
        want, goal = np.zeros((h, w), np.float32), np.zeros((4, h, w), np.float32)
        x, y = (np.arange(w) + 0.5) * s - 0.5, (np.arange(h) + 0.5) * s - 0.5
        for j in np.argsort(-size):
            x0, y0, x1, y1 = boxes[j]
            dx = np.abs(x - (x0 + x1) / 2)[None] / (x1 - x0)
            dy = np.abs(y - (y0 + y1) / 2)[:, None] / (y1 - y0)
            slack = 0.5 * s / size[j]  # the nearest cell of a small face always counts
            middle = (dx < max(CENTRE, slack)) & (dy < max(CENTRE, slack))
            rim = (dx < max(RIM, 1.5 * slack)) & (dy < max(RIM, 1.5 * slack))
            mine = SIZES[s][0] <= size[j] < SIZES[s][1]
            if counts[j] and mine:
                want[rim] = -1.0
                want[middle] = 1.0
                goal[:, middle] = boxes[j][:, None]
            elif not counts[j]:
                want[(dx < 0.5) & (dy < 0.5)] = -1.0
        out[f"want_{s}"], out[f"goal_{s}"] = want, goal
    return out


def batch(composer: Composer, rng: np.random.Generator) -> dict[str, Array]:
    """BATCH scenes and their targets."""
    rows = []
    height, width = SCENES_PX[int(rng.choice(len(SCENES_PX), p=SCENE_SHARES))]
    for _ in range(BATCH):
        luma, boxes, counts = composer.scene(height, width, rng)
        rows.append({"luma": luma} | targets(boxes, counts, height, width))
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def loss(network: Detector, given: training.Batch) -> Tensor:
    """Cross entropy that fades for easy cells, and one minus the generalised IoU of the positive cells' boxes."""
    luma = given["luma"][:, None].float() / 255.0
    with mixed_precision(luma.device.type):
        maps = network.maps(luma)
    total, boxed, n_positive = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for s, (logit, log_distance) in zip(STRIDES, maps, strict=True):
        want, goal = given[f"want_{s}"], given[f"goal_{s}"]
        z, log_distance = logit[:, 0].float(), log_distance.float()
        probability = torch.sigmoid(z)
        positive, negative = (want == 1).float(), (want == 0).float()
        total = total + (positive * (1 - probability).pow(1.5) * functional.softplus(-z)).sum()
        total = total + (negative * probability.pow(2) * functional.softplus(z)).sum()
        n_positive = n_positive + positive.sum()
        b, i, j = torch.nonzero(want == 1, as_tuple=True)
        if len(b):
            distance = torch.exp(log_distance[b, :, i, j].clamp(max=5.0)) * s
            x, y = (j + 0.5) * s - 0.5, (i + 0.5) * s - 0.5
            found = torch.stack([x - distance[:, 0], y - distance[:, 1], x + distance[:, 2], y + distance[:, 3]], 1)
            boxed = boxed + (1 - generalised_iou(found, goal[b, :, i, j])).sum()
    return (total * 2 + boxed) / n_positive.clamp(min=1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU in [-1, 1] of boxes (N, 4) x0, y0, x1, y1, pairwise."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    return inner / union - (outer - union) / outer


def iou(a: Array, b: Array) -> float:
    """IoU of two boxes x0, y0, x1, y1."""
    inner = np.prod(np.maximum(np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]), 0))
    return float(inner / (np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - inner))


@torch.no_grad()
def find(network: Detector, luma: Array, threshold: float = THRESHOLD) -> Array:
    """(n, 5) boxes and scores in a luma picture (H, W) uint8 with sides divisible by 32."""
    answer = network(torch.from_numpy(luma)[None, None].float() / 255.0)
    return suppress(decode({k: v.numpy() for k, v in zip(network.outputs, answer, strict=True)}, threshold))


def validate(network: Detector, composer: Composer, pictures_to: Path | None = None) -> str:
    """Recall at IoU 0.5 by face width, and false boxes per scene, on composed scenes of the val heads."""
    hits: dict[str, list[bool]] = {"8-16": [], "16-40": [], "40+": []}
    false = 0
    shown: list[Array] = []
    for k in range(VAL_SCENES):
        luma, boxes, counts = composer.scene(VAL_PX, VAL_PX, np.random.default_rng((99, k)))
        found = find(network, luma)
        for box, count in zip(boxes, counts, strict=True):
            width = box[2] - box[0]
            key = "8-16" if width < 16 else "16-40" if width < 40 else "40+"
            if count:
                hits[key].append(any(iou(f, box) > 0.5 for f in found))
        false += sum(all(iou(f, box) <= 0.3 for box in boxes) for f in found)
        if pictures_to is not None and len(shown) < 24:
            picture = cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB)
            for box, count in zip(boxes, counts, strict=True):
                low, high = (tuple(int(v) for v in p) for p in (box[:2], box[2:]))
                cv2.rectangle(picture, low, high, (80, 200, 255) if count else (120, 120, 120), 1)
            for f in found:
                low, high = (tuple(int(v) for v in p) for p in (f[:2], f[2:4]))
                cv2.rectangle(picture, low, high, (0, 255, 0), 2)
            shown.append(picture)
    if pictures_to is not None:
        training.sheet(pictures_to, shown, 6)
    recalls = ", ".join(f"{100 * np.mean(v):.1f} % of {len(v)} faces {k} px" for k, v in hits.items())
    return f"val recall {recalls}; {false / VAL_SCENES:.3f} false boxes a scene"


def run(args: Arguments) -> None:
    """Train, validate, draw the sheet, export."""
    train, val = (Composer(collect(args.data, args.runs, split)) for split in ("train", "val"))
    folder = args.runs / "detector"
    network = training.train(
        "detector", Detector, {}, lambda rng: batch(train, rng), loss, lambda n: validate(n, val), args
    )
    validate(network, val, folder / "sheet.png")  # type: ignore[arg-type]
    luma = np.random.default_rng(0).random((1, 1, 192, 320), dtype=np.float32)
    training.write_onnx(network, {"luma": luma}, folder / "detector.onnx")
