"""Positions and samples of planes inside a Triton kernel; the definitions are those of kernels/sampling.py.

float32 keeps 1/4000 of a pixel at column 2048. So every position is a whole number, one for a tile, and a float32 part that is
small: it stays within 1e-5 of a pixel of the exact one anywhere in an 8K frame.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(a, b, c, u, v):
    """Whole numbers and part of the scalar a u + b v + c for whole u and v up to 4096: a and b in halves whose products are exact."""
    a_high = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    b_high = (b.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    au, bv = a_high * u, b_high * v
    whole = tl.floor(au) + tl.floor(bv) + tl.floor(c)
    part = (au - tl.floor(au)) + (bv - tl.floor(bv)) + (c - tl.floor(c)) + ((a - a_high) * u + (b - b_high) * v)
    return whole, part


@triton.jit
def least(along, across, middle_x, middle_y, WIDTH: tl.constexpr, HEIGHT: tl.constexpr):
    """A whole number below along x + across y for every (x, y) of a tile about its middle; within 2^20, whatever these are."""
    value = along * middle_x + across * middle_y - tl.abs(along) * (WIDTH / 2) - tl.abs(across) * (HEIGHT / 2)
    return tl.minimum(tl.maximum(tl.floor(value - 1.0), -1048576.0), 1048576.0)


@triton.jit
def clamp(index, length):
    """An index within 0..length - 1."""
    return tl.minimum(tl.maximum(index, 0), length - 1)


@triton.jit
def neighbours(position, start, end):
    """The left one of the two samples about a position clamped to start..end, whole numbers, and the fraction.

    A position is clamped to 0 or more, or else to a whole number.
    """
    position = tl.minimum(tl.maximum(position, start), end)
    left = tl.minimum(position.to(tl.int32), tl.cast(end, tl.int32) - 1)
    return left, position - left.to(tl.float32)


@triton.jit
def blend_floats(corner, fx, fy, RIGHT: tl.constexpr, BELOW: tl.constexpr):
    """Bilinear mean of the floats at `corner` and at its neighbours, whose distances are constants."""
    near, far = tl.load(corner).to(tl.float32), tl.load(corner + RIGHT).to(tl.float32)
    top = near + fx * (far - near)
    near, far = tl.load(corner + BELOW).to(tl.float32), tl.load(corner + (BELOW + RIGHT)).to(tl.float32)
    return top + fy * (near + fx * (far - near) - top)


@triton.jit
def blend_codes(corner, right, below, below_right, fx, fy):
    """Bilinear mean of the whole numbers, below 2^23, at four pointers.

    They become float32 as the low bits of 2^23, which costs what any logic does; a GPU converts at an eighth of that rate.
    """
    near = (tl.load(corner).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    far = (tl.load(right).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    top = (near - 8388608.0) + fx * (far - near)
    near = (tl.load(below).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    far = (tl.load(below_right).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    return top + fy * ((near - 8388608.0) + fx * (far - near) - top)


@triton.jit
def catmull_rom_weights(t):
    """Of the taps -1, 0, 1, 2."""
    t2, t3 = t * t, t * t * t
    return t2 - 0.5 * (t + t3), 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * (t3 - t2)


@triton.jit
def _along(row, x_0, x_1, x_2, x_3, w_0, w_1, w_2, w_3):
    """Weighted sum of four whole numbers of a row."""
    total = w_0 * tl.load(row + x_0).to(tl.int32).to(tl.float32)
    total += w_1 * tl.load(row + x_1).to(tl.int32).to(tl.float32)
    total += w_2 * tl.load(row + x_2).to(tl.int32).to(tl.float32)
    return total + w_3 * tl.load(row + x_3).to(tl.int32).to(tl.float32)


@triton.jit
def catmull_rom(plane, x, y, fx, fy, width, height, pitch, IS_INSIDE: tl.constexpr):
    """Samples at (x + fx, y + fy) with 4 x 4 taps; x and y within the plane. IS_INSIDE: so are all taps."""
    w_0, w_1, w_2, w_3 = catmull_rom_weights(fx)
    v_0, v_1, v_2, v_3 = catmull_rom_weights(fy)
    if IS_INSIDE:
        row_1 = plane + (y * pitch + x)
        row_0, row_2 = row_1 - pitch, row_1 + pitch
        row_3 = row_2 + pitch
        x_0, x_1, x_2, x_3 = -1, 0, 1, 2
    else:
        row_0, row_1 = plane + clamp(y - 1, height) * pitch, plane + y * pitch
        row_2, row_3 = plane + clamp(y + 1, height) * pitch, plane + clamp(y + 2, height) * pitch
        x_0, x_1, x_2, x_3 = clamp(x - 1, width), x, clamp(x + 1, width), clamp(x + 2, width)
    total = v_0 * _along(row_0, x_0, x_1, x_2, x_3, w_0, w_1, w_2, w_3)
    total += v_1 * _along(row_1, x_0, x_1, x_2, x_3, w_0, w_1, w_2, w_3)
    total += v_2 * _along(row_2, x_0, x_1, x_2, x_3, w_0, w_1, w_2, w_3)
    total += v_3 * _along(row_3, x_0, x_1, x_2, x_3, w_0, w_1, w_2, w_3)
    return total
