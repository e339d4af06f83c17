"""Put an edited crop back into the planes of a 4:2:0 frame, inside its box only, in one pass over the planes.

With c = A^-1 p the crop position of sample p, A = crop_to_frame, J its linear part, m the mask and all fields bilinear:
delta:   out(p) = round(src(p + J warp(c)) + m(c) M delta(c))          src by Catmull-Rom in luma, bilinear in chroma
         with a guide g, m(c) times clip(g_rgb(c) . rgb(frame(p)) + g_1(c), 0, 1): the mask ends where the frame's own edges are,
         finer than the crop; rgb is that of bilinear chroma at a luma sample, and of the mean of its luma at a chroma sample
replace: out(p) = round((1 - m(c)) src(p) + m(c) (M rgb(c) + offset))
round(v) = floor(v + 1/2), clipped to the codes 0..2^bits - 1. A sample outside the box or the crop's square
[-1/2, S - 1/2]^2, or with mask and warp zero, is the source's, bit for bit. Chroma is computed at its own positions.
Bytes moved: the box's planes read and written once (3 per pixel at 8 bit), 16 S^2 read.
Frames that lie on a GPU have functions of their own in `mien.kernels.gpu.composite_yuv`: many faces in one launch, in place, no guide.
"""

from __future__ import annotations

import numpy as np

from mien.kernels.color import ColorRange, Matrix, rgb_to_yuv, yuv_to_rgb
from mien.kernels.cpp import native
from mien.kernels.planes import (
    CHROMA_SHIFT_Y,
    Array,
    Box,
    Planes,
    check_affine,
    check_box,
    check_field,
    check_mask,
    check_planes,
    check_threads,
    new_planes,
    paste_box,
)
from mien.kernels.sampling import bilinear, catmull_rom


def composite_delta_yuv(
    planes: Planes,
    crop_to_frame: Array,
    delta: Array,
    mask: Array,
    warp: Array | None,
    guide: Array | None = None,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    box: Box | None = None,
    threads: int = 1,
    out: Planes | None = None,
    frame: Planes | None = None,
) -> Planes:
    """Return new planes: the source's own samples, displaced by `warp`, plus the masked difference.

    planes: Y (H, W), U and V (ceil(H/2), ceil(W/2)), uint8 at 8 bit, uint16 holding 0..1023 at 10; rows contiguous.
    crop_to_frame: (2, 3), crop pixels (u, v, 1) to luma pixels, pixel centres at integers; it may leave the frame.
    delta: (3, S, S) float32, a difference of RGB on the [-1, 1] scale. mask: (S, S) float32 in [0, 1].
    warp: (G, G, 2) float32, where to fetch each sample from, (x, y) in crop pixels relative to itself; node (i, j) lies
        at crop position ((j + 1/2) S/G - 1/2, (i + 1/2) S/G - 1/2). The mask does not act on it. None: nothing moves.
    guide: (H, H, 4) float32, gains of R, G and B on [-1, 1] and a constant, nodes as the warp's, H in 2..4096; see above.
    frame: whose colours the guide takes, where `planes` hold earlier faces of it; None: `planes`.
    box: (x0, y0, x1, y1) in luma pixels, x1 and y1 exclusive, even (or the frame's end); None: the crop's `paste_box`.
    threads: rows are shared among them; the result does not depend on it. out: planes to write into.
    Raises ValueError for a shape, type or value outside of this.
    """
    affine, box = _check(planes, crop_to_frame, mask, bit_depth, box, threads)
    size = mask.shape[0]
    delta, mask = check_field("delta", delta, (3, size, size)), check_mask(mask, size)
    if warp is not None:
        grid = warp.shape[0] if warp.ndim else 0
        if not 2 <= grid <= size:
            raise ValueError(f"warp must be (G, G, 2) with G in 2..S = {size}, got {warp.shape}")
        warp = check_field("warp", warp, (grid, grid, 2))
    if guide is not None:
        grid = guide.shape[0] if guide.ndim else 0
        if not 2 <= grid <= 4096:
            raise ValueError(f"guide must be (H, H, 4) with H in 2..4096, got {guide.shape}")
        guide = guide_of_codes(check_field("guide", guide, (grid, grid, 4)), matrix, color_range, bit_depth)
    frame = planes if frame is None else frame
    check_planes(frame, bit_depth)
    if frame[0].shape != planes[0].shape:
        raise ValueError(f"frame must be as large as planes, {planes[0].shape}, got {frame[0].shape}")
    linear, _ = rgb_to_yuv(matrix, color_range, bit_depth)
    result = new_planes(planes, out, bit_depth)
    top = 2**bit_depth - 1
    _write(planes, result, affine, delta, mask, warp, guide, frame, False, linear, np.zeros(3), box, top, threads)
    return result


