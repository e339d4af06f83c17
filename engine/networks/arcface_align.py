"""The crop that insightface's ArcFace networks were trained on: five points brought onto a template by a similarity."""

from __future__ import annotations

import numpy as np

from mien.engine.errors import InputError
from mien.engine.face.points import eye_centres, invert
from mien.engine.types import Array

SIZE_PX = 112
# Image-left and image-right eye, tip of the nose, image-left and image-right corner of the mouth, x and y in the crop.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def five_points(points: Array) -> Array:
    """(5, 2) of the 68 landmarks, in TEMPLATE's order."""
    return np.stack([*eye_centres(points), points[30], points[48], points[54]])


def similarity(source: Array, target: Array) -> Array:
    """(2, 3): the turn, scale and shift that bring points (n, 2) closest to others in the mean square.

    Raises InputError where all source points coincide.
    """
    middle, goal = source.mean(0), target.mean(0)
    p, q = (source - middle) @ (1, 1j), (target - goal) @ (1, 1j)
    spread = float((np.abs(p) ** 2).sum())
    if spread == 0.0:
        raise InputError(f"the {len(source)} points of a face coincide at {middle.tolist()}: no alignment is possible")
    turn = complex((p.conj() * q).sum() / spread)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([linear, (goal - linear @ middle)[:, None]], 1)


def arcface_crop(points: Array, size: int = SIZE_PX) -> Array:
    """(2, 3) affine from pixels of the size x size crop to the frame, for the 68 landmarks of a face."""
    return invert(similarity(five_points(points), TEMPLATE * (size / SIZE_PX)))
