"""Schedules and timestep grids against published values."""

from __future__ import annotations

import numpy as np
import pytest

from mien.engine.errors import EditError
from mien.engine.schedule import (
    Schedule,
    even_timesteps,
    lcm_timesteps,
    leading_timesteps,
    linspace_timesteps,
    trailing_timesteps,
    truncate,
)


@pytest.mark.parametrize(
    ("t", "alpha", "sigma"),
    [
        (1, 0.9991, 0.0413),
        (99, 0.9463, 0.3233),
        (259, 0.8118, 0.5840),
        (499, 0.5269, 0.8499),
        (759, 0.2285, 0.9735),
        (999, 0.0683, 0.9977),
    ],
)
def test_stable_diffusion_levels(t: int, alpha: float, sigma: float) -> None:
    schedule = Schedule()
    assert schedule.alpha(t) == pytest.approx(alpha, abs=6e-5)
    assert schedule.sigma(t) == pytest.approx(sigma, abs=6e-5)


def test_animatediff_keeps_less_of_the_source() -> None:
    linear = Schedule(kind="linear")
    assert linear.alpha(499) == pytest.approx(0.4023, abs=6e-5)
    assert linear.alpha(999) == pytest.approx(0.0397, abs=6e-5)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
def test_betas_against_float64(kind: str) -> None:
    schedule = Schedule(kind=kind)  # type: ignore[arg-type]
    if kind == "cosine":
        f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    elif kind == "linear":
        betas = np.linspace(0.00085, 0.012, 1000)
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-9)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-9)


@pytest.mark.parametrize("t", [0, 17, 499, 999])
def test_conversions_close_the_circle(t: int) -> None:
    schedule, rng = Schedule(), np.random.default_rng(t)
    x0, noise = rng.standard_normal((2, 1, 4, 5, 3))
    x = schedule.add_noise(x0, noise, t)
    v = schedule.alpha(t) * noise - schedule.sigma(t) * x0
    np.testing.assert_allclose(schedule.to_x0(v, x, t, "v_prediction"), x0, atol=1e-9)
    np.testing.assert_allclose(schedule.to_x0(noise, x, t, "epsilon"), x0, atol=1e-9)
    np.testing.assert_array_equal(schedule.to_x0(x0, x, t, "sample"), x0)
    np.testing.assert_allclose(schedule.to_eps(x0, x, t), noise, atol=1e-9)


@pytest.mark.parametrize("t", [0.25, 142.714, 998.5])
def test_between_levels_the_noise_to_signal_ratio_is_interpolated(t: float) -> None:
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    ratio = np.interp(t, np.arange(1000), np.sqrt((1 - abar) / abar))
    schedule = Schedule()
    assert schedule.sigma(t) / schedule.alpha(t) == pytest.approx(ratio, rel=1e-9)
    assert schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 == pytest.approx(1)
    assert schedule.kept(float(int(t))) == schedule.alphas_cumprod[int(t)] and schedule.kept(-1) == 1


def test_renoise() -> None:
    """The forward process from t0 to t1: the product of the alphas of (t0, t1], and Text2Video-Zero's of [t0, t1)."""
    schedule, (x, noise) = Schedule(), np.random.default_rng(0).standard_normal((2, 1, 4, 5, 3))
    alphas = 1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    for levels, product in (((881, 941), np.prod(alphas[882:942])), ((880, 940), np.prod(alphas[881:941]))):
        wanted = np.sqrt(product) * x + np.sqrt(1 - product) * noise
        np.testing.assert_allclose(schedule.renoise(x, noise, *levels), wanted, rtol=1e-9)
    np.testing.assert_allclose(schedule.renoise(x, noise, -1, 499), schedule.add_noise(x, noise, 499))
    np.testing.assert_array_equal(schedule.renoise(x, noise, 499, 499), x)
    for levels in ((500, 499), (500, 1000), (-2, 5)):
        with pytest.raises(EditError, match="accepted: a target"):
            schedule.renoise(x, noise, *levels)


@pytest.mark.parametrize(
    ("steps", "strength", "grid"),
    [
        (4, 1.0, (999, 759, 499, 259)),
        (2, 1.0, (999, 499)),
        (8, 1.0, (999, 879, 759, 639, 499, 379, 259, 139)),
        (4, 0.5, (499, 379, 259, 139)),
        (4, 0.4, (399, 299, 199, 99)),
        (2, 0.5, (499, 259)),
        (1, 0.5, (499,)),
    ],
)
def test_lcm_grid(steps: int, strength: float, grid: tuple[int, ...]) -> None:
    assert lcm_timesteps(steps, strength) == grid


def test_other_grids() -> None:
    assert truncate(lcm_timesteps(4), 0.5) == (499, 259)
    assert leading_timesteps(50)[0] == 981 and truncate(leading_timesteps(50), 0.5)[0] == 481
    assert trailing_timesteps(2) == (999, 499) and trailing_timesteps(4) == (999, 749, 499, 249)
    assert linspace_timesteps(4) == (999, 666, 333, 0) and linspace_timesteps(1) == (0,)
    assert linspace_timesteps(3) == (999, 499.5, 0)
    assert all(linspace_timesteps(steps)[0] == 999 for steps in range(2, 1001))  # 29 * (999 / 29) is more than 999
    assert even_timesteps(2, 500) == (500, 250) and even_timesteps(3, 350) == (350, 233, 117)


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(EditError):
        lcm_timesteps(8, 0.1)
    with pytest.raises(EditError, match="at least 2 steps or a strength of at least 1$"):
        truncate((499,), 0.5)
    with pytest.raises(EditError, match="give a strength of at least 0.5"):
        truncate((499, 249), 0.0)
    for grid in (leading_timesteps, trailing_timesteps, linspace_timesteps, lcm_timesteps):
        for steps in (0, 1001):
            with pytest.raises(EditError, match="steps are impossible; accepted: 1 to"):
                grid(steps)
    with pytest.raises(EditError):
        even_timesteps(2, 1000)
