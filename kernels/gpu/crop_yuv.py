"""`crop_yuv` in Triton: crops of several faces, out of several frames of a pool, in one launch.

Per face the definition is that of kernels/crop_yuv.py. A program writes one tile of one crop. Where the tile lies well inside the
frame, which nearly all do, no tap is clamped.
Bytes moved per face: the planes under the crop once (1.5 per pixel at 8 bit, 3 at 10), 3 S^2 samples written.
Work per crop pixel, in instructions of sm_90: 32 for each of k^2 luma samples, 51 for each of ceil(k/2)^2 pairs of chroma, and 50.
So it is they that take the time, not the bytes, but for k = 1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.color import ColorRange, Matrix, yuv_to_rgb
from mien.kernels.gpu.sampling import blend_codes, clamp, least, place
from mien.kernels.gpu.specialisation import Specialisation
from mien.kernels.gpu.surfaces import Surfaces, check_faces, check_tensor

# A program is one warp, which reads along a row. What it finds out about its face is spread over a tile of 32 pixels a thread; it
# does STRIP_V rows of that at a time.
TILE_V, TILE_U, STRIP_V = 32, 32, 4
NUM_WARPS = 1

_SIZES = ["n_frames", "width", "height", "y_frame", "y_pitch", "c_frame", "c_pitch", "out_face"]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit
def _sums(
    first, second, pitch, width, height, x, y, left, top, a, b, d, e, k,
    PIXEL: tl.constexpr, IS_INSIDE: tl.constexpr, IS_PAIR: tl.constexpr,
):  # fmt: skip
    """Sums over k x k positions about (x + left, y + top) of one plane, or of two that share them; left, top: whole, of the tile."""
    total = tl.zeros_like(x)
    total_second = tl.zeros_like(x)
    if IS_INSIDE:
        first += top.to(tl.int64) * pitch + left * PIXEL
        second += top.to(tl.int64) * pitch + left * PIXEL
    step = 1.0 / k
    for i in range(k):
        for j in range(k):
            du, dv = (j + 0.5) * step - 0.5, (i + 0.5) * step - 0.5
            fx, fy = x + (a * du + b * dv), y + (d * du + e * dv)
            column, row = fx.to(tl.int32), fy.to(tl.int32)  # neither is negative
            fx, fy = fx - column.to(tl.float32), fy - row.to(tl.float32)
            if IS_INSIDE:
                at = row * pitch + column * PIXEL
                corner = first + at
                below = corner + pitch
                total += blend_codes(corner, corner + PIXEL, below, below + PIXEL, fx, fy)
                if PIXEL == 2:
                    total_second += blend_codes(corner + 1, corner + 3, below + 1, below + 3, fx, fy)
                elif IS_PAIR:
                    corner = second + at
                    below = corner + pitch
                    total_second += blend_codes(corner, corner + PIXEL, below, below + PIXEL, fx, fy)
            else:
                near, far = clamp(left + column, width) * PIXEL, clamp(left + column + 1, width) * PIXEL
                upper, lower = clamp(top + row, height) * pitch, clamp(top + row + 1, height) * pitch
                corner, below = first + upper, first + lower
                total += blend_codes(corner + near, corner + far, below + near, below + far, fx, fy)
                if IS_PAIR:
                    corner, below = second + upper, second + lower
                    total_second += blend_codes(corner + near, corner + far, below + near, below + far, fx, fy)
    return total, total_second


@triton.jit
def _crop_tile(
    y_plane, u_plane, v_plane, out, y_pitch, c_pitch, width, height, u_0, v_0, whole_x, whole_y, part_x, part_y,
    a, b, d, e, luma_k, r_y, r_u, r_v, r_0, g_y, g_u, g_v, g_0, b_y, b_u, b_v, b_0,
    SIZE: tl.constexpr, OUT_C: tl.constexpr, OUT_V: tl.constexpr, OUT_U: tl.constexpr, PIXEL: tl.constexpr,
    TILE_V: tl.constexpr, TILE_U: tl.constexpr, STRIP_V: tl.constexpr, IS_INSIDE: tl.constexpr,
):  # fmt: skip
    """Write the crop's tile whose first pixel (u_0, v_0) lies at luma position whole + part."""
    element = out.dtype.element_ty
    left, top = whole_x.to(tl.int32), whole_y.to(tl.int32)
    # Chroma sample (i, j) lies at luma (2 i, 2 j + 1/2): halve, and keep what is left of an odd whole number.
    chroma_left, chroma_top = tl.floor(whole_x * 0.5), tl.floor(whole_y * 0.5 - 0.5)
    rest_x, rest_y = whole_x * 0.5 - chroma_left, whole_y * 0.5 - 0.25 - chroma_top
    chroma_k = (luma_k + 1) // 2
    share, chroma_share = 1.0 / (luma_k * luma_k), 1.0 / (chroma_k * chroma_k)
    r_y, g_y, b_y = r_y * share, g_y * share, b_y * share
    r_u, g_u, b_u = r_u * chroma_share, g_u * chroma_share, b_u * chroma_share
    r_v, g_v, b_v = r_v * chroma_share, g_v * chroma_share, b_v * chroma_share
    # In one dimension: of two, some versions of Triton spread a warp over columns first, and its loads over many lines of the cache.
    cell = tl.arange(0, STRIP_V * TILE_U)
    column = cell % TILE_U
    for first in range(0, tl.minimum(TILE_V, SIZE - v_0), STRIP_V):
        row = first + cell // TILE_U
        x = part_x + a * column.to(tl.float32) + b * row.to(tl.float32)
        y = part_y + d * column.to(tl.float32) + e * row.to(tl.float32)
        luma, _ = _sums(
            y_plane, y_plane, y_pitch, width, height, x, y, left, top, a, b, d, e, luma_k, 1, IS_INSIDE, False
        )
        x, y = x * 0.5 + rest_x, y * 0.5 + rest_y
        blue, red = _sums(
            u_plane, v_plane, c_pitch, (width + 1) // 2, (height + 1) // 2, x, y, chroma_left.to(tl.int32), chroma_top.to(tl.int32),
            a * 0.5, b * 0.5, d * 0.5, e * 0.5, chroma_k, PIXEL, IS_INSIDE, True,
        )  # fmt: skip
        inside = (u_0 + column < SIZE) & (v_0 + row < SIZE)
        at = out + ((v_0 + row) * OUT_V + (u_0 + column) * OUT_U)
        value = r_y * luma + (r_u * blue + (r_v * red + r_0))
        tl.store(at, tl.minimum(tl.maximum(value, -1.0), 1.0).to(element), inside)
        value = g_y * luma + (g_u * blue + (g_v * red + g_0))
        tl.store(at + OUT_C, tl.minimum(tl.maximum(value, -1.0), 1.0).to(element), inside)
        value = b_y * luma + (b_u * blue + (b_v * red + b_0))
        tl.store(at + 2 * OUT_C, tl.minimum(tl.maximum(value, -1.0), 1.0).to(element), inside)


