"""Samplers against transcriptions of their papers' formulas in float64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from mien.engine.sampler import lcm_boundary, sample_difference, sample_steps, step_ddim, step_lcm, step_tcd
from mien.engine.schedule import Schedule, even_timesteps, lcm_timesteps, leading_timesteps

SHAPE = (1, 4, 6, 5)
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def denoiser(x: Any, t: int) -> Any:
    """Some smooth function of x and t."""
    return np.tanh(x) * (1 - t / 2000) + 0.1 * np.roll(x, 1, axis=-1)


def draw(seed: int, count: int) -> list[Any]:
    return list(np.random.default_rng(seed).standard_normal((count, *SHAPE)))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lcm(steps: int) -> None:
    x, *noise = draw(1, steps + 1)
    grid = lcm_timesteps(steps, 0.5)
    got = sample_steps(step_lcm, denoiser, x, Schedule(), grid, noise)
    for i, t in enumerate(grid):
        x0 = denoiser(x, t)
        denoised = 10 * t / math.sqrt((10 * t) ** 2 + 0.25) * x0 + 0.25 / ((10 * t) ** 2 + 0.25) * x
        if i + 1 < steps:
            x = math.sqrt(ABAR[grid[i + 1]]) * denoised + math.sqrt(1 - ABAR[grid[i + 1]]) * noise[i]
    np.testing.assert_allclose(got, denoised, rtol=1e-9, atol=1e-12)


def test_lcm_boundary_is_negligible_from_19_on() -> None:
    c_skip, c_out = lcm_boundary(19)
    assert c_skip < 7e-6 and 1 - c_out < 1e-5
    assert lcm_boundary(0) == (1.0, 0.0)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_tcd(steps: int, gamma: float) -> None:
    x, *noise = draw(2, steps + 1)
    grid = lcm_timesteps(steps)
    got = sample_steps(partial(step_tcd, gamma=gamma), denoiser, x, Schedule(), grid, noise)
    for i, t in enumerate(grid):
        target = grid[i + 1] if i + 1 < steps else 0
        s = math.floor((1 - gamma) * target)
        x0 = denoiser(x, t)
        eps = (x - math.sqrt(ABAR[t]) * x0) / math.sqrt(1 - ABAR[t])
        x = math.sqrt(ABAR[s]) * x0 + math.sqrt(1 - ABAR[s]) * eps
        if gamma > 0 and i + 1 < steps:
            x = math.sqrt(ABAR[target] / ABAR[s]) * x + math.sqrt(1 - ABAR[target] / ABAR[s]) * noise[i]
    np.testing.assert_allclose(got, x, rtol=1e-8, atol=1e-11)


def test_ddim_recovers_the_picture_of_a_perfect_denoiser() -> None:
    x0, noise = draw(3, 2)
    schedule, grid = Schedule(), leading_timesteps(5)
    start = schedule.add_noise(x0, noise, grid[0])
    np.testing.assert_allclose(sample_steps(step_ddim, lambda x, t: x0, start, schedule, grid), x0, atol=1e-12)


def test_ddim_steps() -> None:
    (x,) = draw(4, 1)
    grid = (801, 401, 1)
    got = sample_steps(step_ddim, denoiser, x, Schedule(), grid)
    for i, t in enumerate(grid):
        kept = ABAR[grid[i + 1]] if i + 1 < len(grid) else 1.0
        x0 = denoiser(x, t)
        eps = (x - math.sqrt(ABAR[t]) * x0) / math.sqrt(1 - ABAR[t])
        x = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * eps
    np.testing.assert_allclose(got, x, rtol=1e-9, atol=1e-12)


def test_inversion_leads_back() -> None:
    """With a constant noise prediction, each inverse step undoes its forward step exactly."""
    x, noise = draw(5, 2)
    schedule, up = Schedule(), leading_timesteps(20)[::-1]

    def steady(x: Any, t: int) -> Any:
        return (x - schedule.sigma(t) * noise) / schedule.alpha(t)

    noisy = sample_steps(partial(step_ddim, final=up[-1]), steady, x, schedule, up[:-1])
    assert np.abs(noisy - x).max() > 0.5
    back = sample_steps(partial(step_ddim, final=up[0]), steady, noisy, schedule, up[:0:-1])
    np.testing.assert_allclose(back, x, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_difference_against_its_definition(steps: int) -> None:
    z, *noise = draw(6, steps + 1)
    grid, gain = even_timesteps(steps, 500), 1.5

    def edited(x: Any, t: int) -> Any:
        return denoiser(x, t) + 0.2 * np.cos(x)

    got = sample_difference(lambda a, b, t: edited(b, t) - denoiser(a, t), z, Schedule(), grid, noise, gain)
    out = z
    for t, n in zip(grid, noise, strict=True):
        a, s = math.sqrt(ABAR[t]), math.sqrt(1 - ABAR[t])
        out = z + gain * (edited(a * out + s * n, t) - denoiser(a * z + s * n, t))
    np.testing.assert_allclose(got, out, rtol=1e-9, atol=1e-12)
    assert np.abs(got - z).max() > 0.05


def test_difference_of_equal_branches_is_the_source_bit_for_bit() -> None:
    z, *noise = draw(7, 4)
    z, noise = z.astype(np.float32), [n.astype(np.float32) for n in noise]
    got = sample_difference(
        lambda a, b, t: denoiser(b, t) - denoiser(a, t), z, Schedule(), even_timesteps(3, 600), noise
    )
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, z)


def test_torch_and_numpy_agree() -> None:
    torch = pytest.importorskip("torch")
    x, *noise = draw(9, 3)
    scaled = lambda x, t: 0.5 * x + t / 1000  # noqa: E731
    tensor, *drawn = (torch.from_numpy(array) for array in (x, *noise))
    ours = sample_steps(step_tcd, scaled, x, Schedule(), (999, 499), noise)
    theirs = sample_steps(step_tcd, scaled, tensor, Schedule(), (999, 499), drawn)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12)
