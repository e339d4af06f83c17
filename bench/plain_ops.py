"""The operations of the UNet in torch alone, on a GPU too: what one would write first, to compare our kernels with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from mien.engine.networks import sd_attention, sd_blocks


@contextmanager
def plain_torch_ops() -> Iterator[None]:
    """Within it the networks of the SD family call torch where they would call our kernels. Not for two threads at once.

    The weight of the own tokens against the bank is left out, to the plain way's advantage: 1, which is what methods ask for,
    changes nothing.
    """
    with (
        patch.object(sd_attention, "cross_frame_attention", attention),
        patch.object(sd_attention, "geglu", geglu),
        patch.object(sd_blocks, "group_norm_silu", group_norm_silu),
    ):
        yield


def attention(
    query: Tensor,
    segments: Sequence[tuple[Tensor, Tensor]],
    num_heads: int,
    *,
    lengths: Any = None,
    own_weight: Any = None,
) -> Tensor:
    """Torch's attention over the joined segments. Raises ValueError for lengths, which it has not."""
    if lengths is not None:
        raise ValueError("the plain attention sees every token of a segment; give no lengths")
    key, value = segments[0] if len(segments) == 1 else (torch.cat(parts, 1) for parts in zip(*segments, strict=True))
    q, k, v = (tokens.unflatten(2, (num_heads, -1)).transpose(1, 2) for tokens in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def geglu(x: Tensor) -> Tensor:
    """Torch's GELU and product."""
    value, gate = x.chunk(2, -1)
    return value * F.gelu(gate)


def group_norm_silu(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Torch's sum, norm and SiLU."""
    h = F.group_norm(x if shift is None else x + shift[:, :, None, None], num_groups, weight, bias, eps)
    return F.silu(h) if silu else h
