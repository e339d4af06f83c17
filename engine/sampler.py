"""Samplers: pure functions of a denoiser, a start, a schedule, timesteps and fixed noise; none knows of guidance,
editing or banks.

A denoiser is D(x, t) -> x0 with x (B, C, h, w) and t an int. `noise` is one array like x for each step, fixed by the
caller, never drawn here: fresh noise per frame is what makes video flicker. Arrays are numpy or torch; only + - * /
touch them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from mien.engine.schedule import Schedule

Denoiser = Callable[[Any, int], Any]
Difference = Callable[[Any, Any, int], Any]
"""(z_t, z'_t, t) -> edited minus source, both clean: x0(z'_t) of the edited denoiser less x0(z_t) of the source's, as
two rows of one batch or as one row of a network that was distilled to answer it.
"""

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def lcm_boundary(t: int) -> tuple[float, float]:
    """(c_skip, c_out) of the consistency function at t (Luo et al. 2023): (0, 1) to 1e-5 from t = 19 on."""
    scaled = TIMESTEP_SCALING * t
    total = scaled * scaled + SIGMA_DATA * SIGMA_DATA
    return SIGMA_DATA * SIGMA_DATA / total, scaled / math.sqrt(total)


def sample_lcm(denoiser: Denoiser, x: Any, schedule: Schedule, timesteps: Sequence[int], noise: Sequence[Any]) -> Any:
    """Multistep consistency sampling (Luo et al. 2023, algorithm 1): x at timesteps[0] -> x0.

    noise[i] leads from step i to step i + 1.
    """
    denoised = x
    for i, t in enumerate(timesteps):
        c_skip, c_out = lcm_boundary(t)
        denoised = c_out * denoiser(x, t) + c_skip * x
        if i + 1 < len(timesteps):
            x = schedule.add_noise(denoised, noise[i], timesteps[i + 1])
    return denoised


def sample_tcd(
    denoiser: Denoiser,
    x: Any,
    schedule: Schedule,
    timesteps: Sequence[int],
    noise: Sequence[Any],
    gamma: float = 0.3,
) -> Any:
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4): x at
    timesteps[0] -> x at level 0.

    gamma 0 is deterministic, 1 is close to LCM. The last step targets level 0, which keeps its last 3 % of noise, as
    the distillation does.
    """
    for i, t in enumerate(timesteps):
        last = i + 1 == len(timesteps)
        target = 0 if last else timesteps[i + 1]
        middle = math.floor((1.0 - gamma) * target)
        x0 = denoiser(x, t)
        x = schedule.add_noise(x0, schedule.to_eps(x0, x, t), middle)
        if gamma > 0.0 and not last:
            kept = schedule.alphas_cumprod[target] / schedule.alphas_cumprod[middle]
            x = math.sqrt(kept) * x + math.sqrt(1.0 - kept) * noise[i]
    return x


def sample_ddim(denoiser: Denoiser, x: Any, schedule: Schedule, timesteps: Sequence[int], final: int = -1) -> Any:
    """Deterministic DDIM (Song et al.

    2021, equation 12 with eta 0): x at timesteps[0] -> x at level `final` (-1: the clean picture).
    """
    for i, t in enumerate(timesteps):
        target = timesteps[i + 1] if i + 1 < len(timesteps) else final
        x0 = denoiser(x, t)
        x = schedule.add_noise(x0, schedule.to_eps(x0, x, t), target)
    return x


def invert_ddim(denoiser: Denoiser, x: Any, schedule: Schedule, timesteps: Sequence[int]) -> Any:
    """DDIM run backwards (Song et al.

    2021, section 4.3): x at level timesteps[0] -> x at timesteps[-1]; timesteps ascend.
    """
    for t, target in pairwise(timesteps):
        x0 = denoiser(x, t)
        x = schedule.add_noise(x0, schedule.to_eps(x0, x, t), target)
    return x


def sample_difference(
    difference: Difference,
    z: Any,
    schedule: Schedule,
    timesteps: Sequence[int],
    noise: Sequence[Any],
    gain: float = 1.0,
) -> Any:
    """The two-branch difference (after InfEdit's virtual inversion, Xu et al. 2023): clean z -> edited clean z; no
    noise is ever decoded.

    At each t: z_t = z noised, z'_t = the current answer noised alike; answer = z + gain difference(z_t, z'_t, t).
    Equal denoisers give z back exactly.
    """
    out = z
    for t, fixed in zip(timesteps, noise, strict=True):
        out = z + gain * difference(schedule.add_noise(z, fixed, t), schedule.add_noise(out, fixed, t), t)
    return out
