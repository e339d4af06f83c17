"""`to_float8` in Triton: one read and one write, for GPUs that have such numbers, from compute capability 8.9 on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.gpu.specialisation import Specialisation

BLOCK = 2048  # two loads of 16 bytes and one store of 16 a thread
NUM_WARPS = 4


@triton.jit
def _to_float8_kernel(x, scale, out, n, BLOCK: tl.constexpr):
    """Grid (blocks,)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    y = tl.load(x + i, inside, 0.0).to(tl.float32) / tl.load(scale)
    y = tl.minimum(tl.maximum(y, -448.0), 448.0)
    tl.store(out + i, y.to(out.dtype.element_ty), inside)


def to_float8(x: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
    """Launch it on what the public `to_float8` has checked; see there. x is copied where it is not contiguous."""
    if out is None:
        out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    x = x.contiguous()
    if n := x.numel():
        _to_float8_kernel[(triton.cdiv(n, BLOCK),)](x, scale, out, n, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out


SPECIALISATIONS = tuple(
    Specialisation(
        _to_float8_kernel,
        dtype,
        {"x": f"*{dtype}", "scale": "*fp32", "out": "*fp8e4nv", "n": "i32"},
        {"BLOCK": BLOCK},
        divisible=("x", "scale", "out", "n"),
        num_warps=NUM_WARPS,
        capabilities=(89, 90, 100, 120),
    )
    for dtype in ("fp16", "bf16")
)
