"""Text2Video-Zero's motion field (Khachatryan et al. 2023, section 3.2): frames made from noise that moves as a whole.

The first frame is denoised from the top level t1 down to t0 and on; frame k begins as the first frame's latents at t0, moved by
k times a global translation and noised back to t1. Where the background is, its latents may be drawn to the first frame's
(section 3.4). It is for crops made anew from full noise; a partly noised source has motion of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mien.engine.sampler import Step
from mien.engine.schedule import Schedule
from mien.engine.types import Array, FaceTrack

# Of 50 steps the published ones: down to index 5 (t0 = 881), back to index 2 (t1 = 941). Pixels are those of a 512 px crop.
TOP_SHARE, LOW_SHARE, REFERENCE_PX = 2 / 50, 5 / 50, 512
BACKGROUND_SHARE = 0.6  # of the first frame's latents, where the background is


def motion_levels(timesteps: Sequence[float]) -> tuple[int, int]:
    """Indices of t1 and t0 in descending timesteps; the two differ. With fewer than two steps both are 0: no motion."""
    top = min(round(TOP_SHARE * len(timesteps)), max(len(timesteps) - 2, 0))
    return top, min(max(round(LOW_SHARE * len(timesteps)), top + 1), len(timesteps) - 1)


def moved(latents: Array, shift_px: tuple[float, float]) -> Array:
    """Latents (1, C, h, w) moved right and down by pixels of a 512 px crop, to the nearest latent, mirrored at the border."""
    height, width = latents.shape[2:]
    rows = _mirrored(np.arange(height) - round(shift_px[1] * height / REFERENCE_PX), height)
    columns = _mirrored(np.arange(width) - round(shift_px[0] * width / REFERENCE_PX), width)
    return np.ascontiguousarray(latents[:, :, rows][:, :, :, columns])


@dataclass(slots=True)
class MotionField:
    """The motion of one track. frame: how many frames are behind. kept: level -> the first frame's latents there."""

    shift_px: tuple[float, float]
    timesteps: tuple[float, ...]
    frame: int = 0
    kept: dict[float, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, track: FaceTrack, shift_px: tuple[float, float], timesteps: Sequence[float]) -> MotionField:
        """The track's, made with its first frame."""
        made: MotionField = track.memory.setdefault("motion", cls(shift_px, tuple(timesteps)))
        return made

    def recording(self, step: Step, start: Array) -> Step:
        """A step that keeps the first frame's latents at t1 and t0. start: at the first timestep."""
        if self.frame:
            return step
        top, low = motion_levels(self.timesteps)
        wanted = (self.timesteps[top], self.timesteps[low])
        self.kept = {self.timesteps[0]: start} if top == 0 else {}

        def recorded(schedule: Schedule, x0: Array, x: Array, t: float, target: float | None, noise: Array) -> Array:
            out: Array = step(schedule, x0, x, t, target, noise)
            if target in wanted:
                self.kept[target] = out
            return out

        return recorded

    def begin(self, schedule: Schedule, noise: Array, person: Array | None) -> tuple[int, Array]:
        """The index of t1 and the latents there of a frame after the first.

        noise: fixed for the track. person: (1, 1, h, w) in [0, 1], 1 where there is no background; None leaves it as it is.
        """
        top, low = motion_levels(self.timesteps)
        t1, t0 = self.timesteps[top], self.timesteps[low]
        shift = (self.frame * self.shift_px[0], self.frame * self.shift_px[1])
        x = schedule.renoise(moved(self.kept[t0], shift), noise, t0, t1)
        if person is not None:
            share = BACKGROUND_SHARE * (1.0 - person)
            x = x + share * (moved(self.kept[t1], shift) - x)
        return top, np.asarray(x, np.float32)


def _mirrored(index: Array, size: int) -> Array:
    """Indices brought back into 0..size-1 by reflection at the outer pixels."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.abs(index) % period
    return np.where(folded >= size, period - folded, folded)
