"""A strip of a tile of `composite_yuv`: what one face does to a few rows of one plane, or of the two of chroma, inside a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from mien.kernels.gpu.sampling import blend_codes, blend_floats, catmull_rom, clamp, neighbours


@triton.jit
def _fetch(
    plane, i, j, shift_x, shift_y, is_moved, sample, width, height, pitch,
    STEP: tl.constexpr, PIXEL: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Codes displaced where `is_moved`, by Catmull-Rom in luma and bilinear in chroma; `sample` elsewhere."""
    x, y = i + tl.floor(shift_x).to(tl.int32), j + tl.floor(shift_y).to(tl.int32)
    fx, fy = shift_x - tl.floor(shift_x), shift_y - tl.floor(shift_y)
    # Which taps there are: 0 none, 1 inside the plane, 2 some beyond it.
    is_inside = (x >= 1) & (x <= width - 3) & (y >= 1) & (y <= height - 3)
    kind = tl.max(tl.where(is_moved, tl.where(is_inside, 1, 2), 0))
    if kind > 0:
        inner_fx = tl.where((x < 0) | (x >= width - 1), 0.0, fx)
        inner_fy = tl.where((y < 0) | (y >= height - 1), 0.0, fy)
        if STEP == 2:
            near, far = clamp(x, width) * PIXEL, clamp(x + 1, width) * PIXEL
            corner, below = plane + clamp(y, height) * pitch, plane + clamp(y + 1, height) * pitch
            fetched = blend_codes(corner + near, corner + far, below + near, below + far, inner_fx, inner_fy)
        else:
            if kind == 1:
                x, y = tl.where(is_inside, x, 1), tl.where(is_inside, y, 1)
                fetched = catmull_rom(plane, x, y, fx, fy, width, height, pitch, True)
            else:
                x, y = clamp(x, width), clamp(y, height)
                fetched = catmull_rom(plane, x, y, inner_fx, inner_fy, width, height, pitch, False)
        sample = tl.where(is_moved, fetched * UNIT, sample)
    return sample


@triton.jit
def _mix(base, value, mask, IS_REPLACE: tl.constexpr, TOP: tl.constexpr):
    """The code that a sample gets."""
    if IS_REPLACE:
        value -= base
    return tl.minimum(tl.maximum(base + mask * value + 0.5, 0.0), TOP + 0.5).to(tl.int32)


