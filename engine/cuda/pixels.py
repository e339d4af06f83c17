"""Crops out of a pool of frames and edited faces back into it, wherever the pool lies: by Triton, or by the CPU's kernels.

On the CPU a pool is what the tests of a lane have: every face takes copies of its frame's planes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from mien.engine.types import Array, ColorRange, Matrix
from mien.kernels.composite_yuv import composite_delta_yuv, composite_replace_yuv
from mien.kernels.crop_yuv import crop_yuv
from mien.kernels.gpu.surfaces import Surfaces


class Pixels:
    """The crops and compositions of frames of one form.

    source: frames that nothing writes to. edited: the same frames, which faces are put into. A row whose frame is -1 is left out.
    """

    def __init__(self, source: Surfaces, edited: Surfaces, matrix: Matrix, color_range: ColorRange) -> None:
        self.source, self.edited = source, edited
        self._colour: dict[str, Any] = {"matrix": matrix, "color_range": color_range}
        self._box_px = (source.width, source.height)

    def crop(self, frames: Tensor, affines: Tensor, out: Tensor) -> None:
        """Write the crops (F, 3, S, S) of F rows. frames: (F,) int32. affines: (F, 2, 3) float32."""
        if out.is_cuda:
            from mien.kernels.gpu.crop_yuv import crop_yuv_surfaces

            crop_yuv_surfaces(self.source, frames, affines, out.shape[-1], out=out, **self._colour)
            return
        for row, frame in enumerate(frames.tolist()):
            if frame >= 0:
                planes, affine = _planes(self.source, frame), affines[row].numpy()
                crop = crop_yuv(planes, affine, out.shape[-1], bit_depth=self.source.bit_depth, **self._colour)
                out[row] = from_numpy(crop)

    def replace(self, frames: Tensor, affines: Tensor, boxes: Tensor, pictures: Tensor, masks: Tensor) -> None:
        """Put pictures (F, 3, S, S) on [-1, 1] in the frames' place, as far as masks (F, S, S) say. boxes: (F, 4) int32."""
        if pictures.is_cuda:
            from mien.kernels.gpu.composite_yuv import composite_replace_yuv_surfaces as on_gpu

            on_gpu(self.edited, frames, affines, boxes, pictures, masks, box_px=self._box_px, **self._colour)
        else:
            self._composite(composite_replace_yuv, frames, affines, boxes, pictures, masks, ())

    def add(self, frames: Tensor, affines: Tensor, boxes: Tensor, differences: Tensor, masks: Tensor) -> None:
        """Add differences (F, 3, S, S) times masks (F, S, S). boxes: (F, 4) int32."""
        if differences.is_cuda:
            from mien.kernels.gpu.composite_yuv import composite_delta_yuv_surfaces as on_gpu

            on_gpu(self.edited, frames, affines, boxes, differences, masks, box_px=self._box_px, **self._colour)
        else:
            self._composite(composite_delta_yuv, frames, affines, boxes, differences, masks, (None,))

    def _composite(
        self,
        composite: Any,
        frames: Tensor,
        affines: Tensor,
        boxes: Tensor,
        pictures: Tensor,
        masks: Tensor,
        more: tuple[Any, ...],
    ) -> None:
        pool = self.edited
        for row, frame in enumerate(frames.tolist()):
            if frame < 0:
                continue
            picture, mask = (t[row].float().contiguous().numpy() for t in (pictures, masks))
            options = {"box": tuple(boxes[row].tolist()), "bit_depth": pool.bit_depth, **self._colour}
            planes = composite(_planes(pool, frame), affines[row].numpy(), picture, mask, *more, **options)
            for to, of in zip((pool.y, pool.u, pool.v), planes, strict=True):
                to[frame].numpy()[...] = of << pool.shift


def _planes(pool: Surfaces, frame: int) -> tuple[Array, Array, Array]:
    y, u, v = (np.ascontiguousarray(plane[frame].numpy()) >> pool.shift for plane in (pool.y, pool.u, pool.v))
    return y, u, v
