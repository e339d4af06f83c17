"""`composite_yuv` in Triton: several faces of several frames put back into a pool, in place, in one launch.

Per face the definition is that of kernels/composite_yuv.py. Faces of one frame are composited in the order in which they are given,
each onto the codes that those before it leave. Only a displaced sample differs there from one call after another: it is fetched from
the source frame, and what earlier faces changed at its own place stays: fetched + (theirs - source).
A sample within several boxes belongs to the last of their faces: its program does there what all of them ask for, so nothing races.
A program does a tile of a box strip by strip, each strip's mask and warp first, and the rest where they touch it.
Bytes moved per face: the box's planes read and written once (3 per pixel at 8 bit, 6 at 10), 4 S^2 samples of crop and mask read.
Work per luma pixel that is touched: 16 loads from the crop, and about 110 instructions of sm_90 (45 if it is not), 160 more where a warp
moves it. At a frame pixel to a crop pixel and more it is they that take the time, not the bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.color import ColorRange, Matrix, rgb_to_yuv
from mien.kernels.gpu.composite_strip import composite_strip
from mien.kernels.gpu.sampling import least, place
from mien.kernels.gpu.specialisation import Specialisation
from mien.kernels.gpu.surfaces import Surfaces, check_faces, check_tensor

# A program is one warp: it agrees on what to leave out without a barrier, and few registers are in use at a time. What it finds out
# about its face is spread over a tile of luma, 32 pixels a thread; it does STRIP_Y rows of that at a time, and twice as many of chroma:
# with a warp fewer, for Catmull-Rom's 16 taps.
TILE_Y, TILE_X = 32, 32
STRIP_Y = {"plain": 4, "warp": 2}
REGISTERS = {"plain": None, "warp": 144}  # of a thread; left to itself, some ptxas spill rather than take more than 128
NUM_WARPS = 1
MAX_PROGRAMS = 16384  # three times what the largest GPU runs at once; beyond it, each takes several tiles
_SIZES = ["n_frames", "n_faces", "width", "height", "y_frame", "y_pitch", "c_frame", "c_pitch"]
_SIZES += ["source_y_frame", "source_y_pitch", "source_c_frame", "source_c_pitch", "rgb_face"]
_COLOURS = [f"{plane}_{channel}" for plane in "yuv" for channel in "rgb0"]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit(do_not_specialize=_SIZES)
def _composite_yuv_kernel(
    y_plane, u_plane, v_plane, source_y, source_u, source_v, rgb, mask, warp, frames, crop_to_frame, boxes,
    n_frames, n_faces, width, height, y_frame, y_pitch, c_frame, c_pitch,
    source_y_frame, source_y_pitch, source_c_frame, source_c_pitch, rgb_face,
    y_r, y_g, y_b, y_0, u_r, u_g, u_b, u_0, v_r, v_g, v_b, v_0,
    SIZE: tl.constexpr, GRID: tl.constexpr, IS_REPLACE: tl.constexpr, RGB_C: tl.constexpr, RGB_V: tl.constexpr,
    RGB_U: tl.constexpr, PIXEL: tl.constexpr, SHIFT: tl.constexpr, TOP: tl.constexpr, BLOCK_FACES: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, STRIP_Y: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of a box, faces); a program takes every n-th tile of its face's box, where the grid has n of them."""
    face = tl.program_id(1)
    frame = tl.load(frames + face)
    if (frame < 0) | (frame >= n_frames):
        return
    left, top = tl.maximum(tl.load(boxes + 4 * face), 0), tl.maximum(tl.load(boxes + 4 * face + 1), 0)
    right, bottom = tl.minimum(tl.load(boxes + 4 * face + 2), width), tl.minimum(tl.load(boxes + 4 * face + 3), height)
    if (left >= right) | (top >= bottom):
        return
    # The first and the last face of this frame whose box meets this one: itself, as a rule.
    faces = tl.arange(0, BLOCK_FACES)
    meets = faces < n_faces
    meets = meets & (tl.load(frames + faces, meets, -1) == frame)
    meets = meets & (tl.load(boxes + 4 * faces, meets, 0) < right) & (tl.load(boxes + 4 * faces + 2, meets, 0) > left)
    meets = meets & (tl.load(boxes + 4 * faces + 1, meets, 0) < bottom)
    meets = meets & (tl.load(boxes + 4 * faces + 3, meets, 0) > top)
    first, last = tl.min(tl.where(meets, faces, face)), tl.max(tl.where(meets, faces, face))
    y_plane += frame.to(tl.int64) * y_frame
    u_plane += frame.to(tl.int64) * c_frame
    v_plane += frame.to(tl.int64) * c_frame
    source_y += frame.to(tl.int64) * source_y_frame
    source_u += frame.to(tl.int64) * source_c_frame
    source_v += frame.to(tl.int64) * source_c_frame
    x_first, y_first = left // 32 * 32, top // 2 * 2  # whole sectors of memory, and whole samples of chroma
    columns = tl.cdiv(right - x_first, TILE_X)
    for tile in range(tl.program_id(0), columns * tl.cdiv(bottom - y_first, TILE_Y), tl.num_programs(0)):
        x_tile, y_tile = x_first + tile % columns * TILE_X, y_first + tile // columns * TILE_Y
        y_end = tl.minimum(y_tile + TILE_Y, bottom)
        for index in range(first, face + 1):
            if tl.load(frames + index) == frame:
                box = boxes + 4 * index
                x_low, y_low = tl.maximum(tl.load(box), left), tl.maximum(tl.load(box + 1), top)
                x_high, y_high = tl.minimum(tl.load(box + 2), right), tl.minimum(tl.load(box + 3), bottom)
                affine = crop_to_frame + 6 * index
                a, b, c = tl.load(affine), tl.load(affine + 1), tl.load(affine + 2)
                d, e, f = tl.load(affine + 3), tl.load(affine + 4), tl.load(affine + 5)
                share = 1.0 / (a * e - b * d)
                u_x, u_y, v_x, v_y = e * share, -b * share, -d * share, a * share
                # The whole crop position (u, v) that no sample of the tile comes before; what is left is small, and not negative.
                middle_x, middle_y = x_tile + TILE_X / 2 - c, y_tile + TILE_Y / 2 - f
                u = least(u_x, u_y, middle_x, middle_y, TILE_X, TILE_Y)
                v = least(v_x, v_y, middle_x, middle_y, TILE_X, TILE_Y)
                whole_x, part_x = place(a, b, c, u, v)
                whole_y, part_y = place(d, e, f, u, v)
                away_x, away_y = x_tile - whole_x - part_x, y_tile - whole_y - part_y
                across, down = u.to(tl.int32), v.to(tl.int32)
                rgb_here = rgb + (tl.cast(index, tl.int64) * rgb_face + down * RGB_V + across * RGB_U)
                mask_here = mask + (tl.cast(index, tl.int64) * (SIZE * SIZE) + down * SIZE + across)
                warp_here = warp + tl.cast(index, tl.int64) * (2 * GRID * GRID)
                for y_strip in range(y_tile, y_end, STRIP_Y):
                    composite_strip(
                        y_plane, y_plane, y_pitch, source_y, source_y, source_y_pitch, width, height,
                        rgb_here, mask_here, warp_here, frames, boxes, frame, face, last, x_low, y_low, x_high, y_high,
                        x_tile, y_strip, away_x, away_y + (y_strip - y_tile), a, b, d, e, u_x, u_y, v_x, v_y, u, v, index == first,
                        y_r, y_g, y_b, y_0, y_r, y_g, y_b, y_0,
                        SIZE, GRID, IS_REPLACE, RGB_C, RGB_V, RGB_U, 1, SHIFT, TOP, 1, STRIP_Y, TILE_X,
                    )  # fmt: skip
                for y_strip in range(y_tile, y_end, 4 * STRIP_Y):
                    composite_strip(
                        u_plane, v_plane, c_pitch, source_u, source_v, source_c_pitch, (width + 1) // 2, (height + 1) // 2,
                        rgb_here, mask_here, warp_here, frames, boxes, frame, face, last, x_low, y_low, x_high, y_high,
                        x_tile, y_strip, away_x, away_y + (y_strip - y_tile + 0.5), a, b, d, e, u_x, u_y, v_x, v_y, u, v, index == first,
                        u_r, u_g, u_b, u_0, v_r, v_g, v_b, v_0,
                        SIZE, GRID, IS_REPLACE, RGB_C, RGB_V, RGB_U, PIXEL, SHIFT, TOP, 2, 2 * STRIP_Y, TILE_X // 2,
                    )  # fmt: skip
                if index < face:
                    tl.debug_barrier()  # the next face reads what this one wrote


