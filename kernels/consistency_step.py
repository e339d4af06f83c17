"""From a network's predictions to the next latents, in one pass: guidance, the clean picture, and a sampler's step.

x0 = a x + b sum_k w_k prediction_k,  next = c x0 + d x + e noise, with (a, b, c, d, e) and w of each row of the batch by itself, so that
its rows may be at different timesteps, of different samplers, and guided or not. Every step of the samplers (LCM, TCD, DDIM) and every
kind of prediction is of this form at its timestep; weights that sum to one mix predictions as they mix clean pictures.
Bytes moved: each element of x, noise and the K predictions read once and of the answer written once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUM_COEFFICIENTS = 5


def step_coefficients(
    to_x0: Callable[[float, float], float], step: Callable[[float, float, float], float]
) -> tuple[float, float, float, float, float]:
    """A row of `coefficients`, out of to_x0(prediction, x) -> x0 and step(x0, x, noise) -> next x at one timestep.

    Both are linear, so they are asked for the unit vectors: a schedule's and a sampler's own functions do as they stand.
    """
    return to_x0(0.0, 1.0), to_x0(1.0, 0.0), step(1.0, 0.0, 0.0), step(0.0, 1.0, 0.0), step(0.0, 0.0, 1.0)


def consistency_step_ref(
    prediction: Tensor,
    x: Tensor,
    noise: Tensor,
    coefficients: Tensor,
    weights: Tensor | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Define the operation in float64; see `consistency_step`. Returns next x and x0, (B, C, h, w) float64."""
    next_x, clean = [], []
    for i, (a, b, c, d, e) in enumerate(coefficients.double()):
        if weights is None:
            mixed = prediction[i].double()
        else:
            chosen = range(i, len(prediction), len(x)) if rows is None else rows[i].tolist()
            mixed = torch.stack(
                [w * prediction[row].double() for w, row in zip(weights[i].double(), chosen, strict=True)]
            ).sum(0)
        clean.append(a * x[i].double() + b * mixed)
        next_x.append(c * clean[-1] + d * x[i].double() + e * noise[i].double())
    return torch.stack(next_x), torch.stack(clean)


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
    """Return the next latents (B, C, h, w), in the type of x; all arithmetic is in float32.

    prediction: (N, C, h, w), the network's rows. x, noise: (B, C, h, w), finite. coefficients: (B, 5) float32, rows of
    `step_coefficients`. weights: (B, K) float32, of a row's predictions, with the sum 1 (0 where x is a difference of latents); None for
    a prediction a row and no guidance. rows: (B, K) int32, the rows of the prediction that the weights weigh, each in 0..N - 1; None
    for K blocks of B rows, N = K B. A row with fewer conditions names one of its own twice, with weight 0. out, x0_out: like x,
    written with next x and x0; out may be x. With `out` nothing is allocated on a GPU. Floating-point tensors may be of different
    types and memory formats. Raises ValueError for a shape, type or device outside of this.
    """
    _check(prediction, x, noise, coefficients, weights, rows, out, x0_out)
    if x.is_cuda and not (
        torch.is_grad_enabled() and any(t.requires_grad for t in (prediction, x, noise, coefficients))
    ):
        from mien.kernels.gpu.consistency_step import consistency_step as on_gpu

        return on_gpu(prediction, x, noise, coefficients, weights, rows, out=out, x0_out=x0_out)
    if weights is None:
        mixed = prediction.float()
    else:
        mixed = prediction.new_zeros(x.shape, dtype=torch.float32)
        for k, weight in enumerate(weights.unbind(1)):
            chosen = prediction[k * len(x) : (k + 1) * len(x)] if rows is None else prediction[rows[:, k]]
            mixed = mixed + weight[:, None, None, None] * chosen.float()
    a, b, c, d, e = coefficients.T[:, :, None, None, None]
    x0 = a * x.float() + b * mixed
    next_x = (c * x0 + d * x.float() + e * noise.float()).to(x.dtype)
    if x0_out is not None:
        x0_out.copy_(x0)
    return next_x if out is None else out.copy_(next_x)


def _check(
    prediction: Tensor,
    x: Tensor,
    noise: Tensor,
    coefficients: Tensor,
    weights: Tensor | None,
    rows: Tensor | None,
    out: Tensor | None,
    x0_out: Tensor | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, h, w), got {tuple(x.shape)}")
    n_rows, floats = len(x), (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if weights is None and rows is not None:
        raise ValueError("rows without weights; give the weight (B, K) of each")
    if weights is not None and (weights.dim() != 2 or not weights.shape[1]):
        raise ValueError(f"weights must be (B, K) with K of 1 or more, got {tuple(weights.shape)}")
    conditions = 1 if weights is None else weights.shape[1]
    predictions = len(prediction) if rows is not None else n_rows * conditions
    wanted = (
        ("prediction", prediction, (predictions, *x.shape[1:]), floats),
        ("x", x, x.shape, floats),
        ("noise", noise, x.shape, floats),
        ("coefficients", coefficients, (n_rows, NUM_COEFFICIENTS), (torch.float32,)),
        ("weights", weights, (n_rows, conditions), (torch.float32,)),
        ("rows", rows, (n_rows, conditions), (torch.int32,)),
        ("out", out, x.shape, (x.dtype,)),
        ("x0_out", x0_out, x.shape, (x.dtype,)),
    )
    for name, tensor, shape, dtypes in wanted:
        if tensor is not None and (tensor.shape != shape or tensor.dtype not in dtypes or tensor.device != x.device):
            accepted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(
                f"{name} must be {accepted} {tuple(shape)} on {x.device}, got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )
