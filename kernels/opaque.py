"""The kernels of the UNet as operators that torch.compile leaves whole: it would stumble over what launches them, or trace into it.

The public functions come here for tensors on a GPU while they are compiled. What runs in the end is the public function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mien.kernels import cross_frame_attention as attention
from mien.kernels import geglu as gate
from mien.kernels import group_norm_silu as norm


@torch.library.custom_op("mien::cross_frame_attention", mutates_args=())
def cross_frame_attention(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_heads: int,
    lengths: Sequence[Tensor | None],
    own_weight: Tensor | None,
) -> Tensor:
    """See `mien.kernels.cross_frame_attention`; lengths: none at all, or one for each segment."""
    segments = list(zip(keys, values, strict=True))
    return attention.cross_frame_attention(query, segments, num_heads, lengths=lengths or None, own_weight=own_weight)


@cross_frame_attention.register_fake
def _(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_heads: int,
    lengths: Sequence[Tensor | None],
    own_weight: Tensor | None,
) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op("mien::geglu", mutates_args=())
def geglu(x: Tensor) -> Tensor:
    """See `mien.kernels.geglu`."""
    return gate.geglu(x)


@geglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@torch.library.custom_op("mien::group_norm_silu", mutates_args=())
def group_norm_silu(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
) -> Tensor:
    """See `mien.kernels.group_norm_silu`."""
    out = norm.group_norm_silu(x, num_groups, weight, bias, eps, shift=shift, silu=silu)
    return out.contiguous(memory_format=torch.channels_last)


@group_norm_silu.register_fake
def _(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)
