"""GEGLU (Shazeer 2020): half of a projection times the GELU of its other half.

y = v g (1 + erf(g / sqrt 2)) / 2, [v, g] = x: the exact GELU, as torch's default and diffusers'.
Bytes moved: x read once and y written once, 3 values of y's size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def geglu_ref(x: Tensor) -> Tensor:
    """Define the operation in float64; see `geglu`. Returns (..., width) float64."""
    value, gate = x.double().chunk(2, -1)
    return value * gate * (1 + torch.erf(gate / 2**0.5)) / 2


def geglu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x (..., 2 width), values before gates -> (..., width) in its type.

    out: to write into, on a GPU alone; with it nothing is allocated. On a CPU, and where a gradient is to be recorded, it is torch's
    own GELU and product, each rounded to the type of x; on a GPU all is float32 and rounded once. Raises ValueError for a shape or
    type outside of this.
    """
    if x.is_cuda and not (torch.is_grad_enabled() and x.requires_grad):
        if torch.compiler.is_compiling():
            from mien.kernels.opaque import geglu as opaque

            y: Tensor = opaque(x)
            return y
        from mien.kernels.gpu.geglu import geglu as on_gpu

        return on_gpu(x, out)
    if out is not None:
        raise ValueError(f"out is for a GPU without gradients, x is on {x.device}; leave it out")
    value, gate = x.chunk(2, -1)
    return value * F.gelu(gate)
