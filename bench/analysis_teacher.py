"""The judge's faces on frames of a clip, as the analysis networks are measured against them."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from mien.bench.frame_rgb import rgb8_of
from mien.bench.quality_teacher import SURE, start_judge
from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.face.gate import turn
from mien.engine.face.points import Box
from mien.engine.frame_crop import crop_frame
from mien.engine.types import Array, Frame
from mien.export.tiny.teachers import MESH_TO_68
from mien.export.tiny.teachers import Teachers as MaskTeachers

MIN_FACE_PX = 40.0
HEAD, HEAD_PX = 2, 512
LARGEST_TURN = 0.9 * math.tan(math.radians(60.0))  # see gate.py for what it is in


class Teachers:
    """The judge's answers on a frame, kept in a folder between runs because they are slow."""

    def __init__(self, shared: Path, cache: Path | None) -> None:
        _, self._judge = start_judge(shared / "tools" / "judge.py")
        self._masks = MaskTeachers(shared / "data")
        self._cache = cache

    def __call__(self, clip: str, index: int, frame: Frame) -> tuple[Array, Array]:
        """Boxes (n, 5) x, y, width, height, score, and the meshes (m, 478, 2) of those that count, in order."""
        kept = None if self._cache is None else self._cache / f"{clip}_{index}.npz"
        if kept is not None and kept.exists():
            stored = np.load(kept)
            return stored["boxes"], stored["meshes"]
        rgb = rgb8_of(frame)
        boxes = np.asarray(self._judge.boxes(rgb))
        meshes = [self._judge.mesh(rgb, box)[0][:, :2] for box in boxes if counts(box)]
        answer = boxes, np.stack(meshes) if meshes else np.zeros((0, 478, 2))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, boxes=answer[0], meshes=answer[1])
        return answer

    def hair(self, frame: Frame, points: Array) -> Array:
        """(256, 256) bool: hair in the aligned crop that points (68, 2) give, seen in a window HEAD times as wide."""
        quad = ffhq_quad(points) * np.array([[1.0], [HEAD], [HEAD]])
        head = crop_frame(frame, crop_to_frame(quad, HEAD_PX), HEAD_PX)
        picture = np.clip(head.transpose(1, 2, 0) * 127.5 + 128.0, 0, 255).astype(np.uint8)
        margin = round(HEAD_PX * (1 - 1 / HEAD) / 2)
        inner = self._masks.hair(np.ascontiguousarray(picture))[margin:-margin, margin:-margin]
        return cv2.resize(inner, (256, 256), interpolation=cv2.INTER_AREA) > 0.5


def counts(box: Array) -> bool:
    """Whether a YuNet face must be found."""
    return bool(box[4] > SURE and box[2] >= MIN_FACE_PX)


def to_be_found(boxes: Array, meshes: Array) -> tuple[list[Box], Array]:
    """The faces that must be found, turned by 60 degrees at most, and their meshes: of YuNet's boxes (n, 5) and the meshes
    (m, 478, 2) of those of them that count.
    """
    faces = [corners(b) for b in boxes if counts(b)]
    seen = [i for i, mesh in enumerate(meshes) if turn(mesh[MESH_TO_68]) <= LARGEST_TURN]
    return [faces[i] for i in seen], meshes[seen]


def corners(box: Array) -> Box:
    """x, y, width, height -> x0, y0, x1, y1, pixel centres at integers."""
    x, y, w, h = (float(v) for v in box[:4])
    return x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5
