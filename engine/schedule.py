"""Noise schedules: betas, the levels they lead to, conversions between v, eps and x0, and the timestep grids of the
samplers.

x_t = alpha(t) x0 + sigma(t) eps with alpha = sqrt(abar), sigma = sqrt(1 - abar). Levels are Python floats, so the
arithmetic below is the same for numpy arrays and torch tensors and never waits for a device. Betas rescaled to a zero
terminal signal (Lin et al. 2023, section 3.1) are out of scope: alpha is above 0 at every level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

from mien.engine.errors import EditError

Prediction = Literal["v_prediction", "epsilon", "sample"]
BetaKind = Literal["scaled_linear", "linear", "cosine"]
Level = TypeVar("Level", bound=float)
# A strength such as .58 of 50 steps is 29, although the product of the floats falls short of it.
_ROUNDING = 1e-9


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

    def kept(self, t: float) -> float:
        """abar at t, 1 for t = -1, the clean picture.

        Between two levels sigma / alpha is interpolated linearly, as Euler samplers do (Karras et al. 2022).
        """
        if t < 0:
            return 1.0
        low = int(t)
        below = self.alphas_cumprod[low]
        if low == t:
            return below
        above, share = self.alphas_cumprod[low + 1], t - low
        ratio = (1.0 - share) * math.sqrt((1.0 - below) / below) + share * math.sqrt((1.0 - above) / above)
        return 1.0 / (1.0 + ratio * ratio)

    def alpha(self, t: float) -> float:
        """sqrt(abar) at t; t = -1 is the clean picture."""
        return math.sqrt(self.kept(t))

    def sigma(self, t: float) -> float:
        """sqrt(1 - abar) at t; t = -1 is the clean picture."""
        return math.sqrt(1.0 - self.kept(t))

    def add_noise(self, x0: Any, noise: Any, t: float) -> Any:
        """x_t of a clean x0 and a noise of the same shape."""
        return self.alpha(t) * x0 + self.sigma(t) * noise

    def renoise(self, x: Any, noise: Any, t: float, target: float) -> Any:
        """x at the noisier level `target` of x at level t: one jump of the forward process; noise like x.

        Text2Video-Zero's motion dynamics (Khachatryan et al. 2023, section 3.3) multiply the alphas of [t0, t1), one level
        early: that is `renoise(x, noise, t0 - 1, t1 - 1)`.
        """
        if not -1 <= t <= target < self.num_timesteps:
            raise EditError(
                f"cannot take level {t:g} to level {target:g} by adding noise; accepted: a target from {t:g} up to"
                f" {self.num_timesteps - 1}"
            )
        kept = self.kept(target) / self.kept(t)
        return math.sqrt(kept) * x + math.sqrt(1.0 - kept) * noise

    def to_x0(self, output: Any, x: Any, t: float, prediction: Prediction) -> Any:
        """The clean picture that a network's output at (x, t) stands for."""
        a, s = self.alpha(t), self.sigma(t)
        if prediction == "v_prediction":
            return a * x - s * output
        return (x - s * output) / a if prediction == "epsilon" else output

    def to_eps(self, x0: Any, x: Any, t: float) -> Any:
        """The noise in x if the clean picture is x0; t >= 0."""
        return (x - self.alpha(t) * x0) / self.sigma(t)


def lcm_timesteps(
    num_steps: int, strength: float = 1.0, origin_steps: int = 50, num_timesteps: int = 1000
) -> tuple[int, ...]:
    """LCM's and TCD's grid (Luo et al. 2023): `num_steps` of the distillation's grid 19, 39, ... up to `strength`,
    descending.

    All steps lie inside [0, strength * T]. Raises EditError where the grid has fewer points than steps.
    """
    _check_steps(num_steps, min(origin_steps, num_timesteps))
    stride = num_timesteps // origin_steps
    count = int(origin_steps * strength + _ROUNDING)
    if num_steps > count:
        fewer = f"at most {count} steps or " if count else ""
        raise EditError(
            f"{num_steps} steps at strength {strength:g} are more than the grid's {count} levels; give {fewer}"
            f"a strength of at least {num_steps / origin_steps:g}"
        )
    grid = [(i + 1) * stride - 1 for i in range(count)][::-1]
    return tuple(grid[i * len(grid) // num_steps] for i in range(num_steps))


def leading_timesteps(num_steps: int, num_timesteps: int = 1000, offset: int = 1) -> tuple[int, ...]:
    """DDIM's `leading` grid, descending: 981, 961, ..., 1 for 50 steps; (1,) for one, which changes next to nothing."""
    _check_steps(num_steps, num_timesteps)
    stride = num_timesteps // num_steps
    if (num_steps - 1) * stride + offset >= num_timesteps:
        raise EditError(
            f"{num_steps} leading steps with offset {offset} go beyond level {num_timesteps - 1}; give fewer steps"
        )
    return tuple(i * stride + offset for i in range(num_steps))[::-1]


def trailing_timesteps(num_steps: int, num_timesteps: int = 1000) -> tuple[int, ...]:
    """The `trailing` grid, descending, that begins at the last level: 999, 499 for 2 steps."""
    _check_steps(num_steps, num_timesteps)
    return tuple(round(num_timesteps - i * num_timesteps / num_steps) - 1 for i in range(num_steps))


def linspace_timesteps(num_steps: int, num_timesteps: int = 1000) -> tuple[float, ...]:
    """The `linspace` grid, descending from the last level to 0, between levels where they do not divide; (0,) for one."""
    _check_steps(num_steps, num_timesteps)
    return tuple(i * (num_timesteps - 1) / max(num_steps - 1, 1) for i in range(num_steps))[::-1]


def truncate(timesteps: tuple[Level, ...], strength: float) -> tuple[Level, ...]:
    """Stable Diffusion's img2img rule: the last min(int(n strength), n) of n timesteps.

    Raises EditError where none is left.
    """
    n = len(timesteps)
    keep = min(int(n * strength + _ROUNDING), n)
    if keep < 1:
        more = f"at least {math.ceil(1.0 / strength - _ROUNDING)} steps or " if strength > 0 else ""
        raise EditError(
            f"strength {strength:g} leaves none of {n} steps; give {more}a strength of at least {1.0 / max(n, 1):.4g}"
        )
    return timesteps[n - keep :]


def even_timesteps(num_steps: int, t_max: int) -> tuple[int, ...]:
    """`num_steps` levels evenly down from t_max, as the difference loop takes them: (500, 250) for 2 steps from 500."""
    if num_steps < 1 or not num_steps <= t_max <= 999:
        raise EditError(
            f"{num_steps} steps from level {t_max} are impossible; accepted: levels up to 999, at least one a step"
        )
    return tuple(round(t_max * (num_steps - i) / num_steps) for i in range(num_steps))


def _check_steps(num_steps: int, most: int) -> None:
    if not 1 <= num_steps <= most:
        raise EditError(f"{num_steps} steps are impossible; accepted: 1 to {most}")