@triton.jit(do_not_specialize=_SIZES)
def _crop_yuv_kernel(
    y_plane, u_plane, v_plane, frames, crop_to_frame, out,
    n_frames, width, height, y_frame, y_pitch, c_frame, c_pitch, out_face,
    r_y, r_u, r_v, r_0, g_y, g_u, g_v, g_0, b_y, b_u, b_v, b_0,
    SIZE: tl.constexpr, SUPERSAMPLE: tl.constexpr, PIXEL: tl.constexpr, OUT_C: tl.constexpr, OUT_V: tl.constexpr,
    OUT_U: tl.constexpr, TILE_V: tl.constexpr, TILE_U: tl.constexpr, STRIP_V: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of a crop, faces)."""
    face = tl.program_id(1)
    frame = tl.load(frames + face).to(tl.int64)
    if (frame < 0) | (frame >= n_frames):
        return
    crop_to_frame += face * 6
    a, b, c = tl.load(crop_to_frame), tl.load(crop_to_frame + 1), tl.load(crop_to_frame + 2)
    d, e, f = tl.load(crop_to_frame + 3), tl.load(crop_to_frame + 4), tl.load(crop_to_frame + 5)
    if SUPERSAMPLE == 0:
        square = tl.maximum(a * a + d * d, b * b + e * e)
        luma_k = 1 + (square > 1.000002).to(tl.int32) + (square > 4.000004).to(tl.int32)
        luma_k += (square > 9.000006).to(tl.int32)
    else:
        luma_k = SUPERSAMPLE
    COLUMNS: tl.constexpr = (SIZE + TILE_U - 1) // TILE_U
    u_0, v_0 = tl.program_id(0) % COLUMNS * TILE_U, tl.program_id(0) // COLUMNS * TILE_V
    whole_x, part_x = place(a, b, c, u_0, v_0)
    whole_y, part_y = place(d, e, f, u_0, v_0)
    # Begin at a whole number that no position of the tile is below, so that what is added to it is never negative.
    least_x = least(a, b, (TILE_U - 1) / 2, (TILE_V - 1) / 2, TILE_U, TILE_V)
    least_y = least(d, e, (TILE_U - 1) / 2, (TILE_V - 1) / 2, TILE_U, TILE_V)
    whole_x, part_x = whole_x + least_x, part_x - least_x
    whole_y, part_y = whole_y + least_y, part_y - least_y
    end_x = whole_x + tl.abs(a) * TILE_U + tl.abs(b) * TILE_V + 12.0
    end_y = whole_y + tl.abs(d) * TILE_U + tl.abs(e) * TILE_V + 12.0
    is_inside = (whole_x >= 1.0) & (whole_y >= 1.0) & (end_x <= width) & (end_y <= height)
    # A crop may lie anywhere, or be no number: the taps of such a tile are clamped, and its whole numbers fit in 32 bits.
    whole_x = tl.minimum(tl.maximum(whole_x, -1048576.0), 1048576.0)
    whole_y = tl.minimum(tl.maximum(whole_y, -1048576.0), 1048576.0)
    y_plane += frame * y_frame
    u_plane += frame * c_frame
    v_plane += frame * c_frame
    out += face.to(tl.int64) * out_face
    if is_inside:
        _crop_tile(
            y_plane, u_plane, v_plane, out, y_pitch, c_pitch, width, height, u_0, v_0, whole_x, whole_y, part_x, part_y,
            a, b, d, e, luma_k, r_y, r_u, r_v, r_0, g_y, g_u, g_v, g_0, b_y, b_u, b_v, b_0,
            SIZE, OUT_C, OUT_V, OUT_U, PIXEL, TILE_V, TILE_U, STRIP_V, True,
        )  # fmt: skip
    else:
        _crop_tile(
            y_plane, u_plane, v_plane, out, y_pitch, c_pitch, width, height, u_0, v_0, whole_x, whole_y, part_x, part_y,
            a, b, d, e, luma_k, r_y, r_u, r_v, r_0, g_y, g_u, g_v, g_0, b_y, b_u, b_v, b_0,
            SIZE, OUT_C, OUT_V, OUT_U, PIXEL, TILE_V, TILE_U, STRIP_V, False,
        )  # fmt: skip


def crop_yuv_surfaces(
    surfaces: Surfaces,
    frames: Tensor,
    crop_to_frame: Tensor,
    size: int,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    dtype: torch.dtype = torch.float16,
    supersample: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return the crops (F, 3, S, S) RGB on [-1, 1] of F faces, each as `crop_yuv` defines it.

    frames: (F,) int32, the frame of each face; a face whose frame is not in 0..N - 1 is left out, its crop left as it was.
    crop_to_frame: (F, 2, 3) float32, contiguous. size, matrix, color_range, supersample: as in `crop_yuv`, the same for all faces.
    out: (F, 3, S, S) float16, bfloat16 or float32 to write into, in any layout; None makes one of `dtype`.
    All tensors lie where the surfaces lie. With `out` nothing is allocated, and nothing waits for the device.
    Raises ValueError for a shape, type or value outside of this.
    """
    faces = check_faces(surfaces, frames, crop_to_frame)
    if not 2 <= size <= 4096:
        raise ValueError(f"size must be in 2..4096, got {size!r}")
    if supersample is not None and not 1 <= supersample <= 4:
        raise ValueError(f"supersample must be in 1..4 or None, got {supersample!r}")
    if out is None:
        out = torch.empty((faces, 3, size, size), dtype=dtype, device=surfaces.device)
    check_tensor("out", out, (faces, 3, size, size), surfaces.device, _FLOATS)
    if not faces:
        return out
    linear, offset = yuv_to_rgb(matrix, color_range, surfaces.bit_depth)
    colours = [
        float(v) for row, constant in zip(linear / 2**surfaces.shift, offset, strict=True) for v in (*row, constant)
    ]
    grid = (triton.cdiv(size, TILE_U) * triton.cdiv(size, TILE_V), faces)
    _crop_yuv_kernel[grid](
        surfaces.y, surfaces.u, surfaces.v, frames, crop_to_frame, out,
        len(surfaces), surfaces.width, surfaces.height, surfaces.y.stride(0), surfaces.y.stride(1),
        surfaces.u.stride(0), surfaces.u.stride(1), out.stride(0), *colours,
        SIZE=size, SUPERSAMPLE=supersample or 0, PIXEL=surfaces.pixel,
        OUT_C=out.stride(1), OUT_V=out.stride(2), OUT_U=out.stride(3),
        TILE_V=TILE_V, TILE_U=TILE_U, STRIP_V=STRIP_V, num_warps=NUM_WARPS, num_stages=1,
    )  # fmt: skip
    return out


