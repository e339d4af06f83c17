"""Guidance against direct transcriptions of the published formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import EditError, ShapeError
from mien.engine.guidance import (
    LATENT_GUIDANCE,
    blend_step,
    cfg_weights,
    dual_weights,
    guide_step,
    mix,
    residual_cfg,
)
from mien.engine.sampler import sample_steps, step_ddim, step_lcm
from mien.engine.schedule import Schedule, leading_timesteps

SHAPE = (1, 4, 6, 5)
SCHEDULE = Schedule()
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SHIFT = {"none": 0.0, "text": 0.6, "image": -0.4, "image_text": 0.9}


def draw(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape or SHAPE)


def eps_of(condition: str, x: Any, t: float) -> Any:
    """A network: the noise in x under a condition."""
    return 1.2 * np.tanh(x + SHIFT[condition]) * (1 + t / 4000) + 0.1 * np.roll(x, 1, axis=-1)


def x0_of(condition: str, x: Any, t: float) -> Any:
    return SCHEDULE.to_x0(eps_of(condition, x, t), x, t, "epsilon")


class Branches:
    """One evaluation for several conditions; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, x: Any, t: float, names: tuple[str, ...]) -> Any:
        self.asked.append(names)
        return np.concatenate([x0_of(name, x, t) for name in names])


def guided_eps(x0: Any, x: Any, t: int) -> Any:
    return (x - math.sqrt(ABAR[t]) * x0) / math.sqrt(1 - ABAR[t])


@pytest.mark.parametrize("t", [19, 499, 999])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.5])
def test_cfg(scale: float, t: int) -> None:
    x, branches = draw(0, 2, 4, 6, 5), Branches()
    u, c = eps_of("none", x, t), eps_of("text", x, t)
    x0 = mix(branches, cfg_weights(scale))(x, t)
    np.testing.assert_allclose(guided_eps(x0, x, t), u + scale * (c - u), rtol=1e-7, atol=1e-9)
    assert len(branches.asked) == 1 and len(branches.asked[0]) == (1 if scale in (0.0, 1.0) else 2)


@pytest.mark.parametrize("t", [19, 499, 999])
@pytest.mark.parametrize(
    ("text", "image", "rows"),
    [
        (7.5, 1.5, ("none", "image", "image_text")),
        (7.5, 1.0, ("image", "image_text")),
        (1.5, 1.5, ("none", "image_text")),
        (0.0, 1.2, ("none", "image")),
        (1.0, 1.0, ("image_text",)),
    ],
)
def test_dual_guidance(text: float, image: float, rows: tuple[str, ...], t: int) -> None:
    x, branches = draw(1, 2, 4, 6, 5), Branches()
    e_00, e_i0, e_it = (eps_of(name, x, t) for name in ("none", "image", "image_text"))
    x0 = mix(branches, dual_weights(text, image))(x, t)
    wanted = e_00 + image * (e_i0 - e_00) + text * (e_it - e_i0)
    np.testing.assert_allclose(guided_eps(x0, x, t), wanted, rtol=1e-7, atol=1e-9)
    assert branches.asked == [rows] == [tuple(dual_weights(text, image))]


def test_an_evaluation_of_too_few_rows_is_refused() -> None:
    guided = mix(lambda x, t, names: x, dual_weights(7.5, 1.5))
    with pytest.raises(ShapeError, match="answered 1 rows"):
        guided(draw(1), 499)


def published_residual(
    kind: str, frames: list[Any], grid: tuple[int, ...], noise: list[Any], scale: float, delta: float
) -> list[Any]:
    """StreamDiffusion's batch with its stock noise, row by row, in float64; rows without a frame hold zeros."""
    n = len(grid)
    a, b = np.sqrt(ABAR[list(grid)]), np.sqrt(1 - ABAR[list(grid)])
    c_skip = [0.25 / ((10 * t) ** 2 + 0.25) for t in grid]
    c_out = [10 * t / math.sqrt((10 * t) ** 2 + 0.25) for t in grid]
    buffer: list[Any] = [np.zeros(SHAPE)] * (n - 1)
    stock: list[Any] = [np.zeros(SHAPE)] * n
    finished = []
    for latents in [*frames, *[np.zeros(SHAPE)] * (n - 1)]:
        x = [a[0] * latents + b[0] * noise[0], *buffer]
        stock = [noise[0], *stock[:-1]]
        eps_c = [eps_of("text", x[k], grid[k]) for k in range(n)]
        if kind == "initialize":
            stock[0] = eps_of("none", x[0], grid[0])
        eps_u = [delta * s for s in stock]
        eps = eps_c if kind == "none" else [u + scale * (c - u) for c, u in zip(eps_c, eps_u, strict=True)]

        def consistency(k: int, at: Any, noise_pred: Any) -> Any:
            return c_out[k] * (at - b[k] * noise_pred) / a[k] + c_skip[k] * at

        x0 = [consistency(k, x[k], eps[k]) for k in range(n)]
        moved = [consistency(k, b[k] * stock[k], eps[k]) for k in range(n)]
        a_next, b_next = [*a[1:], 1.0], [*b[1:], 1.0]
        stock = [noise[(k + 1) % n] + moved[k] * a_next[k] / b_next[k] for k in range(n)]
        buffer = [a[k + 1] * x0[k] + b[k + 1] * noise[k + 1] for k in range(n - 1)]
        finished.append(x0[-1])
    return finished[n - 1 :]


