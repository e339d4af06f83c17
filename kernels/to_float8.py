"""Values as 8-bit floats of 4 exponent and 3 mantissa bits (e4m3, Micikevicius et al. 2022), divided by one scale for all of them.

y = the nearest of the e4m3 numbers to x / scale, ties to the even one, the largest being +-448. Bytes moved: x read and y written once.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 448.0
FLOAT8 = torch.float8_e4m3fn


def to_float8_ref(x: Tensor, scale: Tensor) -> Tensor:
    """Define the operation by a search among all the numbers there are; see `to_float8`. Returns float64 of the shape of x."""
    # Ascending from 0; even ones at even places.
    numbers = torch.arange(127, dtype=torch.uint8, device=x.device).view(FLOAT8).double()
    size = (x.double() / scale.double()).abs().clamp(max=LARGEST)
    above = torch.searchsorted(numbers, size).clamp(1, len(numbers) - 1)
    low, high = numbers[above - 1], numbers[above]
    takes_low = (size - low < high - size) | ((size - low == high - size) & (above % 2 == 1))
    return torch.where(takes_low, low, high) * x.double().sign()


def to_float8(x: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
    """x of any shape, floating point and without NaNs -> contiguous float8_e4m3fn of its shape. scale: (1,) float32, above 0; a power
    of two loses nothing. out: to write into; with it, and a contiguous x, nothing is allocated. While torch.compile traces it, it is
    torch's operations, which become a part of what makes x. Raises ValueError.
    """
    if not x.is_floating_point() or scale.shape != (1,) or scale.dtype != torch.float32 or scale.device != x.device:
        raise ValueError(
            f"x must be floating point and scale (1,) float32 on {x.device}, got {x.dtype}, {tuple(scale.shape)} {scale.dtype} on"
            f" {scale.device}"
        )
    if out is not None and (out.shape != x.shape or out.dtype != FLOAT8 or not out.is_contiguous()):
        raise ValueError(f"out must be contiguous {FLOAT8} {tuple(x.shape)}, got {out.dtype} {tuple(out.shape)}")
    if x.is_cuda and not torch.compiler.is_compiling():
        from mien.kernels.gpu.to_float8 import to_float8 as on_gpu

        return on_gpu(x, scale, out)
    y = (x.float() / scale).clamp(-LARGEST, LARGEST).contiguous().to(FLOAT8)
    return y if out is None else out.copy_(y)