@triton.jit
def composite_strip(
    plane, second, pitch, source, source_second, source_pitch, plane_width, plane_height,
    rgb, mask, warp, frames, boxes, frame, face, last, x_low, y_low, x_high, y_high, x_strip, y_strip, away_x, away_y,
    a, b, d, e, u_x, u_y, v_x, v_y, u, v, is_first, p_r, p_g, p_b, p_0, q_r, q_g, q_b, q_0,
    SIZE: tl.constexpr, GRID: tl.constexpr, IS_REPLACE: tl.constexpr, RGB_C: tl.constexpr, RGB_V: tl.constexpr,
    RGB_U: tl.constexpr, PIXEL: tl.constexpr, SHIFT: tl.constexpr, TOP: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS samples of luma (STEP 1), or of both planes of chroma (STEP 2), from luma column x_strip and row y_strip on.

    away: from the whole crop position (u, v) to the first of them, in frame pixels. p, q: codes of each plane from R, G, B and 1.
    """
    UNIT: tl.constexpr = 1.0 / (1 << SHIFT)
    # In one dimension: of two, some versions of Triton spread a warp over columns first, and its loads over many lines of the cache.
    cell = tl.arange(0, ROWS * COLUMNS)
    column, row = cell % COLUMNS, cell // COLUMNS
    x, y = x_strip + column * STEP, y_strip + row * STEP
    dx, dy = (column * STEP).to(tl.float32) + away_x, (row * STEP).to(tl.float32) + away_y
    cx, cy = u_x * dx + u_y * dy, v_x * dx + v_y * dy
    known = (x >= x_low) & (x < x_high) & (y >= y_low) & (y < y_high)
    known = known & (cx >= -0.5 - u) & (cx <= SIZE - 0.5 - u) & (cy >= -0.5 - v) & (cy <= SIZE - 0.5 - v)
    for other in range(face + 1, last + 1):
        if tl.load(frames + other) == frame:
            box = boxes + 4 * other
            is_theirs = (x >= tl.load(box)) & (x < tl.load(box + 2)) & (y >= tl.load(box + 1)) & (y < tl.load(box + 3))
            known = known & (is_theirs == 0)
    left, fx = neighbours(cx, -u, SIZE - 1.0 - u)
    top, fy = neighbours(cy, -v, SIZE - 1.0 - v)
    m = blend_floats(mask + (top * SIZE + left), fx, fy, 1, SIZE)
    is_touched = known & (m != 0.0)
    if GRID > 0:
        node_x, gx = neighbours((cx + (u + 0.5)) * (GRID / SIZE) - 0.5, 0.0, GRID - 1.0)
        node_y, gy = neighbours((cy + (v + 0.5)) * (GRID / SIZE) - 0.5, 0.0, GRID - 1.0)
        node = warp + 2 * (node_y * GRID + node_x)
        wx, wy = blend_floats(node, gx, gy, 2, 2 * GRID), blend_floats(node + 1, gx, gy, 2, 2 * GRID)
        shift_x, shift_y = (a * wx + b * wy) * (1.0 / STEP), (d * wx + e * wy) * (1.0 / STEP)
        is_moved = known & ((shift_x != 0.0) | (shift_y != 0.0))
        is_touched = is_touched | is_moved
    if tl.max(is_touched.to(tl.int32)) > 0:
        i, j = x_strip // STEP + column, y_strip // STEP + row
        at = j * pitch + i * PIXEL
        sample = tl.load(plane + at, is_touched, 0).to(tl.int32).to(tl.float32) * UNIT
        if STEP == 2:
            sample_second = tl.load(second + at, is_touched, 0).to(tl.int32).to(tl.float32) * UNIT
        if GRID > 0:
            at_source = j * source_pitch + i * PIXEL
            theirs = sample
            sample = _fetch(
                source, i, j, shift_x, shift_y, is_moved, sample, plane_width, plane_height, source_pitch, STEP, PIXEL, UNIT
            )  # fmt: skip
            if is_first == 0:
                before = tl.load(source + at_source, is_moved, 0).to(tl.int32).to(tl.float32) * UNIT
                sample += tl.where(is_moved, theirs - before, 0.0)
            if STEP == 2:
                theirs = sample_second
                sample_second = _fetch(
                    source_second, i, j, shift_x, shift_y, is_moved, sample_second, plane_width, plane_height, source_pitch,
                    STEP, PIXEL, UNIT,
                )  # fmt: skip
                if is_first == 0:
                    before = tl.load(source_second + at_source, is_moved, 0).to(tl.int32).to(tl.float32) * UNIT
                    sample_second += tl.where(is_moved, theirs - before, 0.0)
        corner = rgb + (top * RGB_V + left * RGB_U)
        red = blend_floats(corner, fx, fy, RGB_U, RGB_V)
        green = blend_floats(corner + RGB_C, fx, fy, RGB_U, RGB_V)
        blue = blend_floats(corner + 2 * RGB_C, fx, fy, RGB_U, RGB_V)
        code = _mix(sample, p_r * red + p_g * green + p_b * blue + p_0, m, IS_REPLACE, TOP)
        tl.store(plane + at, (code << SHIFT).to(plane.dtype.element_ty), is_touched)
        if STEP == 2:
            code = _mix(sample_second, q_r * red + q_g * green + q_b * blue + q_0, m, IS_REPLACE, TOP)
            tl.store(second + at, (code << SHIFT).to(second.dtype.element_ty), is_touched)
