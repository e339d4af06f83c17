"""The ICT Face Model Light as arrays: identity, expression, gaze and head pose to vertices.

Units are the model's own (a head is about 24 high, roughly centimetres); x to the subject's left, y up, z out of the face.
Source of the model: ICT-VGL/ICT-FaceKit (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.engine.types import Array

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

SKIN, GUMS, TEETH, EYES, CLOTH = range(5)
_MATERIAL = {
    "M_Face": SKIN,
    "M_BackHead": SKIN,
    "M_GumsTongue": GUMS,
    "M_Teeth": TEETH,
    "M_ScleraLeft": EYES,
    "M_ScleraRight": EYES,
}
PIVOT = np.array([0.0, -2.0, -1.0], np.float32)  # where the head turns on the neck
_NECK = (-15.0, -6.5)  # of y + 0.4 z: below it follows the body, above it the head


@dataclass(frozen=True, slots=True)
class Pose:
    """Head rotation in degrees: yaw > 0 to the subject's left, pitch > 0 down, roll > 0 to the subject's right shoulder."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def vector(self) -> Floats:
        """Rotation vector (3,) in radians of roll, then pitch, then yaw (a turn about the neck's own axis)."""
        x, y, z = np.radians([self.pitch, self.yaw, -self.roll])
        return _vector(_turn(np.array([0, y, 0.0])) @ _turn(np.array([x, 0, 0.0])) @ _turn(np.array([0, 0, z])))