def composite_replace_yuv(
    planes: Planes,
    crop_to_frame: Array,
    rgb: Array,
    mask: Array,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    box: Box | None = None,
    threads: int = 1,
    out: Planes | None = None,
) -> Planes:
    """Return new planes: `rgb` (3, S, S) float32 on [-1, 1] in the source's place where the mask says so.

    The other arguments are those of `composite_delta_yuv`. Raises ValueError as it does.
    """
    affine, box = _check(planes, crop_to_frame, mask, bit_depth, box, threads)
    size = mask.shape[0]
    rgb, mask = check_field("rgb", rgb, (3, size, size)), check_mask(mask, size)
    linear, offset = rgb_to_yuv(matrix, color_range, bit_depth)
    result = new_planes(planes, out, bit_depth)
    top = 2**bit_depth - 1
    _write(planes, result, affine, rgb, mask, None, None, planes, True, linear, offset, box, top, threads)
    return result


def guide_of_codes(guide: Array, matrix: Matrix, color_range: ColorRange, bit_depth: int) -> Array:
    """(H, H, 4) float32, gains of codes of Y, U and V and a constant, of a guide for RGB on [-1, 1]."""
    linear, offset = yuv_to_rgb(matrix, color_range, bit_depth)
    constant = guide[..., 3:] + guide[..., :3] @ offset[:, None]
    return np.ascontiguousarray(np.concatenate([guide[..., :3] @ linear, constant], 2), np.float32)


def _check(
    planes: Planes, crop_to_frame: Array, mask: Array, bit_depth: int, box: Box | None, threads: int
) -> tuple[Array, Box]:
    """Check what both compositions share; return the affine as float64 and the box."""
    check_planes(planes, bit_depth)
    check_threads(threads)
    if mask.ndim != 2 or not 2 <= mask.shape[0] <= 4096:
        raise ValueError(f"mask must be (S, S) with S in 2..4096, got {mask.shape}")
    affine = check_affine(crop_to_frame)
    return affine, check_box(box, affine, mask.shape[0], planes)


def _write(
    planes: Planes,
    result: Planes,
    affine: Array,
    field: Array,
    mask: Array,
    warp: Array | None,
    guide: Array | None,
    frame: Planes,
    is_replace: bool,
    linear: Array,
    offset: Array,
    box: Box,
    top: int,
    threads: int,
) -> None:
    """Write the box of `result`, which holds a copy of `planes`."""
    if native is None:
        _write_numpy(planes, result, affine, field, mask, warp, guide, frame, is_replace, linear, offset, box, top)
    else:
        native.composite_yuv(
            *planes, *result, *frame, affine, field, mask, warp, guide, is_replace, linear, offset, *box, top, threads
        )


