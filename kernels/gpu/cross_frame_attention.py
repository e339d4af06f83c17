"""`cross_frame_attention` in Triton: one pass over the keys of all segments with a running softmax (Dao 2023, FlashAttention-2).

One loop walks the blocks of all segments, so that loads run ahead across their borders. Logits are in units of log 2, the weight of the
own tokens is a constant of a block. Only the last block of a segment is masked, and none where every segment is whole blocks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.gpu.attention_tiles import TILES, Tile, choose, parts
from mien.kernels.gpu.specialisation import Specialisation

_ANY_VALUE = ["n_queries", "length0", "length1", "length2"]


@triton.jit
def _tile(base, rows, columns, row_stride, n_rows, DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load rows by columns, in either order; ROWS, COLUMNS: whether there may be some beyond n_rows and DIM, which are 0."""
    at = base + rows * row_stride + columns
    if ROWS and COLUMNS:
        tile = tl.load(at, mask=(rows < n_rows) & (columns < DIM), other=0.0)
    elif ROWS:
        tile = tl.load(at, mask=rows < n_rows, other=0.0)
    elif COLUMNS:
        tile = tl.load(at, mask=columns < DIM, other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit(do_not_specialize=_ANY_VALUE)
def _cross_frame_attention_kernel(
    out,
    query,
    key0,
    value0,
    key1,
    value1,
    key2,
    value2,
    lengths0,
    lengths1,
    lengths2,
    own_weight,
    n_queries,
    length0,
    length1,
    length2,
    out_batch,
    out_row,
    query_batch,
    query_row,
    batch0,
    row0,
    batch1,
    row1,
    batch2,
    row2,
    SCALE: tl.constexpr,  # of logits in units of log 2
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WHOLE: tl.constexpr,  # whether every segment of every row is whole blocks
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A program attends from BLOCK_M queries of one head of one row. Grid (blocks of queries, B x heads)."""
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    channel = tl.program_id(1) % HEADS * DIM
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.arange(0, BLOCK_N)
    main = tl.arange(0, MAIN)
    query += batch * query_batch + channel
    q = _tile(query, rows, main[None, :], query_row, n_queries, DIM, True, MAIN > DIM)
    acc = tl.zeros([BLOCK_M, MAIN], tl.float32)
    if REST:
        rest = MAIN + tl.arange(0, REST)
        q_rest = _tile(query, rows, rest[None, :], query_row, n_queries, DIM, True, MAIN + REST > DIM)
        acc_rest = tl.zeros([BLOCK_M, REST], tl.float32)

    if lengths0 is not None:
        length0 = tl.minimum(tl.maximum(tl.load(lengths0 + batch), 0), length0)
    key0 += batch * batch0 + channel
    value0 += batch * batch0 + channel
    own_bias = 0.0
    if SEGMENTS > 1:
        if lengths1 is not None:
            length1 = tl.minimum(tl.maximum(tl.load(lengths1 + batch), 0), length1)
        key1 += batch * batch1 + channel
        value1 += batch * batch1 + channel
    if SEGMENTS > 2:
        if lengths2 is not None:
            length2 = tl.minimum(tl.maximum(tl.load(lengths2 + batch), 0), length2)
        key2 += batch * batch2 + channel
        value2 += batch * batch2 + channel
    if own_weight is not None:
        others = length1
        if SEGMENTS > 2:
            others += length2
        weight = tl.load(own_weight + batch).to(tl.float32)
        length0 = tl.where((others > 0) & (weight == 0.0), 0, length0)
        own_bias = tl.where(others > 0, tl.log2(tl.where(weight == 0.0, 1.0, weight)), 0.0)

    end0 = tl.cdiv(length0, BLOCK_N)
    end = end0
    if SEGMENTS > 1:
        end1 = end0 + tl.cdiv(length1, BLOCK_N)
        end = end1
    if SEGMENTS > 2:
        end = end1 + tl.cdiv(length2, BLOCK_N)
    largest = tl.full([BLOCK_M], -1e30, tl.float32)  # finite, so that a block of nothing leaves it and the sums alone
    total = tl.zeros([BLOCK_M], tl.float32)
    for block in tl.range(0, end):
        key, value, row, first, length, bias = key0, value0, row0, block * BLOCK_N, length0, own_bias
        if SEGMENTS > 1:
            second = block >= end0
            key, value = tl.where(second, key1, key), tl.where(second, value1, value)
            row, length = tl.where(second, row1, row), tl.where(second, length1, length)
            first = tl.where(second, (block - end0) * BLOCK_N, first)
            bias = tl.where(second, 0.0, bias)
        if SEGMENTS > 2:
            third = block >= end1
            key, value = tl.where(third, key2, key), tl.where(third, value2, value)
            row, length = tl.where(third, row2, row), tl.where(third, length2, length)
            first = tl.where(third, (block - end1) * BLOCK_N, first)
        start = row.to(tl.int64) * first
        key += start
        value += start
        here = length - first
        k = _tile(key, n[None, :], main[:, None], row, here, DIM, not WHOLE, MAIN > DIM)
        v = _tile(value, n[:, None], main[None, :], row, here, DIM, not WHOLE, MAIN > DIM)
        logits = tl.dot(q, k)
        if REST:
            k_rest = _tile(key, n[None, :], rest[:, None], row, here, DIM, not WHOLE, MAIN + REST > DIM)
            v_rest = _tile(value, n[:, None], rest[None, :], row, here, DIM, not WHOLE, MAIN + REST > DIM)
            logits = tl.dot(q_rest, k_rest, logits)
        if not WHOLE:
            if here < BLOCK_N:
                logits = tl.where(n[None, :] < here, logits, -float("inf"))
        peak = tl.maximum(largest, tl.max(logits, 1) * SCALE + bias)
        p = tl.math.exp2(tl.fma(logits, SCALE, (bias - peak)[:, None]))
        fade = tl.math.exp2(largest - peak)
        total = total * fade + tl.sum(p, 1)
        largest = peak
        p = p.to(v.dtype)
        acc = tl.dot(p, v, acc * fade[:, None])
        if REST:
            acc_rest = tl.dot(p, v_rest, acc_rest * fade[:, None])

    share = 1.0 / tl.where(total == 0.0, 1.0, total)[:, None]
    out += batch * out_batch + channel
    at = out + rows * out_row + main[None, :]
    tl.store(at, (acc * share).to(out.dtype.element_ty), mask=(rows < n_queries) & (main[None, :] < DIM))
    if REST:
        at = out + rows * out_row + rest[None, :]
        tl.store(at, (acc_rest * share).to(out.dtype.element_ty), mask=(rows < n_queries) & (rest[None, :] < DIM))


def cross_frame_attention(
    query: Tensor,
    segments: Sequence[tuple[Tensor, Tensor]],
    num_heads: int,
    *,
    lengths: Sequence[Tensor | None] | None = None,
    own_weight: Tensor | None = None,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Launch the kernel; see `mien.kernels.cross_frame_attention`. tile: another one than `choose` picks, for timing it.

    Keys and values of a segment that differ in strides are copied; else, with `out`, nothing is allocated. A CUDA graph can
    capture a launch whose like, which compiles, went before it. Raises ValueError for a shape, type or layout outside of this.
    """
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device) if out is None else out
    for tensor in (query, out, *(tensor for pair in segments for tensor in pair)):
        if tensor.stride(2) != 1:
            raise ValueError(
                f"channels must be contiguous, got strides {tensor.stride()} of a tensor {tuple(tensor.shape)}"
            )
    own, *others = zip(segments, lengths or [None] * len(segments), strict=True)
    seen = [own, *((pair, length) for pair, length in others if pair[0].shape[1])]
    own_weight = None if len(seen) == 1 else own_weight
    batch, n_queries, channels = query.shape
    dim = channels // num_heads
    if tile is None:
        major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else (9, 0)
        tile = choose(10 * major + minor, dim, batch * num_heads, n_queries)
    longest = max(pair[0].shape[1] for pair, _ in seen)
    block_n = min(tile.block_n, max(16, triton.next_power_of_2(longest)))
    arguments: dict[str, Any] = {}
    for i in range(3):
        values: tuple[Any, ...] = (None, None, None, 0, 0, 0)
        if i < len(seen):
            (key, value), length = seen[i]
            if key.stride() != value.stride():
                key, value = key.contiguous(), value.contiguous()
            values = (key, value, length, key.shape[1], key.stride(0), key.stride(1))
        arguments |= zip((name + str(i) for name in _OF_SEGMENT), values, strict=True)
    if out.numel():
        with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
            _cross_frame_attention_kernel[(triton.cdiv(n_queries, tile.block_m), batch * num_heads)](
                out=out,
                query=query,
                own_weight=own_weight,
                n_queries=n_queries,
                out_batch=out.stride(0),
                out_row=out.stride(1),
                query_batch=query.stride(0),
                query_row=query.stride(1),
                **arguments,
                **_constants(dim, num_heads, tile, block_n, len(seen)),
                WHOLE=all(length is None and pair[0].shape[1] % block_n == 0 for pair, length in seen),
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
    return out


_OF_SEGMENT = ("key", "value", "lengths", "length", "batch", "row")


def _constants(dim: int, num_heads: int, tile: Tile, block_n: int, segments: int) -> dict[str, Any]:
    main, rest = parts(dim, tile.split)
    scale = math.log2(math.e) / dim**0.5
    sizes = {"DIM": dim, "MAIN": main, "REST": rest, "BLOCK_M": tile.block_m, "BLOCK_N": block_n}
    return {"SCALE": scale, "HEADS": num_heads, "SEGMENTS": segments, **sizes}


def _form(capability: int, dim: int, dtype: str, segments: int, kind: str, tile: Tile) -> Specialisation:
    """Heads of `dim` and so many segments. kind: see SPECIALISATIONS."""
    block_n = 16 if kind == "few keys" else tile.block_n
    constants = {**_constants(dim, 8, tile, block_n, segments), "WHOLE": kind in ("whole blocks", "weight")}
    data, loose = {"out", "query"}, {"own_weight"} if "weight" in kind else set()
    for i in range(segments):
        data |= {f"key{i}", f"value{i}"}
        loose |= {f"lengths{i}"} if "lengths" in kind else set()
    types = {}
    for name in _cross_frame_attention_kernel.arg_names:
        if name in data:
            types[name] = f"*{dtype}"
        elif name in loose:
            types[name] = "*fp32" if name == "own_weight" else "*i32"
        elif name.rstrip("012") in ("key", "value", "lengths", "own_weight"):
            constants[name] = None
        elif name not in constants:
            types[name] = "i32"
    return Specialisation(
        _cross_frame_attention_kernel,
        f"d{dim} {dtype} {segments} {kind} {tile.block_m}x{block_n}",
        types,
        constants,
        tuple(name for name in types if name not in loose and name not in _ANY_VALUE),
        tile.num_warps,
        tile.num_stages,
        capabilities=(capability,),
        slow=(dtype, segments, kind) != ("fp16", 3, "lengths, weight") or tile != choose(capability, dim, 4096, 1024),
    )


# Of SD1.5 (D = 40, 80, 160) and SD2.1 (64), for large batches and small ones; the sizes of the picture are arguments.
SPECIALISATIONS = tuple(
    _form(capability, dim, dtype, segments, kind, tile)
    for capability, dim, dtype in product(TILES, (40, 80, 160, 64), ("fp16", "bf16"))
    for tile in dict.fromkeys(choose(capability, dim, heads, 1024) for heads in (4096, 8))
    for segments, kinds in (
        (1, ("whole blocks", "ragged", "few keys")),
        (2, ("weight", "lengths, weight")),
        (3, ("weight", "lengths, weight")),
    )
    for kind in kinds
)