def _turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _vector(matrix: NDArray[np.float64]) -> Floats:
    """Rotation vector of a rotation matrix (angle below 180 degrees)."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    return np.asarray(axis / (2 * np.sinc(angle / np.pi)), np.float32)


def smoothstep(low: float | Array, high: float | Array, x: Array) -> Floats:
    """0 below low, 1 above high, a smooth cubic between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def follow_head(points: Floats, vector: Floats, weight: Floats) -> Floats:
    """Turn each point (N, 3) about the neck by weight (N,) times the head's rotation vector (3,)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return points
    axis = (vector / angle).astype(np.float32)
    arm = points - PIVOT
    sine, cosine = np.sin(angle * weight)[:, None], np.cos(angle * weight)[:, None]
    turned = arm * cosine + np.cross(axis, arm) * sine + axis * ((arm @ axis)[:, None] * (1 - cosine))
    return np.asarray(turned + PIVOT, np.float32)


class FaceModel:
    """Read once, used by every picture. `triangles` (T, 3) with `material` (T,), `uv_triangles` into `uv`; `neutral` (V, 3)."""

    def __init__(self, path: Path):
        with np.load(path) as data:
            self.neutral: Floats = data["neutral"].astype(np.float32)
            self.uv: Floats = data["uv"].astype(np.float32)
            self._identity, self._expression = data["identity_modes"], data["expression_modes"]
            self.expressions: list[str] = [str(n) for n in data["expression_names"]]
            quads, quads_uv, labels = data["quads"], data["quads_uv"], data["face_material"]
            names = [str(n) for n in data["materials"]]
            self.landmarks: Ints = np.array(
                json.loads(str(data["vertex_indices_json"]))["idx_to_landmark_verts"], np.int32
            )
        self.lashes = self._lash_grid(
            quads[labels == names.index("M_EyeLashes")], quads_uv[labels == names.index("M_EyeLashes")]
        )
        kept = np.isin(labels, [i for i, n in enumerate(names) if n in _MATERIAL])
        quads, quads_uv, labels = quads[kept], quads_uv[kept], labels[kept]
        four = quads[:, 3] >= 0
        self.triangles: Ints = np.concatenate([quads[:, [0, 1, 2]], quads[four][:, [0, 2, 3]]]).astype(np.int32)
        self.uv_triangles: Ints = np.concatenate([quads_uv[:, [0, 1, 2]], quads_uv[four][:, [0, 2, 3]]]).astype(
            np.int32
        )
        labels = np.concatenate([labels, labels[four]])
        self.material = np.array([_MATERIAL.get(n, -1) for n in names], np.int32)[labels]
        self._eyes = [np.unique(self.triangles[labels == names.index(n)]) for n in ("M_ScleraLeft", "M_ScleraRight")]
        self.eye_local = self._eye_coordinates()
        self.head_weight = smoothstep(*_NECK, self.neutral[:, 1] + 0.4 * self.neutral[:, 2])

    def _lash_grid(self, quads: Ints, quads_uv: Ints) -> Ints:
        """Vertices (12, 6, 19) of the lash cards: card, row from the lid to the tips, column along the lid."""
        vertex, first = np.unique(quads[quads >= 0], return_index=True)
        uv = self.uv[quads_uv[quads >= 0][first]]
        card = (vertex - vertex[0]) // 114
        order = np.lexsort((np.round(uv[:, 0] * 400), -np.round(uv[:, 1] * 400), card))
        return np.asarray(vertex[order].reshape(12, 6, 19), np.int32)

    def _eye_coordinates(self) -> Floats:
        """Direction (V, 3) of an eye's vertices from its centre, z along its optical axis; zero elsewhere."""
        out = np.zeros_like(self.neutral)
        for vertices in self._eyes:
            points = self.neutral[vertices]
            arm = points - (points.min(0) + points.max(0)) / 2
            axis = arm[arm[:, 2].argmax()]
            axis = axis / np.linalg.norm(axis)
            side = np.cross([0.0, 1.0, 0.0], axis)
            side /= np.linalg.norm(side)
            local = arm @ np.stack([side, np.cross(axis, side), axis], 1)
            out[vertices] = local / np.linalg.norm(local, axis=1, keepdims=True)
        return out

    def shape(self, identity: Floats) -> Floats:
        """Neutral vertices (V, 3) of a person; identity (up to 100,) in standard deviations."""
        points = self.neutral + np.tensordot(identity, self._identity[: len(identity)].astype(np.float32), 1)
        # the model's shoulders shrink into a tube that the sweater's collar takes up
        wide = np.hypot(points[:, 0] / 6.7, (points[:, 2] + 1.6) / 5.9)
        inside = 1 - smoothstep(-8.0, -12.2, points[:, 1]) * np.clip(1 - 1 / np.maximum(wide, 1e-3), 0, 1)
        return np.asarray(
            points * np.stack([inside, 1 + 0 * inside, inside], 1) - [0, 0, 1.6] * (1 - inside[:, None]), np.float32
        )

    def express(self, shape: Floats, weights: Mapping[str, float], gaze: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """Vertices in the head's own space.

        weights: expression name -> 0..1; a name without `_L`/`_R` that exists only in halves sets both. gaze: degrees to the subject's
        left and up; it turns the eyes and moves the lids with them.
        """
        left, up = gaze
        full = dict(weights)
        for side, sign in (("L", 1.0), ("R", -1.0)):
            full[f"eyeLookOut_{side}"] = max(0.0, sign * left) / 35
            full[f"eyeLookIn_{side}"] = max(0.0, -sign * left) / 35
            full[f"eyeLookUp_{side}"], full[f"eyeLookDown_{side}"] = max(0.0, up) / 30, max(0.0, -up) / 30
        points = shape.copy()
        for name, weight in full.items():
            modes = [name] if name in self.expressions else [f"{name}_L", f"{name}_R"]
            for mode in modes:
                if weight:
                    points += np.float32(weight) * self._expression[self.expressions.index(mode)]
        turn = _turn(np.radians([0, left, 0])) @ _turn(np.radians([-up, 0, 0]))
        for vertices in self._eyes:
            eye = shape[vertices]
            centre = (eye.min(0) + eye.max(0)) / 2
            points[vertices] = ((eye - centre) @ turn.T + centre).astype(np.float32)
        return points

    def pose(self, points: Floats, pose: Pose) -> Floats:
        """Turn the head on the neck; what lies below the neck stays."""
        return follow_head(points, pose.vector(), self.head_weight)


def normals(points: Floats, triangles: Ints) -> Floats:
    """Unit normals (V, 3) per vertex, weighted by the area of its triangles."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    out = np.zeros((len(points), 3))
    for axis in range(3):
        for k in range(3):
            out[:, axis] += np.bincount(triangles[:, k], face[:, axis], len(points))
    return np.asarray(out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-12), np.float32)