def _plane_grid(channel: int, box: Box) -> tuple[slice, slice, Array, Array]:
    """Return a plane's rows and columns inside the box, and their luma positions x (columns,), y (rows, 1)."""
    step, shift = (1, 0.0) if channel == 0 else (2, CHROMA_SHIFT_Y)
    x0, y0, x1, y1 = box
    columns = slice(x0 // step, -(-x1 // step))
    rows = slice(y0 // step, -(-y1 // step))
    x = np.arange(columns.start, columns.stop, dtype=np.float64) * step
    y = np.arange(rows.start, rows.stop, dtype=np.float64) * step + shift
    return rows, columns, x, y[:, None]


def _invert(affine: Array) -> Array:
    inverse = np.linalg.inv(affine[:, :2])
    return np.concatenate([inverse, -inverse @ affine[:, 2:]], axis=1)


def _write_numpy(
    planes: Planes,
    result: Planes,
    affine: Array,
    field: Array,
    mask: Array,
    warp: Array | None,
    guide: Array | None,
    frame: Planes,
    is_replace: bool,
    linear: Array,
    offset: Array,
    box: Box,
    top: int,
) -> None:
    """Do what the C++ path does, in float32, on the samples that change only."""
    size, to_crop = mask.shape[0], _invert(affine)
    yuv = (linear.astype(np.float32) @ field.reshape(3, -1)).reshape(3, size, size)
    if is_replace:
        yuv += offset.astype(np.float32)[:, None, None]
    for channel, plane in enumerate(planes):
        rows, columns, x, y = _plane_grid(channel, box)
        cx = to_crop[0, 0] * x + (to_crop[0, 1] * y + to_crop[0, 2])
        cy = to_crop[1, 0] * x + (to_crop[1, 1] * y + to_crop[1, 2])
        is_inside = (cx >= -0.5) & (cx <= size - 0.5) & (cy >= -0.5) & (cy <= size - 0.5)
        row, column = np.nonzero(is_inside)
        cx, cy = cx[row, column], cy[row, column]
        m = bilinear(mask, cx, cy, np.float32)
        if guide is not None:
            codes = _codes_at(frame, channel, row + rows.start, column + columns.start)
            m = m * _guided(guide, size, cx, cy, codes, np.float32)
        shift = np.zeros((2, m.size), np.float32)
        if warp is not None:
            scale = warp.shape[0] / size
            gx, gy = (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5
            fetched = np.stack([bilinear(warp[..., axis], gx, gy, np.float32) for axis in (0, 1)])
            shift = affine[:, :2].astype(np.float32) @ fetched
        is_moved = (shift != 0).any(axis=0)
        is_touched = (m != 0) | is_moved
        row, column, cx, cy, m = (v[is_touched] for v in (row, column, cx, cy, m))
        shift, is_moved = shift[:, is_touched], is_moved[is_touched]
        base = plane[rows, columns][row, column].astype(np.float32)
        step, sampler = (1, catmull_rom) if channel == 0 else (2, bilinear)
        from_x = column[is_moved] + columns.start + shift[0, is_moved].astype(np.float64) / step
        from_y = row[is_moved] + rows.start + shift[1, is_moved].astype(np.float64) / step
        base[is_moved] = sampler(plane, from_x, from_y, np.float32)
        value = bilinear(yuv[channel], cx, cy, np.float32)
        code = base + m * (value - base if is_replace else value)
        result[channel][rows, columns][row, column] = np.clip(np.floor(code + np.float32(0.5)), 0, top)


def _codes_at(planes: Planes, channel: int, row: Array, column: Array) -> tuple[Array, ...]:
    """Y, U and V at samples of a plane: bilinear chroma at a luma sample, the mean of its luma at a chroma sample."""
    if channel == 0:
        at = column / 2, (row - CHROMA_SHIFT_Y) / 2
        return planes[0][row, column], bilinear(planes[1], *at), bilinear(planes[2], *at)
    height, width = planes[0].shape
    rows, columns = ((2 * at, np.minimum(2 * at + 1, end - 1)) for at, end in ((row, height), (column, width)))
    luma = sum(planes[0][r, c].astype(np.float32) for r in rows for c in columns) * np.float32(0.25)
    return luma, planes[1][row, column], planes[2][row, column]


def _guided(guide: Array, size: int, cx: Array, cy: Array, codes: tuple[Array, ...], dtype: type) -> Array:
    """The share of the mask that the guide (of codes) leaves at crop positions."""
    nodes = len(guide) / size
    gains = [bilinear(guide[..., k], (cx + 0.5) * nodes - 0.5, (cy + 0.5) * nodes - 0.5, dtype) for k in range(4)]
    share = gains[3] + sum(gain * code.astype(dtype) for gain, code in zip(gains, codes, strict=False))
    return np.asarray(np.clip(share, 0, 1), dtype)


def composite_delta_yuv_ref(
    planes: Planes,
    crop_to_frame: Array,
    delta: Array,
    mask: Array,
    warp: Array | None,
    guide: Array | None = None,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    box: Box | None = None,
    frame: Planes | None = None,
) -> Planes:
    """Define `composite_delta_yuv` in float64."""
    linear, _ = rgb_to_yuv(matrix, color_range, bit_depth)
    guide = None if guide is None else guide_of_codes(guide, matrix, color_range, bit_depth)
    top = 2**bit_depth - 1
    frame = planes if frame is None else frame
    return _composite_ref(planes, crop_to_frame, delta, mask, warp, guide, frame, False, linear, np.zeros(3), box, top)


def composite_replace_yuv_ref(
    planes: Planes,
    crop_to_frame: Array,
    rgb: Array,
    mask: Array,
    *,
    matrix: Matrix,
    color_range: ColorRange,
    bit_depth: int,
    box: Box | None = None,
) -> Planes:
    """Define `composite_replace_yuv` in float64."""
    linear, offset = rgb_to_yuv(matrix, color_range, bit_depth)
    top = 2**bit_depth - 1
    return _composite_ref(planes, crop_to_frame, rgb, mask, None, None, planes, True, linear, offset, box, top)


def _composite_ref(
    planes: Planes,
    crop_to_frame: Array,
    field: Array,
    mask: Array,
    warp: Array | None,
    guide: Array | None,
    frame: Planes,
    is_replace: bool,
    linear: Array,
    offset: Array,
    box: Box | None,
    top: int,
) -> Planes:
    """Evaluate the formulas of this file's docstring at every sample of the box."""
    height, width = planes[0].shape
    size, to_crop = mask.shape[0], _invert(np.asarray(crop_to_frame, np.float64))
    box = paste_box(crop_to_frame, size, width, height) if box is None else box
    results = []
    for channel, plane in enumerate(planes):
        rows, columns, x, y = _plane_grid(channel, box)
        x, y = np.broadcast_arrays(x, y)
        cx, cy = np.einsum("ij,jvu->ivu", to_crop, np.stack([x, y, np.ones_like(x)]))
        m = bilinear(mask, cx, cy)
        if guide is not None:
            at = np.mgrid[rows, columns]
            m = m * _guided(guide, size, cx, cy, _codes_at(frame, channel, *at), np.float64)
        wx, wy = np.zeros_like(cx), np.zeros_like(cy)
        if warp is not None:
            nodes = warp.shape[0] / size
            wx, wy = (bilinear(warp[..., axis], (cx + 0.5) * nodes - 0.5, (cy + 0.5) * nodes - 0.5) for axis in (0, 1))
        from_x = x + crop_to_frame[0, 0] * wx + crop_to_frame[0, 1] * wy
        from_y = y + crop_to_frame[1, 0] * wx + crop_to_frame[1, 1] * wy
        if channel == 0:
            source = catmull_rom(plane, from_x, from_y)
        else:
            source = bilinear(plane, from_x / 2, (from_y - CHROMA_SHIFT_Y) / 2)
        r, g, b = (bilinear(field[axis], cx, cy) for axis in range(3))
        value = linear[channel, 0] * r + linear[channel, 1] * g + linear[channel, 2] * b + offset[channel]
        code = (1 - m) * source + m * value if is_replace else source + m * value
        is_inside = (np.abs(cx - (size - 1) / 2) <= size / 2) & (np.abs(cy - (size - 1) / 2) <= size / 2)
        is_touched = is_inside & ((m != 0) | (wx != 0) | (wy != 0))
        result = plane.copy()
        result[rows, columns][is_touched] = np.clip(np.floor(code + 0.5), 0, top)[is_touched]
        results.append(result)
    return results[0], results[1], results[2]