def composite_delta_yuv_surfaces(
    surfaces: Surfaces,
    frames: Tensor,
    crop_to_frame: Tensor,
    boxes: Tensor,
    delta: Tensor,
    mask: Tensor,
    warp: Tensor | None = None,
    *,
    source: Surfaces | None = None,
    matrix: Matrix,
    color_range: ColorRange,
    box_px: tuple[int, int],
) -> None:
    """Edit F faces in place: the source's samples, displaced by `warp`, plus the masked difference.

    surfaces: hold the source's samples on entry; those that no face touches are not written.
    frames: (F,) int32, the frame of each face; a face whose frame is not in 0..N - 1 is left out.
    crop_to_frame: (F, 2, 3) float32. boxes: (F, 4) int32, (x0, y0, x1, y1) as `composite_delta_yuv` has them. Both contiguous.
    delta: (F, 3, S, S) in any layout. mask: (F, S, S) in [0, 1]. warp: (F, G, G, 2) in crop pixels, G in 2..S. The last two
        contiguous; each float16, bfloat16 or float32. What these hold is not checked: that would wait for the device.
    source: with a warp, the same frames in a pool of the same form that nothing is written to.
    box_px: width and height of the largest box that is expected, which sets how many programs start; a larger one is done right.
    All tensors lie where the surfaces lie. Nothing is allocated, and nothing waits for the device.
    Raises ValueError for a shape, type or value outside of this.
    """
    size = _check(surfaces, frames, crop_to_frame, boxes, "delta", delta, mask, box_px)
    if warp is not None:
        grid = warp.shape[1] if warp.ndim == 4 else 0
        if not 2 <= grid <= size:
            raise ValueError(f"warp must be (F, G, G, 2) with G in 2..S = {size}, got {tuple(warp.shape)}")
        check_tensor("warp", warp, (len(frames), grid, grid, 2), surfaces.device, _FLOATS, is_contiguous=True)
        if source is None or source.y.data_ptr() == surfaces.y.data_ptr():
            raise ValueError("a warp fetches samples from frames that nothing is written to: give them as source")
        if source.form != surfaces.form:
            raise ValueError(f"source must have the form of the surfaces, {surfaces}, got {source}")
    linear, _ = rgb_to_yuv(matrix, color_range, surfaces.bit_depth)
    colours = [float(value) for row in linear for value in (*row, 0.0)]
    _launch(surfaces, source, frames, crop_to_frame, boxes, delta, mask, warp, colours, box_px, False)


