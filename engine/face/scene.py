"""Scene cuts, told from consecutive thumbnails of the luma plane."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array, Frame

THUMBNAIL_PX = 32
SAMPLES = 8 * THUMBNAIL_PX
NOISE_LEVELS = 3.0


def thumbnail(frame: Frame) -> Array:
    """(32, 32) float32 of the luma plane in 8-bit levels: averages of 256 x 256 of its samples, so it costs the same at
    any resolution.
    """
    luma = frame.planes[0]
    sampled = cv2.resize(luma, (SAMPLES, SAMPLES), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(sampled, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) * np.float32(1.0 if luma.dtype == np.uint8 else 0.25)


def difference(a: Array, b: Array) -> float:
    """1 - correlation of two thumbnails: 0 for the same picture at any brightness and contrast, about 1 for unrelated
    pictures.
    """
    a, b = a - a.mean(), b - b.mean()
    floor = NOISE_LEVELS**2 * a.size
    return 1.0 - float(((a * b).sum() + floor) / np.sqrt(((a * a).sum() + floor) * ((b * b).sum() + floor)))


class CutDetector:
    """Says of each frame whether a new scene begins with it: of another size than the frame before, unrelated to it, or far
    more changed than lately.

    A quick shake of the head reaches 0.36 after changes of 0.03 and more; talking stays below 0.02; a cut between two
    speakers before the same kind of wall can be as little as 0.2, but comes after calm.
    """

    UNRELATED, LEAST = 0.5, 0.15
    UNRELATED_SURPRISE, SURPRISE = 3.0, 12.0
    CALM = 0.005

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the previous frame; the next one begins a scene."""
        self._previous: Array | None = None
        self._shape: tuple[int, ...] | None = None
        self._usual = self.CALM

    def __call__(self, frame: Frame) -> bool:
        """Whether this frame begins a scene; the first one does."""
        now = thumbnail(frame)
        previous, self._previous = self._previous, now
        resized, self._shape = self._shape != frame.planes[0].shape, frame.planes[0].shape
        if previous is None or resized:
            self._usual = self.CALM
            return True
        change = difference(previous, now)
        unrelated = change > max(self.UNRELATED, self.UNRELATED_SURPRISE * self._usual)
        if unrelated or change > max(self.LEAST, self.SURPRISE * self._usual):
            self._usual = self.CALM
            return True
        self._usual += 0.2 * (max(change, self.CALM) - self._usual)
        return False
