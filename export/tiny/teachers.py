"""The permissive teachers that label the training pictures: MediaPipe face mesh, blendshapes, hair and person masks (Apache-2.0).

They are read from the data folder's `weights/` and never travel with the bundle.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.engine.types import Array

# The 68 iBUG points among the 478 of the mesh: jaw, brows, nose, eyes, mouth, image-left first.
MESH_TO_68 = (
    [162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389]
    + [71, 63, 105, 66, 107, 336, 296, 334, 293, 301]
    + [168, 197, 5, 4, 75, 97, 2, 326, 305]
    + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]
    + [61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87]
)
OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377] + [
    152,
    148,
    176,
    149,
    150,
    136,
    172,
    58,
    132,
    93,
    234,
    127,
    162,
    21,
    54,
    103,
    67,
    109,
]


class _Tflite:
    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._net: Any = Interpreter(model_content=model, num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]

    def __call__(self, x: Array) -> list[Array]:
        self._net.set_tensor(self._input, np.ascontiguousarray(x, np.float32))
        self._net.invoke()
        return [self._net.get_tensor(o["index"]) for o in self._net.get_output_details()]


class Teachers:
    """Loads the teachers from a data folder."""

    def __init__(self, data: Path) -> None:
        weights = data / "weights"
        with zipfile.ZipFile(weights / "mp_face_landmarker_v2_with_blendshapes.task") as task:
            self._mesh = _Tflite(task.read("face_landmarks_detector.tflite"))
        self._hair = _Tflite((weights / "mp_hair_segmentation.tflite").read_bytes())
        self._person = _Tflite((weights / "mp_selfie_segmentation.tflite").read_bytes())

    def mesh(self, rgb: Array, box: tuple[float, float, float, float], passes: int = 3) -> tuple[Array, float]:
        """478 points (x, y, z) in pixels of `rgb` (H, W, 3) from a face box (x, y, w, h), and the presence logit (> 0: a face)."""
        x, y, w, h = box
        centre, size, angle = np.array([x + w / 2, y + h / 2]), 1.5 * max(w, h), 0.0
        points, score = np.zeros((478, 3)), -9.0
        for _ in range(passes):
            k = 192 / size
            c, s = np.cos(angle) * k, np.sin(angle) * k
            m = np.array([[c, s, 96 - c * centre[0] - s * centre[1]], [-s, c, 96 + s * centre[0] - c * centre[1]]])
            out = self._mesh(cv2.warpAffine(rgb, m, (192, 192))[None] / 255.0)
            raw = next(o for o in out if o.size == 1434).reshape(478, 3)
            score = float(next(o for o in out if o.size == 1).ravel()[0])
            inv = cv2.invertAffineTransform(m)
            points = np.concatenate([raw[:, :2] @ inv[:, :2].T + inv[:, 2], raw[:, 2:] / k], 1)
            p = points[:, :2]
            d = p[263] - p[33]
            angle = float(np.arctan2(d[1], d[0]))
            middle = (p.min(0) + p.max(0)) / 2
            rot = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            q = (p - middle) @ rot.T
            centre = middle + rot.T @ ((q.min(0) + q.max(0)) / 2)
            size = 1.5 * max(float(np.ptp(q[:, 0])), float(np.ptp(q[:, 1])))
        return points, score

    def hair(self, rgb: Array) -> Array:
        """Hair probability (H, W) float32 of `rgb` (H, W, 3) uint8."""
        small = cv2.resize(rgb, (512, 512), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255.0
        logits = self._hair(np.concatenate([small, np.zeros((512, 512, 1), np.float32)], 2)[None])[0][0]
        probability = 1.0 / (1.0 + np.exp(logits[..., 0] - logits[..., 1]))
        return np.asarray(cv2.resize(probability, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR))

    def person(self, rgb: Array) -> Array:
        """Person probability (H, W) float32 of `rgb` (H, W, 3) uint8."""
        small = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
        return cv2.resize(self._person(small[None])[0][0, ..., 0], rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
