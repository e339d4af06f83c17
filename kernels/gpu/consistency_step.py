"""`consistency_step` in Triton: one launch, whatever the number of conditions."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mien.kernels.gpu.pixels import pixel_strides
from mien.kernels.gpu.specialisation import Specialisation

TILE = 1024  # elements; a row of latents has 16 of them, and the launch takes longer than the bytes
NUM_WARPS = 4


@triton.jit
def _consistency_step_kernel(
    prediction, x, noise, coefficients, weights, rows, out, x0_out, n_rows, n_pixels,
    p_row, p_channel, p_pixel, x_row, x_channel, x_pixel, n_row, n_channel, n_pixel, o_row, o_channel, o_pixel, c_row, c_channel, c_pixel,
    CHANNELS: tl.constexpr, CONDITIONS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of pixels, rows). Strides: of prediction, x, noise, out and x0_out."""
    row = tl.program_id(1)
    p = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    channel = tl.arange(0, BLOCK_C)[None, :]
    inside = (p < n_pixels) & (channel < CHANNELS)
    mixed = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for k in tl.static_range(CONDITIONS):
        chosen = row + k * n_rows
        if rows is not None:
            chosen = tl.load(rows + row * CONDITIONS + k)
        at = prediction + chosen.to(tl.int64) * p_row + p * p_pixel + channel * p_channel
        answer = tl.load(at, inside, 0.0).to(tl.float32)
        if weights is not None:
            answer *= tl.load(weights + row * CONDITIONS + k)
        mixed += answer
    coefficients += row * 5
    row = row.to(tl.int64)
    now = tl.load(x + row * x_row + p * x_pixel + channel * x_channel, inside, 0.0).to(tl.float32)
    fresh = tl.load(noise + row * n_row + p * n_pixel + channel * n_channel, inside, 0.0).to(tl.float32)
    x0 = tl.load(coefficients) * now + tl.load(coefficients + 1) * mixed
    y = tl.load(coefficients + 2) * x0 + tl.load(coefficients + 3) * now + tl.load(coefficients + 4) * fresh
    tl.store(out + row * o_row + p * o_pixel + channel * o_channel, y.to(out.dtype.element_ty), inside)
    if x0_out is not None:
        at = x0_out + row * c_row + p * c_pixel + channel * c_channel
        tl.store(at, x0.to(x0_out.dtype.element_ty), inside)


def consistency_step(
    prediction: Tensor,
    x: Tensor,
    noise: Tensor,
    coefficients: Tensor,
    weights: Tensor | None = None,
    rows: Tensor | None = None,
    *,
    out: Tensor | None = None,
    x0_out: Tensor | None = None,
) -> Tensor:
    """Launch it on what the public `consistency_step` has checked; see there.

    coefficients, weights and rows are copied where they are not contiguous; so is a picture that is a part of a larger one.
    Raises ValueError where out or x0_out is such a part.
    """
    if out is None:
        out = torch.empty_like(x)
    if not x.numel():
        return out
    pictures = [(t, (0, 0, 0)) if t is None else pixel_strides(t) for t in (prediction, x, noise, out, x0_out)]
    for name, given, (even, _) in zip(("out", "x0_out"), (out, x0_out), pictures[3:], strict=True):
        if given is not None and even is not given:
            raise ValueError(
                f"{name} must be a whole picture, not a part of one, got strides {given.stride()}; give its parent"
            )
    small = [None if tensor is None else tensor.contiguous() for tensor in (coefficients, weights, rows)]
    channels, n_pixels = x.shape[1], x.shape[2] * x.shape[3]
    block_c = triton.next_power_of_2(channels)
    block_p = max(TILE // block_c, 1)
    _consistency_step_kernel[triton.cdiv(n_pixels, block_p), len(x)](
        *(tensor for tensor, _ in pictures[:3]), *small, *(tensor for tensor, _ in pictures[3:]), len(x), n_pixels,
        *(stride for _, strides in pictures for stride in strides), CHANNELS=channels,
        CONDITIONS=1 if weights is None else weights.shape[1], BLOCK_P=block_p, BLOCK_C=block_c, num_warps=NUM_WARPS,
    )  # fmt: skip
    return out


def _specialisation(
    label: str, network: str, latents: str, conditions: int, rows: bool = False, x0: bool = False
) -> Specialisation:
    """Of latents (B, 4, 64, 64), those of the network channels last."""
    absent = {name: None for name, given in (("weights", conditions), ("rows", rows), ("x0_out", x0)) if not given}
    strides = {f"{letter}_{axis}": size for letter in "pxnoc" for axis, size in (("channel", 4096), ("pixel", 1))}
    strides |= {"p_channel": 1, "p_pixel": 4}
    constants = {"CHANNELS": 4, "CONDITIONS": max(conditions, 1), "BLOCK_P": TILE // 4, "BLOCK_C": 4, **absent}
    constants |= {name: 1 for name, size in strides.items() if size == 1}
    pointers = dict.fromkeys(("x", "noise", "out", "x0_out"), f"*{latents}") | {
        "prediction": f"*{network}",
        "rows": "*i32",
    }
    pointers |= dict.fromkeys(("coefficients", "weights"), "*fp32")
    types = {name: pointers.get(name, "i32") for name in _consistency_step_kernel.arg_names if name not in constants}
    divisible = tuple(name for name in types if name not in ("n_rows", "p_pixel"))
    return Specialisation(_consistency_step_kernel, label, types, constants, divisible, NUM_WARPS)


SPECIALISATIONS = (
    _specialisation("fp16 to fp16", "fp16", "fp16", 0),
    _specialisation("fp16 to fp32", "fp16", "fp32", 0),
    _specialisation("bf16 to fp32", "bf16", "fp32", 0),
    _specialisation("fp16 to fp32, 2 conditions", "fp16", "fp32", 2),
    _specialisation("fp16 to fp32, 3 conditions, rows, x0", "fp16", "fp32", 3, rows=True, x0=True),
)
