"""GroupNorm (Wu and He 2018) with a per-channel shift added before it and SiLU applied after it, channels last.

y = f((h - mean_g(h)) / sqrt(var_g(h) + eps) weight + bias), h = x + shift, f = SiLU or the identity; mean and biased variance over
the pixels of a group's channels. In a residual block the shift is the embedding of the timestep, which nothing but this norm reads.
Bytes moved: x read twice, the second time mostly from L2 or L1, and written once: 3 B C H W times the item size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def group_norm_silu_ref(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Define the operation in float64; see `group_norm_silu`. Returns (B, C, H, W) float64."""
    h = x.double() if shift is None else x.double() + shift.double()[:, :, None, None]
    rows = h.reshape(len(x), num_groups, -1)
    centred = rows - rows.mean(2, keepdim=True)
    normal = centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()
    y = normal.reshape(x.shape) * weight.double()[:, None, None] + bias.double()[:, None, None]
    return y / (1 + (-y).exp()) if silu else y


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
    """x (B, C, H, W) -> the same shape and type; on a GPU channels last, whatever x is.

    weight, bias: (C,). shift: (B, C), added to every pixel. out, workspace: for the GPU alone, see there; with both nothing is
    allocated. A row's answer does not depend on the other rows. On a CPU, and where a gradient is to be recorded, it is torch's own
    sum, norm and SiLU, each rounded to the type of x; on a GPU all is float32 and rounded once.
    Raises ValueError for a shape or type outside of this.
    """
    if x.is_cuda and not (torch.is_grad_enabled() and _needs_gradient(x, weight, bias, shift)):
        if torch.compiler.is_compiling():
            from mien.kernels.opaque import group_norm_silu as opaque

            y: Tensor = opaque(x, num_groups, weight, bias, eps, shift, silu)
            return y
        from mien.kernels.gpu.group_norm_silu import group_norm_silu as on_gpu

        return on_gpu(x, num_groups, weight, bias, eps, shift=shift, silu=silu, out=out, workspace=workspace)
    if out is not None or workspace is not None:
        raise ValueError(f"out and workspace are for a GPU without gradients, x is on {x.device}; leave them out")
    h = x if shift is None else x + shift[:, :, None, None]
    h = F.group_norm(h, num_groups, weight, bias, eps)
    return F.silu(h) if silu else h


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
