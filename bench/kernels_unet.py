"""Works of the UNet's operations: ours and torch's on the same inputs, and what they are in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mien.bench import plain_ops
from mien.bench.recorder import Works, relative_error
from mien.bench.unet_ops import Attention, Gate, Norm
from mien.engine.errors import UnavailableError
from mien.kernels.consistency_step import consistency_step, consistency_step_ref
from mien.kernels.cross_frame_attention import cross_frame_attention, cross_frame_attention_ref
from mien.kernels.geglu import geglu, geglu_ref
from mien.kernels.group_norm_silu import group_norm_silu, group_norm_silu_ref
from mien.kernels.to_float8 import FLOAT8, LARGEST, to_float8, to_float8_ref

CHECKED_QUERIES = 256  # of one row, compared with float64


def attention_works(op: Attention, rows: int, device: str, dtype: torch.dtype) -> Works:
    """Our attention, with and without a length for each row; torch's with keys and values joined before, and joined within."""
    query = _random((rows, op.n_queries, op.channels), device, dtype)
    segments = [
        (_random((rows, count, op.channels), device, dtype), _random((rows, count, op.channels), device, dtype))
        for count in op.segments
    ]
    weight = torch.ones(rows, device=device, dtype=torch.float32) if op.weighted else None
    lengths = [None, *(torch.full((rows,), count, dtype=torch.int32, device=device) for count in op.segments[1:])]
    joined = [(torch.cat([key for key, _ in segments], 1), torch.cat([value for _, value in segments], 1))]
    calls: dict[str, Callable[[], Tensor]] = {
        "mien": lambda: cross_frame_attention(query, segments, op.num_heads, own_weight=weight),
        "torch": lambda: plain_ops.attention(query, joined, op.num_heads),
    }
    if len(segments) > 1:
        calls["mien, lengths"] = lambda: cross_frame_attention(
            query, segments, op.num_heads, lengths=lengths, own_weight=weight
        )
        calls["torch, joining"] = lambda: plain_ops.attention(query, segments, op.num_heads)
    if device != "cpu":
        calls["torch, cudnn"] = lambda: _by_cudnn(calls["torch"])
    few = query[:1, :CHECKED_QUERIES], [(key[:1], value[:1]) for key, value in segments]
    return _works(calls, lambda: cross_frame_attention_ref(*few, op.num_heads), lambda out: out[:1, :CHECKED_QUERIES])


def norm_works(op: Norm, rows: int, device: str, dtype: torch.dtype) -> Works:
    """Ours, and torch's sum, norm and SiLU, all channels last."""
    x = _random((rows, op.channels, op.side, op.side), device, dtype).to(memory_format=torch.channels_last)
    weight, bias = (_random((op.channels,), device, dtype) for _ in range(2))
    more: dict[str, Any] = {"shift": _random((rows, op.channels), device, dtype) if op.shift else None, "silu": op.silu}
    given = (x, op.num_groups, weight, bias)
    calls = {
        "mien": lambda: group_norm_silu(*given, **more),
        "torch": lambda: plain_ops.group_norm_silu(*given, **more),
    }
    return _works(calls, lambda: group_norm_silu_ref(*given, **more))


def gate_works(op: Gate, rows: int, device: str, dtype: torch.dtype) -> Works:
    """Ours, and torch's GELU and product."""
    x = _random((rows, op.tokens, 2 * op.width), device, dtype)
    return _works({"mien": lambda: geglu(x), "torch": lambda: plain_ops.geglu(x)}, lambda: geglu_ref(x))


def float8_works(shape: tuple[int, int], device: str, dtype: torch.dtype) -> Works:
    """Ours, and torch's division, clamp and conversion. shape: rows and channels of what a layer reads."""
    x, scale = _random(shape, device, dtype), torch.full((1,), 2.0**-6, device=device)
    calls = {
        "mien": lambda: to_float8(x, scale),
        "torch": lambda: (x.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8),
    }
    return _works(calls, lambda: to_float8_ref(x, scale))


def step_works(rows: int, side: int, device: str, dtype: torch.dtype) -> Works:
    """Ours, and torch's operations one by one; latents in float32, as the engine keeps them."""
    prediction = _random((rows, 4, side, side), device, dtype)
    x, noise = (_random((rows, 4, side, side), device, torch.float32) for _ in range(2))
    coefficients = _random((rows, 5), device, torch.float32)

    def plain() -> Tensor:
        a, b, c, d, e = coefficients.T[:, :, None, None, None]
        now: Tensor = c * (a * x + b * prediction.float()) + d * x + e * noise
        return now

    given = (prediction, x, noise, coefficients)
    return _works({"mien": lambda: consistency_step(*given), "torch": plain}, lambda: consistency_step_ref(*given)[0])


def _works(
    calls: Mapping[str, Callable[[], Tensor]],
    wanted: Callable[[], Tensor],
    part: Callable[[Tensor], Tensor] = lambda out: out,
) -> Works:
    """Works with errors. wanted: the answer in float64. part: what of an answer is compared with it."""

    def error(form: str) -> float:
        return relative_error(part(calls[form]()), wanted())

    return Works({form: [call] for form, call in calls.items()}, {form: partial(error, form) for form in calls})


def _random(shape: Sequence[int], device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(tuple(shape), device=device, dtype=torch.float32).to(dtype)


def _by_cudnn(call: Callable[[], Tensor]) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return call()
    except RuntimeError as error:
        raise UnavailableError(f"cuDNN has no attention for it: {str(error).partition(chr(10))[0]}") from None
