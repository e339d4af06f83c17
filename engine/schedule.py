"""Noise schedules: betas, the levels they lead to, conversions between v, eps and x0, and the timestep grids of the
samplers.

x_t = alpha(t) x0 + sigma(t) eps with alpha = sqrt(abar), sigma = sqrt(1 - abar). Levels are Python floats, so the
arithmetic below is the same for numpy arrays and torch tensors and never waits for a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from mien.engine.errors import EditError

Prediction = Literal["v_prediction", "epsilon", "sample"]
BetaKind = Literal["scaled_linear", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """T noise levels. `scaled_linear` is Stable Diffusion's (linear in sqrt(beta)), `linear` AnimateDiff's, `cosine`
    Nichol and Dhariwal's.
    """

    kind: BetaKind = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """(T,) noise added per step."""
        if self.kind == "cosine":
            n = self.num_timesteps
            kept = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
            return tuple(min(1.0 - kept[i + 1] / kept[i], 0.999) for i in range(n))
        root = self.kind == "scaled_linear"
        low, high = (math.sqrt(v) if root else v for v in (self.beta_start, self.beta_end))
        line = [low + (high - low) * i / (self.num_timesteps - 1) for i in range(self.num_timesteps)]
        return tuple(v * v for v in line) if root else tuple(line)

    @cached_property
    def alphas_cumprod(self) -> tuple[float, ...]:
        """(T,) abar: the share of the signal's variance left at t."""
        out, product = [], 1.0
        for beta in self.betas:
            product *= 1.0 - beta
            out.append(product)
        return tuple(out)

    def alpha(self, t: int) -> float:
        """sqrt(abar) at t; t = -1 is the clean picture."""
        return 1.0 if t < 0 else math.sqrt(self.alphas_cumprod[t])

    def sigma(self, t: int) -> float:
        """sqrt(1 - abar) at t; t = -1 is the clean picture."""
        return 0.0 if t < 0 else math.sqrt(1.0 - self.alphas_cumprod[t])

    def add_noise(self, x0: Any, noise: Any, t: int) -> Any:
        """x_t of a clean x0 and a noise of the same shape."""
        return self.alpha(t) * x0 + self.sigma(t) * noise

    def to_x0(self, output: Any, x: Any, t: int, prediction: Prediction) -> Any:
        """The clean picture that a network's output at (x, t) stands for."""
        a, s = self.alpha(t), self.sigma(t)
        if prediction == "v_prediction":
            return a * x - s * output
        return (x - s * output) / a if prediction == "epsilon" else output

    def to_eps(self, x0: Any, x: Any, t: int) -> Any:
        """The noise in x if the clean picture is x0; t >= 0."""
        return (x - self.alpha(t) * x0) / self.sigma(t)

    def to_v(self, x0: Any, x: Any, t: int) -> Any:
        """v = alpha eps - sigma x0 of x at t if the clean picture is x0; t >= 0."""
        return self.alpha(t) * self.to_eps(x0, x, t) - self.sigma(t) * x0


def lcm_timesteps(
    num_steps: int, strength: float = 1.0, origin_steps: int = 50, num_timesteps: int = 1000
) -> tuple[int, ...]:
    """LCM's and TCD's grid (Luo et al. 2023): `num_steps` of the distillation's grid 19, 39, ... up to `strength`,
    descending.

    All steps lie inside [0, strength * T]. Raises EditError where the grid has fewer points than steps.
    """
    stride = num_timesteps // origin_steps
    count = int(origin_steps * strength + 1e-9)
    if num_steps > count:
        raise EditError(
            f"{num_steps} steps at strength {strength:g} are more than the grid's {count} levels; give fewer steps or more"
            " strength"
        )
    grid = [(i + 1) * stride - 1 for i in range(count)][::-1]
    return tuple(grid[i * len(grid) // num_steps] for i in range(num_steps))


def leading_timesteps(num_steps: int, num_timesteps: int = 1000, offset: int = 1) -> tuple[int, ...]:
    """DDIM's `leading` grid, descending: 981, 961, ..., 1 for 50 steps."""
    stride = num_timesteps // num_steps
    return tuple(i * stride + offset for i in range(num_steps))[::-1]


def trailing_timesteps(num_steps: int, num_timesteps: int = 1000) -> tuple[int, ...]:
    """The `trailing` grid, descending, that begins at the last level: 999, 499 for 2 steps."""
    return tuple(round(num_timesteps - i * num_timesteps / num_steps) - 1 for i in range(num_steps))


def truncate(timesteps: tuple[int, ...], strength: float) -> tuple[int, ...]:
    """Stable Diffusion's img2img rule: the last min(int(n strength), n) of n timesteps.

    Raises EditError where none is left.
    """
    keep = min(int(len(timesteps) * strength + 1e-9), len(timesteps))
    if keep < 1:
        raise EditError(
            f"strength {strength:g} leaves none of {len(timesteps)} steps; give more steps or more strength"
        )
    return timesteps[len(timesteps) - keep :]


def even_timesteps(num_steps: int, t_max: int) -> tuple[int, ...]:
    """`num_steps` levels evenly down from t_max, as the difference loop takes them: (500, 250) for 2 steps from 500."""
    if num_steps < 1 or not num_steps <= t_max <= 999:
        raise EditError(
            f"{num_steps} steps from level {t_max} are impossible; accepted: levels up to 999, at least one a step"
        )
    return tuple(round(t_max * (num_steps - i) / num_steps) for i in range(num_steps))
