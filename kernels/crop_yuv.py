"""Sample an aligned crop straight from the planes of a 4:2:0 frame, in one pass.

crop(u, v) = clip(M mean_q(Y(A q), U(A q), V(A q)) + offset, -1, 1), A = crop_to_frame, planes bilinear, clamp to edge.
The k x k positions q spread over the crop pixel's square; k = ceil(frame pixels per crop pixel) <= 4 prevents aliasing.
Bytes moved: the planes under the crop once (1.5 per pixel at 8 bit), 12 S^2 written.
Frames that lie on a GPU have a function of their own, `mien.kernels.gpu.crop_yuv.crop_yuv_surfaces`: many faces in one launch.
"""

from __future__ import annotations

import numpy as np

from mien.kernels.color import ColorRange, Matrix, yuv_to_rgb
from mien.kernels.cpp import native
from mien.kernels.planes import (
    CHROMA_SHIFT_Y,
    Array,
    Planes,
    check_affine,
    check_planes,
    check_threads,
    supersampling,
)
from mien.kernels.sampling import bilinear


def crop_yuv_ref(
    planes: Planes,
    crop_to_frame: Array,
    size: int,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    supersample: int | None = None,
) -> Array:
    """Define the operation in float64; see `crop_yuv`. Returns (3, S, S) float64."""
    luma_k, chroma_k = supersampling(crop_to_frame, supersample)
    v, u = np.mgrid[0:size, 0:size].astype(np.float64)
    yuv = np.zeros((3, size, size))
    for channel, plane in enumerate(planes):
        k = luma_k if channel == 0 else chroma_k
        for row in range(k):
            for column in range(k):
                du, dv = (column + 0.5) / k - 0.5, (row + 0.5) / k - 0.5
                x, y = np.einsum("ij,jvu->ivu", crop_to_frame, np.stack([u + du, v + dv, np.ones_like(u)]))
                if channel > 0:
                    x, y = x / 2, (y - CHROMA_SHIFT_Y) / 2
                yuv[channel] += bilinear(plane, x, y) / k**2
    linear, offset = yuv_to_rgb(matrix, color_range, bit_depth)
    return np.asarray(np.clip(np.einsum("ij,jvu->ivu", linear, yuv) + offset[:, None, None], -1, 1))


def crop_yuv(
    planes: Planes,
    crop_to_frame: Array,
    size: int,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    supersample: int | None = None,
    threads: int = 1,
    out: Array | None = None,
) -> Array:
    """Return the crop (3, S, S) float32 RGB on [-1, 1] of a 4:2:0 frame.

    planes: Y (H, W), U and V (ceil(H/2), ceil(W/2)), uint8 at 8 bit, uint16 holding 0..1023 at 10; rows contiguous.
    crop_to_frame: (2, 3), crop pixels (u, v, 1) to luma pixels, pixel centres at integers; it may leave the frame.
    size: S. supersample: samples per axis that a crop pixel averages, None takes it from the affine's scale.
    threads: rows are shared among them; the result does not depend on it. out: (3, S, S) float32 to write into.
    Raises ValueError for a shape, type or value outside of this.
    """
    check_planes(planes, bit_depth)
    affine = check_affine(crop_to_frame)
    check_threads(threads)
    if not 2 <= size <= 4096:
        raise ValueError(f"size must be in 2..4096, got {size!r}")
    if out is None:
        out = np.empty((3, size, size), np.float32)
    elif (
        out.shape != (3, size, size) or out.dtype != np.float32 or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        raise ValueError(f"out must be C-contiguous writeable float32 {(3, size, size)}, got {out.dtype} {out.shape}")
    luma_k, chroma_k = supersampling(affine, supersample)
    linear, offset = yuv_to_rgb(matrix, color_range, bit_depth)
    if native is None:
        _crop_yuv_numpy(planes, affine, luma_k, chroma_k, linear, offset, out)
    else:
        native.crop_yuv(*planes, affine, luma_k, chroma_k, linear, offset, threads, out)
    return out


def _crop_yuv_numpy(
    planes: Planes, affine: Array, luma_k: int, chroma_k: int, linear: Array, offset: Array, out: Array
) -> None:
    """Write the crop into `out`: the same in float32, with one set of positions for both chroma planes."""
    size = out.shape[1]
    yuv = np.zeros((3, size, size), np.float32)
    for channels, k in (((0,), luma_k), ((1, 2), chroma_k)):
        to_plane = affine.copy()
        if channels != (0,):
            to_plane[1, 2] -= CHROMA_SHIFT_Y
            to_plane /= 2
        fine = (np.arange(size * k) + 0.5) / k - 0.5
        x = to_plane[0, 0] * fine + to_plane[0, 1] * fine[:, None] + to_plane[0, 2]
        y = to_plane[1, 0] * fine + to_plane[1, 1] * fine[:, None] + to_plane[1, 2]
        for channel in channels:
            samples = bilinear(planes[channel], x, y, np.float32)
            yuv[channel] = samples.reshape(size, k, size, k).mean(axis=(1, 3))
    rgb = linear.astype(np.float32) @ yuv.reshape(3, -1) + offset.astype(np.float32)[:, None]
    np.clip(rgb.reshape(out.shape), -1, 1, out=out)
