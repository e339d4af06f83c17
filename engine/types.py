"""The values that travel through the engine: frames, faces, tracks and tensor specs.

Coordinates are pixels of the stored luma plane (before display rotation), continuous, with pixel centres at integers:
the centre of the top-left luma sample is (0, 0). An affine is a (2, 3) float64 matrix that acts on column vectors (x, y, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Matrix = Literal["bt601", "bt709", "bt2020"]
ColorRange = Literal["limited", "full"]
PixelFormat = Literal["yuv420p", "yuv420p10le"]
Rotation = Literal[0, 90, 180, 270]

MAX_VALUE: dict[str, int] = {"yuv420p": 255, "yuv420p10le": 1023}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Frame:
    """One decoded picture, as the decoder gave it.

    planes: Y (H, W), U and V (ceil(H/2), ceil(W/2)); uint8 for 8 bit, uint16 holding 0..1023 for 10 bit; C-contiguous rows,
        read-only by convention: an edit makes new planes.
    matrix, color_range: how YUV becomes RGB; never unspecified (the source resolves it).
    index: decode order from 0. pts: presentation time in `time_base` seconds, None where the container has none.
    duration: in `time_base`, 0 where unknown. rotation: clockwise degrees a player turns the picture by to show it upright.
    """

    planes: tuple[Array, Array, Array]
    pixel_format: PixelFormat
    matrix: Matrix
    color_range: ColorRange
    index: int
    pts: int | None
    time_base: Fraction
    duration: int = 0
    rotation: Rotation = 0

    @property
    def width_px(self) -> int:
        """Columns of the luma plane."""
        return int(self.planes[0].shape[1])

    @property
    def height_px(self) -> int:
        """Rows of the luma plane."""
        return int(self.planes[0].shape[0])

    def __repr__(self) -> str:
        return (
            f"Frame({self.width_px}x{self.height_px} {self.pixel_format} {self.matrix} {self.color_range}"
            f" index={self.index} pts={self.pts})"
        )


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Face:
    """One face in one frame.

    box_px: x0, y0, x1, y1. landmarks_px: (68, 2) float32, the iBUG 300-W order, image-left first. score: in [0, 1].
    presence: the landmark network's belief that this is a face whose landmarks can be trusted, in [0, 1].
    """

    track_id: int
    box_px: tuple[float, float, float, float]
    landmarks_px: Array
    score: float
    presence: float = 1.0

    def __repr__(self) -> str:
        box = ", ".join(f"{v:.0f}" for v in self.box_px)
        return f"Face(track_id={self.track_id}, box_px=({box}), score={self.score:.2f})"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name-less shape and type of a network's input or output; None is a free dimension."""

    shape: tuple[int | None, ...]
    dtype: Literal["float32", "float16", "int64", "uint8"] = "float32"

    def accepts(self, array: Array) -> bool:
        """Whether an array has this spec's dtype, rank and fixed dimensions."""
        return (
            array.dtype == self.dtype  # as it is: its name takes microseconds to make
            and array.ndim == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


@dataclass(slots=True)
class FaceTrack:
    """The memory of one identity over time: its W+ code, its fixed noise, its attention bank; reset by a cut or a loss.

    w_sum, w_count: running sum of W+ codes and how many were added; noise: step -> (1, C, h, w); bank: engine.bank.Bank.
    memory: what else a method keeps of the track from frame to frame, by its own names.
    """

    track_id: int
    w_sum: Array | None = None
    w_count: int = 0
    noise: dict[int, Array] = field(default_factory=dict)
    bank: Any = None
    memory: dict[str, Any] = field(default_factory=dict)

    def add_code(self, code: Array) -> None:
        """Add a W+ code (1, N, D) to the sum."""
        self.w_sum = code.copy() if self.w_sum is None else self.w_sum + code
        self.w_count += 1

    def mean_code(self) -> Array:
        """The mean (1, N, D) of the codes. Raises ValueError where there is none."""
        if self.w_sum is None:
            raise ValueError(f"track {self.track_id} has no code: encode a crop of it first")
        return np.asarray(self.w_sum, np.float32) / np.float32(self.w_count)

    def forget_frames(self) -> None:
        """Forget what frames left, but for the codes: the track begins anew."""
        self.bank = None
        self.memory.clear()
