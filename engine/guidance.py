"""Guidance: wrappers that turn denoisers into a guided denoiser, so that samplers never learn of it.

x0 is affine in eps at fixed (x, t), so mixing x0 with weights that sum to one is mixing eps with the same weights.
"""

from __future__ import annotations

from typing import Any

from mien.engine.sampler import Denoiser


def cfg(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u).

    scale 1 is the conditional denoiser and runs nothing else.
    """
    if scale == 1.0:
        return conditional

    def guided(x: Any, t: int) -> Any:
        u = unconditional(x, t)
        return u + scale * (conditional(x, t) - u)

    return guided