def composite_replace_yuv_surfaces(
    surfaces: Surfaces,
    frames: Tensor,
    crop_to_frame: Tensor,
    boxes: Tensor,
    rgb: Tensor,
    mask: Tensor,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    box_px: tuple[int, int],
) -> None:
    """Edit F faces in place: `rgb` (F, 3, S, S) on [-1, 1] in the source's place where the mask says so.

    The other arguments are those of `composite_delta_yuv_surfaces`. Raises ValueError as it does.
    """
    _check(surfaces, frames, crop_to_frame, boxes, "rgb", rgb, mask, box_px)
    linear, offset = rgb_to_yuv(matrix, color_range, surfaces.bit_depth)
    colours = [float(value) for row, constant in zip(linear, offset, strict=True) for value in (*row, constant)]
    _launch(surfaces, None, frames, crop_to_frame, boxes, rgb, mask, None, colours, box_px, True)


def _check(
    surfaces: Surfaces,
    frames: Tensor,
    crop_to_frame: Tensor,
    boxes: Tensor,
    name: str,
    rgb: Tensor,
    mask: Tensor,
    box_px: tuple[int, int],
) -> int:
    """Check what both compositions share; return the size of the crop."""
    faces = check_faces(surfaces, frames, crop_to_frame)
    check_tensor("boxes", boxes, (faces, 4), surfaces.device, (torch.int32,), is_contiguous=True)
    size = mask.shape[-1] if mask.ndim == 3 else 0
    if not 2 <= size <= 4096:
        raise ValueError(f"mask must be (F, S, S) with S in 2..4096, got {tuple(mask.shape)}")
    check_tensor("mask", mask, (faces, size, size), surfaces.device, _FLOATS, is_contiguous=True)
    check_tensor(name, rgb, (faces, 3, size, size), surfaces.device, _FLOATS)
    if min(box_px) < 1:
        raise ValueError(f"box_px must be a width and a height in pixels, got {box_px}")
    return size


def _launch(
    surfaces: Surfaces,
    source: Surfaces | None,
    frames: Tensor,
    crop_to_frame: Tensor,
    boxes: Tensor,
    rgb: Tensor,
    mask: Tensor,
    warp: Tensor | None,
    colours: list[float],
    box_px: tuple[int, int],
    is_replace: bool,
) -> None:
    faces = len(frames)
    if not faces:
        return
    if source is None or warp is None:
        source, warp = surfaces, None
    # A tile begins up to 30 columns early.
    width, height = min(box_px[0], surfaces.width) + 30, min(box_px[1], surfaces.height)
    tiles = min(triton.cdiv(width, TILE_X) * triton.cdiv(height, TILE_Y), max(MAX_PROGRAMS // faces, 1))
    kind = "plain" if warp is None else "warp"
    _composite_yuv_kernel[(tiles, faces)](
        surfaces.y, surfaces.u, surfaces.v, source.y, source.u, source.v, rgb, mask, mask if warp is None else warp,
        frames, crop_to_frame, boxes, len(surfaces), faces, surfaces.width, surfaces.height,
        surfaces.y.stride(0), surfaces.y.stride(1), surfaces.u.stride(0), surfaces.u.stride(1),
        source.y.stride(0), source.y.stride(1), source.u.stride(0), source.u.stride(1), rgb.stride(0), *colours,
        SIZE=mask.shape[-1], GRID=0 if warp is None else warp.shape[1], IS_REPLACE=is_replace,
        RGB_C=rgb.stride(1), RGB_V=rgb.stride(2), RGB_U=rgb.stride(3), PIXEL=surfaces.pixel, SHIFT=surfaces.shift,
        TOP=2**surfaces.bit_depth - 1, BLOCK_FACES=max(16, triton.next_power_of_2(faces)),
        TILE_Y=TILE_Y, TILE_X=TILE_X, STRIP_Y=STRIP_Y[kind], num_warps=NUM_WARPS, num_stages=1, maxnreg=REGISTERS[kind],
    )  # fmt: skip


def _specialisation(layout: str, blend: str, fields: str, size: int, slow: bool = False) -> Specialisation:
    samples, bits, shift, pixel = {
        "nv12": ("u8", 8, 0, 2),
        "p010": ("u16", 10, 6, 2),
        "planar": ("u8", 8, 0, 1),
        "planar 10 bit": ("u16", 10, 0, 1),
    }[layout]
    planes = [f"{plane}_plane" for plane in "yuv"] + [f"source_{plane}" for plane in "yuv"]
    aligned = planes if pixel == 1 else [plane for plane in planes if plane not in ("v_plane", "source_v")]
    grid, kind = (64, "warp") if blend == "warp" else (0, "plain")
    return Specialisation(
        _composite_yuv_kernel,
        f"{layout} {blend} {fields} {size}",
        dict.fromkeys(planes, f"*{samples}")
        | {"rgb": f"*{fields}", "mask": f"*{fields}", "warp": "*fp32" if grid else f"*{fields}"}
        | {"frames": "*i32", "crop_to_frame": "*fp32", "boxes": "*i32"}
        | dict.fromkeys(_SIZES, "i32")
        | dict.fromkeys(_COLOURS, "fp32"),
        {"SIZE": size, "GRID": grid, "IS_REPLACE": blend == "replace", "RGB_C": size * size, "RGB_V": size, "RGB_U": 1}
        | {"PIXEL": pixel, "SHIFT": shift, "TOP": 2**bits - 1, "BLOCK_FACES": 16}
        | {"TILE_Y": TILE_Y, "TILE_X": TILE_X, "STRIP_Y": STRIP_Y[kind]},
        divisible=(*aligned, "rgb", "mask", "warp", "frames", "crop_to_frame", "boxes"),
        num_warps=NUM_WARPS,
        num_stages=1,
        extra={"maxnreg": REGISTERS[kind]},
        slow=slow,
    )


SPECIALISATIONS = tuple(
    _specialisation(layout, blend, fields, 512, slow=layout != "nv12" or fields != "fp16")
    for layout, fields in (
        ("nv12", "fp16"),
        ("nv12", "bf16"),
        ("nv12", "fp32"),
        ("p010", "fp16"),
        ("planar", "fp16"),
        ("planar 10 bit", "fp16"),
    )
    for blend in ("replace", "delta", "warp")
)