def _specialisation(
    layout: str, crops: str, size: int, is_channels_last: bool = False, slow: bool = False
) -> Specialisation:
    samples, pixel = {"nv12": ("u8", 2), "p010": ("u16", 2), "planar": ("u8", 1), "planar 10 bit": ("u16", 1)}[layout]
    planes = {f"{plane}_plane": f"*{samples}" for plane in "yuv"}
    colours = {f"{channel}_{plane}": "fp32" for channel in "rgb" for plane in "yuv0"}
    strides = (1, 3 * size, 3) if is_channels_last else (size * size, size, 1)
    return Specialisation(
        _crop_yuv_kernel,
        f"{layout} to {crops} {size}" + " channels last" * is_channels_last,
        planes
        | {"frames": "*i32", "crop_to_frame": "*fp32", "out": f"*{crops}"}
        | dict.fromkeys(_SIZES, "i32")
        | colours,
        {"SIZE": size, "SUPERSAMPLE": 0, "PIXEL": pixel, "TILE_V": TILE_V, "TILE_U": TILE_U, "STRIP_V": STRIP_V}
        | dict(zip(("OUT_C", "OUT_V", "OUT_U"), strides, strict=True)),
        divisible=("y_plane", "u_plane", *["v_plane"] * (pixel == 1), "frames", "crop_to_frame", "out"),
        num_warps=NUM_WARPS,
        num_stages=1,
        slow=slow,
    )


SPECIALISATIONS = (
    _specialisation("nv12", "fp16", 512),
    _specialisation("nv12", "fp16", 512, is_channels_last=True),
    _specialisation("nv12", "bf16", 512, slow=True),
    _specialisation("nv12", "fp32", 512, slow=True),
    _specialisation("p010", "fp16", 512),
    _specialisation("p010", "bf16", 512, slow=True),
    _specialisation("p010", "fp32", 512, slow=True),
    _specialisation("planar", "fp16", 512),
    _specialisation("planar 10 bit", "fp16", 512, slow=True),
)