@pytest.mark.parametrize("grid", [(399, 299, 199, 99), (359, 99), (999, 679, 359, 99), (499,)])
@pytest.mark.parametrize("kind", ["none", "self", "initialize"])
@pytest.mark.parametrize(("scale", "delta"), [(1.2, 1.0), (1.6, 0.5)])
def test_residual_cfg(kind: Any, grid: tuple[int, ...], scale: float, delta: float) -> None:
    """Frame by frame without a memory, against the published stream with its stock noise."""
    frames, noise = [draw(10 + i) for i in range(3)], [draw(20 + i) for i in grid]
    wanted = published_residual(kind, frames, grid, noise, scale, delta)
    calls = 0

    def unconditional(x: Any, t: float) -> Any:
        nonlocal calls
        calls += 1
        return x0_of("none", x, t)

    for latents, answer in zip(frames, wanted, strict=True):
        denoiser = residual_cfg(kind, lambda x, t: x0_of("text", x, t), unconditional, SCHEDULE, latents, scale, delta)
        x = SCHEDULE.add_noise(latents, noise[0], grid[0])
        got = sample_steps(step_lcm, denoiser, x, SCHEDULE, grid, noise[1:])
        assert np.abs(got - answer).max() < 1e-4 * np.abs(answer).max()
    assert calls == {"none": 0, "self": 0, "initialize": 3}[kind]


def test_residual_cfg_kinds_differ_and_scale_one_is_none() -> None:
    x, source = SCHEDULE.add_noise(draw(30), draw(31), 499), draw(30)

    def conditional(x: Any, t: float) -> Any:
        return x0_of("text", x, t)

    def answer(kind: Any, scale: float) -> Any:
        return residual_cfg(kind, conditional, lambda x, t: x0_of("none", x, t), SCHEDULE, source, scale)(x, 499)

    answers = [answer(kind, 1.4) for kind in ("none", "initialize", "self")]
    assert min(np.abs(answers[i] - answers[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05
    np.testing.assert_array_equal(answer("self", 1.0), conditional(x, 499))
    np.testing.assert_allclose(answer("self", 1.4), source + 1.4 * (conditional(x, 499) - source))
    with pytest.raises(EditError, match="none, self, initialize"):
        answer("both", 1.4)


@pytest.mark.parametrize("steps", [4, 50])
def test_guided_latent_update(steps: int) -> None:
    """Pix2Video: after each of the first 26 of 50 steps, less the gradient of w mean((x0_previous - x0)^2), w = 100."""
    shape, grid, frames = (1, 4, 64, 64), leading_timesteps(steps), [draw(40 + i, 1, 4, 64, 64) for i in range(3)]
    memory: dict[float, Any] = {}
    previous, step = [], guide_step(step_ddim, memory)
    for start in frames:
        got = sample_steps(step, lambda x, t: x0_of("text", x, t), start, SCHEDULE, grid)
        x, record = start, []
        for i, t in enumerate(grid):
            kept = ABAR[grid[i + 1]] if i + 1 < steps else 1.0
            eps = eps_of("text", x, t)
            x0 = (x - math.sqrt(1 - ABAR[t]) * eps) / math.sqrt(ABAR[t])
            x = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * eps
            if previous and i <= steps // 2 and t > 480:
                x = x - 100 * 2 * (x0 - previous[i]) / np.prod(shape)
            record.append(x0)
        previous = record
        assert np.abs(got - x).max() < 1e-9 * np.abs(x).max()
    assert set(memory) == {t for t in grid if t > 480} and (steps != 50 or len(memory) == 26)
    assert pytest.approx(0.0122, abs=1e-5) == LATENT_GUIDANCE


def test_guided_latent_update_draws_frames_together() -> None:
    apart = []
    for coefficient in (0.0, 0.2):
        step = guide_step(step_ddim, {}, coefficient)
        a, b = (
            sample_steps(step, lambda x, t: x0_of("text", x, t), draw(50 + i), SCHEDULE, (999, 749, 499, 249))
            for i in range(2)
        )
        apart.append(np.abs(a - b).mean())
    assert apart[1] < 0.95 * apart[0]


def test_masked_blending() -> None:
    """Each step by the formula m x_t + (1 - m) (a source + s e), and the background exact at the end."""
    source, e, fresh, grid = draw(60), draw(61), [draw(62), draw(63)], (499, 379, 139)
    mask = np.zeros((1, 1, 6, 5))
    mask[..., 1:4, 2:], mask[..., 4, 2] = 1.0, 0.3
    start = SCHEDULE.add_noise(source, e, grid[0])
    got = sample_steps(
        blend_step(step_lcm, mask, source, e), lambda x, t: x0_of("text", x, t), start, SCHEDULE, grid, fresh
    )
    x = start
    for i, t in enumerate(grid):
        denoised = 10 * t / math.sqrt((10 * t) ** 2 + 0.25) * x0_of("text", x, t) + 0.25 / ((10 * t) ** 2 + 0.25) * x
        kept = ABAR[grid[i + 1]] if i + 1 < len(grid) else 1.0
        x = math.sqrt(kept) * denoised + (math.sqrt(1 - kept) * fresh[i] if i + 1 < len(grid) else 0)
        x = mask * x + (1 - mask) * (math.sqrt(kept) * source + math.sqrt(1 - kept) * e)
    np.testing.assert_allclose(got, x, rtol=1e-9, atol=1e-12)
    outside = np.broadcast_to(mask == 0, SHAPE)
    np.testing.assert_array_equal(got[outside], source[outside])
    assert np.abs(got - source).max() > 0.1
