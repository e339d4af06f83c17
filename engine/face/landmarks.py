"""68 landmarks of faces whose whereabouts are known, all faces of a frame in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mien.engine.backend import Network
from mien.engine.face.points import transform
from mien.engine.frame_crop import crop_frame
from mien.engine.types import Array, Frame

CROP_PX = 128


def samples_per_axis(crop_to_frame: Array) -> int:
    """How many samples a pixel of the landmark crop averages: half of what would rule out aliasing, but two where it is
    more than a pixel of the frame. Against all of them points move by 0.05 % of the inter-ocular distance on average.
    """
    ratio = float(np.hypot(*crop_to_frame[:, :2]).max())
    return min(math.ceil(max(ratio - 1e-6, 1)), max(2, math.ceil(ratio / 2)), 4)


class Landmarker:
    """The landmark network with its crop; keeps nothing between calls."""

    def __init__(self, network: Network, threads: int = 1) -> None:
        self._network = network
        self._threads = threads

    def __call__(self, frame: Frame, affines: Sequence[Array]) -> list[tuple[Array, float]]:
        """For each crop's affine (2, 3), from its 128 x 128 pixels to the frame: (68, 2) points in luma pixels and
        the presence in [0, 1].
        """
        if not affines:
            return []
        crops = np.empty((len(affines), 3, CROP_PX, CROP_PX), np.float32)
        for crop, affine in zip(crops, affines, strict=True):
            crop_frame(frame, affine, CROP_PX, supersample=samples_per_axis(affine), threads=self._threads, out=crop)
        answer = self._network(image=crops)
        return [
            (transform(affine, points.astype(np.float64)), float(presence[0]))
            for affine, points, presence in zip(affines, answer["landmarks"], answer["presence"], strict=True)
        ]
