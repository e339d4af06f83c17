"""Samplers: pure functions of a denoiser, a start, a schedule, timesteps and fixed noise; none knows of guidance,
editing or banks.

A denoiser is D(x, t) -> x0 with x (B, C, h, w) and t an int, or a float where the timesteps lie between levels. `noise`
is one array like x for each step, fixed by the caller, never drawn here: fresh noise per frame is what makes video
flicker. Arrays are numpy or torch; only + - * / touch them.

A step is the arithmetic between two denoiser calls; `sample_steps` runs any, and `guidance` wraps it where something is to
be done to the latents after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mien.engine.sampling import Sampling
from mien.engine.schedule import Schedule

Denoiser = Callable[[Any, Any], Any]
Step = Callable[[Schedule, Any, Any, float, float | None, Any], Any]
"""(schedule, x0, x, t, target, noise) -> x at level `target`; target None is the last step, and noise is None there."""

Difference = Callable[[Any, Any, int], Any]
"""(z_t, z'_t, t) -> edited minus source, both clean: x0(z'_t) of the edited denoiser less x0(z_t) of the source's, as
two rows of one batch or as one row of a network that was distilled to answer it.
"""

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def lcm_boundary(t: float) -> tuple[float, float]:
    """(c_skip, c_out) of the consistency function at t (Luo et al. 2023): (0, 1) to 1e-5 from t = 19 on."""
    scaled = TIMESTEP_SCALING * t
    total = scaled * scaled + SIGMA_DATA * SIGMA_DATA
    return SIGMA_DATA * SIGMA_DATA / total, scaled / math.sqrt(total)


def step_lcm(schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, noise: Any) -> Any:
    """Multistep consistency sampling (Luo et al. 2023, algorithm 1): the denoised picture, noised anew."""
    c_skip, c_out = lcm_boundary(t)
    denoised = c_out * x0 + c_skip * x
    return denoised if target is None else schedule.add_noise(denoised, noise, target)


def step_tcd(
    schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, noise: Any, gamma: float = 0.3
) -> Any:
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4).

    gamma 0 is deterministic, 1 is close to LCM. The last step leads to level 0, which keeps its last 3 % of noise, as
    the distillation does.
    """
    middle = 0 if target is None else math.floor((1.0 - gamma) * target)
    x = schedule.add_noise(x0, schedule.to_eps(x0, x, t), middle)
    return x if target is None or gamma <= 0.0 else schedule.renoise(x, noise, middle, target)


def step_ddim(
    schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, noise: Any = None, final: int = -1
) -> Any:
    """Deterministic DDIM (Song et al. 2021, equation 12 with eta 0); `final` is the last target, -1 the clean picture.

    The next timestep is the target. So it is Euler's method too: in x / alpha, whose noise has the width sigma / alpha, it is
    a straight line along the noise (Karras et al. 2022, algorithm 1 without its correction).
    """
    return schedule.add_noise(x0, schedule.to_eps(x0, x, t), final if target is None else target)


def step_of(sampling: Sampling) -> Step:
    """The step that a sampling asks for."""
    if sampling.sampler == "lcm":
        return step_lcm
    if sampling.sampler == "tcd":
        return partial(step_tcd, gamma=sampling.gamma)
    return partial(step_ddim, final=-1 if sampling.set_alpha_to_one else 0)


def sample_steps(
    step: Step, denoiser: Denoiser, x: Any, schedule: Schedule, timesteps: Sequence[float], noise: Sequence[Any] = ()
) -> Any:
    """x at timesteps[0] -> the last step's answer.

    noise[i] leads from step i to step i + 1; none is needed where the step is deterministic.
    """
    for i, t in enumerate(timesteps):
        last = i + 1 == len(timesteps)
        drawn = None if last or not len(noise) else noise[i]
        x = step(schedule, denoiser(x, t), x, t, None if last else timesteps[i + 1], drawn)
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
