"""Does an edit move as its source does: warp error and PixelMSE, over the source's optical flow.

The flow is DIS (Kroeger et al. 2016) where the published figures took RAFT. Pictures are (H, W, 3) float on 0 to 255 and
every difference is taken in float: StreamV2V's script subtracts 8-bit values, which wrap, and masks frame i+1 by what is
hidden in frame i, so its figures compare with none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class Motion:
    """From frame i to i+1 of the source, on the pixels of i+1.

    backward: (H, W, 2), where a pixel of i+1 lies in i, relative. inside: (H, W) bool, whether that is in the picture.
    visible: inside, and the forward flow there leads back: |b + f| <= .01 (|b| + |f|) + .5, f taken where b points (the check of
    Sundaram et al. 2010 with StreamV2V's lengths in the place of their squares).
    """

    backward: Array
    inside: Array
    visible: Array

    @classmethod
    def of(cls, forward: Array, backward: Array) -> Motion:
        """From the flows (H, W, 2) of i to i+1 and of i+1 to i."""
        x, y = _places(backward)
        height, width = x.shape
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        there = warp(forward, backward)
        apart, lengths = _length(backward + there), _length(backward) + _length(there)
        return cls(backward, inside, np.asarray(inside & (apart <= 0.01 * lengths + 0.5)))


class FlowOfSource:
    """Motion between two frames, of their luma (H, W) uint8, by DIS. Not thread-safe."""

    def __init__(self) -> None:
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, previous: Array, current: Array) -> Motion:
        """From a frame to the next."""
        return Motion.of(self._dis.calc(previous, current, None), self._dis.calc(current, previous, None))


def warp(picture: Array, flow: Array) -> Array:
    """(H, W, C) float32 of a picture taken where a flow (H, W, 2) points: bilinear, clamped to the edge."""
    x, y = _places(flow)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def warp_error(previous: Array, current: Array, motion: Motion) -> float | None:
    """Warp error of one step: mean |current - warp(previous)| over visible pixels and channels, 0 to 255; L1.

    The definition that StreamV2V's tool (Liang et al. 2024) means: backward flow of the source, occlusion by forward-backward
    consistency, here on the frame that is compared. None where nothing is visible.
    """
    return _mean(np.abs(_difference(previous, current, motion)), motion.visible)


def pixel_mse(previous: Array, current: Array, motion: Motion) -> float | None:
    """PixelMSE of one step (Pix2Video, Ceylan et al. 2023): mean (current - warp(previous))^2, 0 to 255 squared.

    Over all pixels, hidden ones too, but those that come from outside of the picture: they have no value to compare.
    """
    return _mean(_difference(previous, current, motion) ** 2, motion.inside)


def _difference(previous: Array, current: Array, motion: Motion) -> Array:
    return np.asarray(current - warp(previous, motion.backward))


def _mean(values: Array, where: Array) -> float | None:
    return float(values[where].mean(dtype=np.float64)) if where.any() else None


def _places(flow: Array) -> tuple[Array, Array]:
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _length(flow: Array) -> Array:
    return np.asarray(np.hypot(flow[..., 0], flow[..., 1]))
