"""Cropping and pasting faces the plain way, to compare the kernels with: torch's grid_sample, face by face, in float32.

The definitions are those of kernels/crop_yuv.py and kernels/composite_yuv.py. Frames, affines and boxes are on the host here, which
spares this way what reading them from the device would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.kernels.color import ColorRange, Matrix, rgb_to_yuv, yuv_to_rgb
from mien.kernels.planes import CHROMA_SHIFT_Y, Box, supersampling

MARGIN_PX = 4  # around a box, for the taps of its outermost samples


@dataclass(frozen=True, slots=True)
class PlainFaces:
    """Faces in 8-bit surfaces (kernels.gpu.surfaces.Surfaces). size: of the crops. to_rgb, to_yuv: matrix and offset on the device."""

    surfaces: Any
    frames: Sequence[int]
    affines: Sequence[Any]
    boxes: Sequence[Box]
    size: int
    to_rgb: tuple[Tensor, Tensor]
    to_yuv: tuple[Tensor, Tensor]

    @classmethod
    def make(
        cls,
        surfaces: Any,
        frames: Sequence[int],
        affines: Sequence[Any],
        boxes: Sequence[Box],
        size: int,
        *,
        matrix: Matrix,
        color_range: ColorRange,
    ) -> PlainFaces:
        """With the colours' matrices."""
        tables = []
        for linear, offset in (yuv_to_rgb(matrix, color_range, 8), rgb_to_yuv(matrix, color_range, 8)):
            on_device = [torch.tensor(v, dtype=torch.float32, device=surfaces.device) for v in (linear, offset)]
            tables.append((on_device[0], on_device[1][:, None, None]))
        return cls(surfaces, frames, affines, boxes, size, *tables)

    def crop(self) -> Tensor:
        """(F, 3, S, S) float16 RGB on [-1, 1]."""
        crops = []
        for frame, affine, box in zip(self.frames, self.affines, self.boxes, strict=True):
            luma_k, chroma_k = supersampling(affine, None)
            channels = []
            for name, k in (("y", luma_k), ("u", chroma_k), ("v", chroma_k)):
                to_plane, step = (affine, 1) if name == "y" else (_chroma(affine), 2)
                plane, left, top = _part(getattr(self.surfaces, name)[frame], box, step)
                fine = (torch.arange(self.size * k, device=plane.device) + 0.5) / k - 0.5
                x, y = _positions(to_plane, fine, fine[:, None])
                channels.append(F.avg_pool2d(_sample(plane.float()[None], x - left, y - top)[None], k)[0, 0])
            crops.append(_mixed(self.to_rgb, torch.stack(channels)).clamp(-1, 1).half())
        return torch.stack(crops)

    def replace(self, rgb: Tensor, mask: Tensor) -> None:
        """Put `rgb` (F, 3, S, S) in the surfaces' place where `mask` (F, S, S) says so."""
        for i, (frame, affine, box) in enumerate(zip(self.frames, self.affines, self.boxes, strict=True)):
            fields = torch.cat([_mixed(self.to_yuv, rgb[i].float()), mask[i].float()[None]])
            for channel, name in enumerate("yuv"):
                to_plane, step = (affine, 1) if name == "y" else (_chroma(affine), 2)
                inverse = np.linalg.inv(np.vstack([to_plane, [0.0, 0.0, 1.0]]))
                x0, y0, x1, y1 = box[0] // step, box[1] // step, -(-box[2] // step), -(-box[3] // step)
                column = torch.arange(x0, x1, device=rgb.device, dtype=torch.float32)
                row = torch.arange(y0, y1, device=rgb.device, dtype=torch.float32)[:, None]
                u, v = _positions(inverse, column, row)
                value, m = _sample(torch.stack([fields[channel], fields[3]]), u, v)
                last = self.size - 0.5
                inside = (u >= -0.5) & (u <= last) & (v >= -0.5) & (v <= last)
                under = getattr(self.surfaces, name)[frame, y0:y1, x0:x1]
                code = torch.lerp(under.float(), value, m * inside)
                under.copy_((code + 0.5).floor().clamp(0, 255))


def _part(plane: Tensor, box: Box, step: int) -> tuple[Tensor, int, int]:
    """Of a plane, what lies under a box of luma and a little around it; its first column and row."""
    left, top = max(box[0] // step - MARGIN_PX, 0), max(box[1] // step - MARGIN_PX, 0)
    return plane[top : box[3] // step + MARGIN_PX, left : box[2] // step + MARGIN_PX], left, top


def _positions(affine: Any, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (rows, columns) of columns u and rows v (rows, 1)."""
    x, y = (float(line[0]) * u + float(line[1]) * v + float(line[2]) for line in affine[:2])
    return x, y


def _mixed(table: tuple[Tensor, Tensor], channels: Tensor) -> Tensor:
    linear, offset = table
    mixed: Tensor = (linear @ channels.flatten(1)).unflatten(1, channels.shape[1:]) + offset
    return mixed


def _chroma(affine: Any) -> Any:
    """Crop pixels to chroma pixels."""
    moved = np.array(affine, np.float64)
    moved[1, 2] -= CHROMA_SHIFT_Y
    return moved / 2


def _sample(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(C, H, W) at positions (rows, columns), bilinear, clamped to the edge -> (C, rows, columns)."""
    height, width = planes.shape[1:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    return F.grid_sample(planes[None], grid[None], padding_mode="border", align_corners=True)[0]
