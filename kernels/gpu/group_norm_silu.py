"""`group_norm_silu` in Triton: one launch where a program reads a whole group, else two, with sums of chunks of pixels between them.

Sums are of values less the group's first, so that a mean far above the deviation costs no digits. No atomics: the order of every sum
depends on the shape of one row alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.gpu.pixels import pixel_strides
from mien.kernels.gpu.specialisation import Specialisation

GROUP_ELEMENTS = 32768  # up to here one program reads its group in about the time of a second launch (an estimate)
GROUP_TILE, SPLIT_TILE, WARP_TILE = 16384, 8192, 1024  # elements; of a warp 32 to each thread


@triton.jit
def _lift(x, shift, c, known, x_channel, GROUP: tl.constexpr):
    """What turns the values of each channel into distances from its group's first value: the shift less that value."""
    first = c // GROUP * GROUP
    lift = -tl.load(x + first * x_channel, known, 0.0).to(tl.float32)
    if shift is not None:
        lift += tl.load(shift + c, known, 0.0).to(tl.float32) - tl.load(shift + first, known, 0.0).to(tl.float32)
    return lift


@triton.jit
def _sums(x, lift, start, end, c, known, x_channel, x_pixel, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums of the distances of pixels start..end, and of their squares, (BLOCK_C,) each."""
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for begin in range(start, end, BLOCK_P):
        p = begin + tl.arange(0, BLOCK_P)
        inside = (p < end)[:, None] & known[None, :]
        tile = tl.load(x + p[:, None] * x_pixel + c[None, :] * x_channel, inside, 0.0).to(tl.float32)
        tile = tl.where(inside, tile + lift[None, :], 0.0)
        total += tile
        squares += tile * tile
    return tl.sum(total, 0), tl.sum(squares, 0)


@triton.jit
def _write(
    x, out, p, c, inside, x_channel, x_pixel, centre, scale, offset, CHANNELS: tl.constexpr, SILU: tl.constexpr
):  # fmt: skip
    """One tile of the answer."""
    tile = tl.load(x + p[:, None] * x_pixel + c[None, :] * x_channel, inside, 0.0).to(tl.float32)
    y = (tile + centre[None, :]) * scale[None, :] + offset[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + p[:, None] * CHANNELS + c[None, :], y.to(out.dtype.element_ty), inside)


@triton.jit
def _group_kernel(
    x, shift, weight, bias, out, n_pixels, x_row, x_channel, x_pixel, shift_row, eps,
    CHANNELS: tl.constexpr, GROUP: tl.constexpr, SILU: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program normalises one group of one row, which it reads twice. Grid (groups, rows)."""
    row = tl.program_id(1).to(tl.int64)
    x += row * x_row
    out += row * n_pixels * CHANNELS
    if shift is not None:
        shift += row * shift_row
    c = tl.program_id(0) * GROUP + tl.arange(0, BLOCK_C)
    known = tl.arange(0, BLOCK_C) < GROUP
    lift = _lift(x, shift, c, known, x_channel, GROUP)
    total, squares = _sums(x, lift, 0, n_pixels, c, known, x_channel, x_pixel, BLOCK_P, BLOCK_C)
    mean = tl.sum(total, 0) / (n_pixels * GROUP)
    variance = tl.sum(squares, 0) / (n_pixels * GROUP) - mean * mean
    scale = tl.load(weight + c, known, 0.0).to(tl.float32) / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    offset = tl.load(bias + c, known, 0.0).to(tl.float32)
    for begin in range(0, n_pixels, BLOCK_P):
        p = begin + tl.arange(0, BLOCK_P)
        inside = (p < n_pixels)[:, None] & known[None, :]
        _write(x, out, p, c, inside, x_channel, x_pixel, lift - mean, scale, offset, CHANNELS, SILU)


@triton.jit
def _sums_kernel(
    x, shift, sums, n_pixels, chunk_pixels, x_row, x_channel, x_pixel, shift_row,
    CHANNELS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program sums a chunk of pixels of as many groups as fit. Grid (chunks, blocks, rows) -> sums (rows, 2, chunks, groups)."""
    HELD: tl.constexpr = BLOCK_C // GROUP
    GROUPS: tl.constexpr = CHANNELS // GROUP
    chunk, n_chunks = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(2).to(tl.int64)
    x += row * x_row
    if shift is not None:
        shift += row * shift_row
    local = tl.arange(0, BLOCK_C)
    c = tl.program_id(1) * (HELD * GROUP) + local
    known = (local < HELD * GROUP) & (c < CHANNELS)
    lift = _lift(x, shift, c, known, x_channel, GROUP)
    start = chunk * chunk_pixels
    end = tl.minimum(start + chunk_pixels, n_pixels)
    total, squares = _sums(x, lift, start, end, c, known, x_channel, x_pixel, BLOCK_P, BLOCK_C)
    g = tl.arange(0, BLOCK_G)
    member = (local // GROUP)[:, None] == g[None, :]
    group = tl.program_id(1) * HELD + g
    held = (g < HELD) & (group < GROUPS)
    sums += (row * 2 * n_chunks + chunk) * GROUPS + group
    tl.store(sums, tl.sum(tl.where(member, total[:, None], 0.0), 0), held)
    tl.store(sums + n_chunks * GROUPS, tl.sum(tl.where(member, squares[:, None], 0.0), 0), held)


@triton.jit
def _write_kernel(
    x, shift, weight, bias, sums, out, n_pixels, n_chunks, x_row, x_channel, x_pixel, shift_row, eps,
    CHANNELS: tl.constexpr, GROUP: tl.constexpr, SILU: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A program adds up the chunks of as many groups as fit and writes one tile of theirs. Grid (tiles, blocks, rows)."""
    HELD: tl.constexpr = BLOCK_C // GROUP
    GROUPS: tl.constexpr = CHANNELS // GROUP
    row = tl.program_id(2).to(tl.int64)
    x += row * x_row
    out += row * n_pixels * CHANNELS
    if shift is not None:
        shift += row * shift_row
    g, chunk = tl.arange(0, BLOCK_G), tl.arange(0, CHUNKS)
    group = tl.program_id(1) * HELD + g
    held = (chunk < n_chunks)[:, None] & ((g < HELD) & (group < GROUPS))[None, :]
    sums += (row * 2 * n_chunks + chunk)[:, None] * GROUPS + group[None, :]
    mean_g = tl.sum(tl.load(sums, held, 0.0), 0) / (n_pixels * GROUP)
    variance_g = tl.sum(tl.load(sums + n_chunks * GROUPS, held, 0.0), 0) / (n_pixels * GROUP) - mean_g * mean_g
    rstd_g = 1.0 / tl.sqrt(tl.maximum(variance_g, 0.0) + eps)
    local = tl.arange(0, BLOCK_C)
    member = (local // GROUP)[:, None] == g[None, :]
    mean = tl.sum(tl.where(member, mean_g[None, :], 0.0), 1)
    rstd = tl.sum(tl.where(member, rstd_g[None, :], 0.0), 1)
    c = tl.program_id(1) * (HELD * GROUP) + local
    known = (local < HELD * GROUP) & (c < CHANNELS)
    lift = _lift(x, shift, c, known, x_channel, GROUP)
    scale = tl.load(weight + c, known, 0.0).to(tl.float32) * rstd
    offset = tl.load(bias + c, known, 0.0).to(tl.float32)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (p < n_pixels)[:, None] & known[None, :]
    _write(x, out, p, c, inside, x_channel, x_pixel, lift - mean, scale, offset, CHANNELS, SILU)


def group_norm_silu(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    shift: Tensor | None = None,
    silu: bool = True,
    out: Tensor | None = None,
    workspace: Tensor | None = None,
) -> Tensor:
    """x (B, C, H, W) of any strides -> channels last, in its type; sums in float32. Fastest where x is channels last too.

    weight, bias: (C,). shift: (B, C), rows of any stride. out: like the answer, and no part of x. workspace: float32,
    `workspace_size` elements or more, of this stream alone. With both nothing is allocated, unless the rows of pixels of x do
    not follow each other. Raises ValueError for a shape, type or stride outside of this.
    """
    _check(x, num_groups, weight, bias, shift)
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last)
    elif out.shape != x.shape or out.dtype != x.dtype or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"out must be channels-last {x.dtype} {tuple(x.shape)}, got {out.dtype} {tuple(out.shape)} of strides {out.stride()}"
        )
    if not x.numel():
        return out
    x, strides = pixel_strides(x)
    rows, channels, n_pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    group = channels // num_groups
    steps = (*strides, 0 if shift is None else shift.stride(0))
    if _is_one_launch(n_pixels, group):
        form, num_warps = _group_form(channels, group, n_pixels)
        _group_kernel[num_groups, rows](
            x, shift, weight, bias, out, n_pixels, *steps, eps, SILU=silu, **form, num_warps=num_warps
        )  # fmt: skip
        return out
    needed = workspace_size(x, num_groups)
    if workspace is None:
        workspace = torch.empty(needed, dtype=torch.float32, device=x.device)
    elif workspace.dtype != torch.float32 or workspace.numel() < needed or not workspace.is_contiguous():
        raise ValueError(f"workspace must be {needed} float32 or more, got {workspace.numel()} {workspace.dtype}")
    form, num_warps = _split_form(channels, group)
    n_chunks, chunk_pixels = _chunks(n_pixels, form["BLOCK_P"])
    blocks = triton.cdiv(num_groups, form["BLOCK_C"] // group)
    _sums_kernel[n_chunks, blocks, rows](
        x, shift, workspace, n_pixels, chunk_pixels, *steps, **form, num_warps=num_warps
    )  # fmt: skip
    _write_kernel[triton.cdiv(n_pixels, form["BLOCK_P"]), blocks, rows](
        x, shift, weight, bias, workspace, out, n_pixels, n_chunks, *steps, eps,
        SILU=silu, CHUNKS=_most_chunks(n_pixels), **form, num_warps=num_warps,
    )  # fmt: skip
    return out


def workspace_size(x: Tensor, num_groups: int) -> int:
    """How many float32 numbers the call for x (B, C, H, W) needs beside `out`; 0 where one launch does."""
    n_pixels, group = x.shape[2] * x.shape[3], x.shape[1] // num_groups
    if _is_one_launch(n_pixels, group):
        return 0
    n_chunks, _ = _chunks(n_pixels, _split_form(x.shape[1], group)[0]["BLOCK_P"])
    return 2 * len(x) * n_chunks * num_groups


def _is_one_launch(n_pixels: int, group: int) -> bool:
    return n_pixels * group <= GROUP_ELEMENTS


def _group_form(channels: int, group: int, n_pixels: int) -> tuple[dict[str, int], int]:
    """Constants of the one launch, and its warps."""
    block = triton.next_power_of_2(group)
    pixels = max(min(GROUP_TILE // block, triton.next_power_of_2(n_pixels)), 1)
    return {"CHANNELS": channels, "GROUP": group, "BLOCK_P": pixels, "BLOCK_C": block}, _num_warps(pixels * block)


def _split_form(channels: int, group: int) -> tuple[dict[str, int], int]:
    """Of the two launches. Whole groups side by side: at Stable Diffusion's widths 120 of 128 channels or more, 80 of 2,560's."""
    block = max(triton.next_power_of_2(group), 128)
    pixels, held = max(SPLIT_TILE // block, 1), triton.next_power_of_2(block // group)
    return {"CHANNELS": channels, "GROUP": group, "BLOCK_G": held, "BLOCK_P": pixels, "BLOCK_C": block}, _num_warps(
        pixels * block
    )


def _num_warps(elements: int) -> int:
    return max(min(elements // WARP_TILE, 16), 1)


def _most_chunks(n_pixels: int) -> int:
    return 32 if n_pixels <= 16384 else 128


def _chunks(n_pixels: int, tile_pixels: int) -> tuple[int, int]:
    """How many chunks, and pixels of each but the last: whole tiles, whatever the number of rows."""
    pixels = triton.cdiv(triton.cdiv(n_pixels, _most_chunks(n_pixels)), tile_pixels) * tile_pixels
    return triton.cdiv(n_pixels, pixels), pixels


def _check(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, shift: Tensor | None) -> None:
    if x.dim() != 4 or not x.is_floating_point() or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"x must be floating point (B, C, H, W), C a multiple of {num_groups}, got {x.dtype} {tuple(x.shape)}"
        )
    for name, tensor, shape in (
        ("weight", weight, x.shape[1:2]),
        ("bias", bias, x.shape[1:2]),
        ("shift", shift, x.shape[:2]),
    ):
        if tensor is not None and (tensor.shape != shape or tensor.stride(-1) != 1 or tensor.device != x.device):
            raise ValueError(
                f"{name} must be {tuple(shape)} on {x.device}, channels one after another, got {tuple(tensor.shape)} of strides"
                f" {tensor.stride()} on {tensor.device}"
            )


def _specialisation(
    kernel: Any, channels: int, side: int, shift: bool = False, silu: bool = True, dtype: str = "fp16"
) -> Specialisation:
    """One of SD1.5's forms, for channels-last x of side x side pixels."""
    group = channels // 32
    form, num_warps = (
        _group_form(channels, group, side * side) if kernel is _group_kernel else _split_form(channels, group)
    )
    given = {**form, "x_channel": 1, "SILU": silu, "CHUNKS": 32, **({} if shift else {"shift": None, "shift_row": 0})}
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    pointers = dict.fromkeys(("x", "shift", "weight", "bias", "out"), f"*{dtype}")
    kinds = {**pointers, "sums": "*fp32", "eps": "fp32"}
    types = {name: kinds.get(name, "i32") for name in kernel.arg_names if name not in constants}
    words = ("shift" if shift else "", "silu" if constants.get("SILU") else "")
    label = " ".join(filter(None, (kernel.__name__.split("_")[1], f"C{channels} {side}x{side}", *words, dtype)))
    divisible = tuple(name for name in types if name not in ("eps", "n_chunks"))
    return Specialisation(kernel, label, types, constants, divisible, num_warps)


_ONE_LAUNCH = ((320, 32), (640, 32), (960, 32), (640, 16), (1280, 16), (1920, 16), (2560, 16), (1280, 8), (2560, 8))
_TWO_LAUNCHES = ((320, 64), (640, 64), (960, 64), (1280, 32), (1920, 32))
# Every first norm of a residual block at 512 pixels, the second norms, which have a shift, and those of the transformers.
SPECIALISATIONS = (
    *(_specialisation(_group_kernel, *size) for size in _ONE_LAUNCH),
    *(_specialisation(_group_kernel, *size, shift=True) for size in ((640, 32), (1280, 16), (1280, 8))),
    *(_specialisation(_group_kernel, *size, silu=False) for size in ((640, 32), (1280, 16), (1280, 8))),
    _specialisation(_group_kernel, 1280, 16, shift=True, dtype="bf16"),
    *(_specialisation(_sums_kernel, *size) for size in _TWO_LAUNCHES),
    *(_specialisation(_write_kernel, *size) for size in _TWO_LAUNCHES),
    *(_specialisation(kernel, 320, 64, shift=True) for kernel in (_sums_kernel, _write_kernel)),
    *(_specialisation(kernel, 320, 64, shift=True, dtype="bf16") for kernel in (_sums_kernel, _write_kernel)),
    _specialisation(_write_kernel, 320, 64, silu=False),
)
