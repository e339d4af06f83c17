"""Every sampler and grid against diffusers' schedulers, run as its img2img pipelines run them, on the same fake network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from mien.engine.errors import EditError
from mien.engine.sampler import sample_steps, step_ddim, step_of
from mien.engine.sampling import Sampling, preset
from mien.engine.schedule import Prediction, Schedule, leading_timesteps, trailing_timesteps

diffusers = pytest.importorskip("diffusers")
# EulerDiscreteScheduler.set_timesteps hands a torch tensor to np.array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (1, 4, 6, 5)
STRENGTHS = [k / 10 for k in range(1, 11)]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")
BETAS = ("scaled_linear", "linear")
Run = Callable[[Any, Any, Any, int], Any]


def draw(seed: int, *shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT, PHASE = draw(0, 4, 4), draw(1, 1, 4, 1, 1)


def network(x: Any, t: float) -> Any:
    """A fixed function of x and t, of the size of a noise."""
    mixed = torch.einsum("oc,bchw->bohw", WEIGHT, x.double()) + 0.5 * x.double().roll(1, -1)
    return 1.5 * torch.tanh(0.7 * mixed + torch.sin(float(t) / 170 + PHASE))


def make(name: str, betas: str, prediction: str, **config: Any) -> Any:
    config |= {} if name == "EulerDiscreteScheduler" else {"clip_sample": False}
    return getattr(diffusers, name)(
        beta_start=0.00085, beta_end=0.012, beta_schedule=betas, prediction_type=prediction, **config
    )


def run_pipeline(scheduler: Any, n: int, strength: float, source: Any, noise: Any, **step: Any) -> Any:
    """Image-to-image with truncation, the ordinary rule."""
    scheduler.set_timesteps(n)
    start = n - min(int(n * strength), n)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return run(scheduler, scheduler.timesteps[start:], source, noise, **step)


def run_subset(scheduler: Any, n: int, strength: float, source: Any, noise: Any, **step: Any) -> Any:
    """Image-to-image of LCM's pipeline: the strength goes into the grid."""
    scheduler.set_timesteps(n, strength=strength)
    return run(scheduler, scheduler.timesteps, source, noise, **step)


def run(scheduler: Any, timesteps: Any, source: Any, noise: Any, **step: Any) -> Any:
    if not len(timesteps):
        raise ValueError("no step is left")
    x = scheduler.add_noise(source, noise, timesteps[:1])
    for t in timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **step).prev_sample
    return x


def ours(sampling: Sampling, betas: str, prediction: Prediction, n: int, strength: float, seed: int = 5) -> Any:
    """The same run by mien's samplers; noise drawn in the order in which diffusers draws it from a generator."""
    schedule = Schedule(betas)  # type: ignore[arg-type]
    timesteps = sampling.timesteps(n, strength)
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in timesteps[1:]]

    def denoiser(x: Any, t: float) -> Any:
        return schedule.to_x0(network(x, t), x, t, prediction)

    x = schedule.add_noise(draw(2, *SHAPE), draw(3, *SHAPE), timesteps[0])
    return sample_steps(step_of(sampling), denoiser, x, schedule, timesteps, noise)


def compare(got: Any, wanted: Any) -> None:
    error = float((got - wanted).abs().max() / wanted.abs().max())
    assert error < 1e-4, error


def each_strength(sampling: Sampling, theirs: Run, betas: str, prediction: Prediction, n: int) -> None:
    """Compare at every strength; where diffusers has no step left or refuses, so must we."""
    compared = 0
    for strength in STRENGTHS:
        try:
            wanted = theirs(n, strength, draw(2, *SHAPE), draw(3, *SHAPE))
        except ValueError:
            with pytest.raises(EditError, match="strength of at least"):
                sampling.timesteps(n, strength)
            continue
        compare(ours(sampling, betas, prediction, n, strength), wanted)
        compared += 1
    assert compared == (10 - (10 - 1) // n if sampling.strength_rule == "truncate" else 10 - (n > 5))


def generator() -> Any:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", range(1, 9))
def test_lcm(n: int, prediction: Prediction, betas: str) -> None:
    scheduler = make("LCMScheduler", betas, prediction)
    for rule, way in (("subset", run_subset), ("truncate", run_pipeline)):
        theirs = lambda *args, way=way: way(scheduler, *args, generator=generator())  # noqa: E731
        each_strength(Sampling("lcm", "lcm", rule), theirs, betas, prediction, n)  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", range(1, 9))
def test_tcd(n: int, prediction: Prediction, gamma: float) -> None:
    scheduler = make("TCDScheduler", "scaled_linear", prediction)
    for rule, way in (("subset", run_subset), ("truncate", run_pipeline)):
        sampling = Sampling("tcd", "lcm", rule, gamma=gamma)  # type: ignore[arg-type]
        theirs = lambda *args, way=way: way(scheduler, *args, generator=generator(), eta=gamma)  # noqa: E731
        each_strength(sampling, theirs, "scaled_linear", prediction, n)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", range(1, 9))
def test_ddim_leading(n: int, prediction: Prediction, betas: str, clean: bool) -> None:
    sampling = Sampling("ddim", "leading", "truncate", set_alpha_to_one=clean)
    scheduler = make("DDIMScheduler", betas, prediction, set_alpha_to_one=clean, steps_offset=1)
    each_strength(sampling, partial(run_pipeline, scheduler), betas, prediction, n)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", [1, 2, 4, 5, 8])
def test_ddim_trailing(n: int, prediction: Prediction, betas: str, clean: bool) -> None:
    sampling = Sampling("ddim", "trailing", "truncate", set_alpha_to_one=clean)
    scheduler = make("DDIMScheduler", betas, prediction, set_alpha_to_one=clean, timestep_spacing="trailing")
    each_strength(sampling, partial(run_pipeline, scheduler), betas, prediction, n)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", [3, 6, 7])
def test_ddim_trailing_where_steps_do_not_divide(n: int, prediction: Prediction, clean: bool) -> None:
    """There diffusers steps to t - 1000 // n, a level beside the next timestep, and its last step to level 0 for 6 and 7.

    Step by step with its targets the results agree; our own lead to the next timestep, and to the end that was asked for.
    """
    scheduler = make("DDIMScheduler", "scaled_linear", prediction, set_alpha_to_one=clean, timestep_spacing="trailing")
    schedule, final = Schedule(), -1 if clean else 0
    sampling = Sampling("ddim", "trailing", "truncate", set_alpha_to_one=clean)

    def denoiser(x: Any, t: int) -> Any:
        return schedule.to_x0(network(x, t), x, t, prediction)

    for strength in STRENGTHS:
        if int(n * strength) == 0:
            with pytest.raises(EditError):
                sampling.timesteps(n, strength)
            continue
        wanted = run_pipeline(scheduler, n, strength, draw(2, *SHAPE), draw(3, *SHAPE))
        timesteps = sampling.timesteps(n, strength)
        assert timesteps == tuple(scheduler.timesteps.tolist())[-len(timesteps) :]
        x = schedule.add_noise(draw(2, *SHAPE), draw(3, *SHAPE), timesteps[0])
        targets = [t - 1000 // n for t in timesteps]
        for t, target in zip(timesteps, targets, strict=True):
            x = step_ddim(schedule, denoiser(x, t), x, t, target if target >= 0 else final)
        compare(x, wanted)
        off = (ours(sampling, "scaled_linear", prediction, n, strength) - wanted).abs().max() / wanted.abs().max()
        assert off < (0.1 if clean and n > 3 else 0.02)


@pytest.mark.parametrize("spacing, offset", [("trailing", 0), ("leading", 0), ("leading", 1), ("linspace", 0)])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("n", range(1, 9))
def test_euler(n: int, prediction: Prediction, betas: str, spacing: Any, offset: int) -> None:
    """diffusers' runs in sigma space, x / alpha; at its end alpha is 1, so the answers need no rescaling."""
    sampling = Sampling("euler", spacing, "truncate", steps_offset=offset)
    scheduler = make("EulerDiscreteScheduler", betas, prediction, timestep_spacing=spacing, steps_offset=offset)
    theirs = lambda *args: run_pipeline(scheduler, *args, generator=generator())  # noqa: E731
    each_strength(sampling, theirs, betas, prediction, n)


@pytest.mark.parametrize("n", range(1, 51))
def test_grids_of_more_steps(n: int) -> None:
    lcm = make("LCMScheduler", "linear", "epsilon", original_inference_steps=100)
    for strength in STRENGTHS:
        sampling = Sampling(origin_steps=100)
        try:
            lcm.set_timesteps(n, strength=strength)
        except ValueError:
            with pytest.raises(EditError):
                sampling.timesteps(n, strength)
            continue
        off = [a - b for a, b in zip(sampling.timesteps(n, strength), lcm.timesteps.tolist(), strict=True)]
        assert not any(off) if n <= 8 else {0, -10} >= set(off)  # beyond, its float indices miss whole numbers
    for spacing, grid in (("leading", leading_timesteps(n)), ("trailing", trailing_timesteps(n))):
        ddim = make("DDIMScheduler", "linear", "epsilon", timestep_spacing=spacing, steps_offset=1)
        ddim.set_timesteps(n)
        if (spacing, n) != ("trailing", 48):  # there its float steps miss exact halves
            assert grid == tuple(ddim.timesteps.tolist())


def test_ddim_50_at_half_strength_is_the_published_one() -> None:
    sampling = preset("ddim")
    scheduler = make("DDIMScheduler", "scaled_linear", "epsilon", set_alpha_to_one=False, steps_offset=1)
    wanted = run_pipeline(scheduler, 50, 0.5, draw(2, *SHAPE), draw(3, *SHAPE))
    assert sampling.timesteps(strength=0.5)[0] == 481
    compare(ours(sampling, "scaled_linear", "epsilon", 50, 0.5), wanted)


def test_float32_agrees() -> None:
    """The engine's own precision, at the most steps and the least signal."""
    schedule = Schedule("linear")
    sampling = Sampling("ddim", "trailing", "truncate")
    source, noise = draw(2, *SHAPE).float(), draw(3, *SHAPE).float()
    scheduler = make("DDIMScheduler", "linear", "v_prediction", timestep_spacing="trailing")
    wanted = run_pipeline(scheduler, 8, 1.0, source, noise)
    timesteps = sampling.timesteps(8)

    def denoiser(x: Any, t: float) -> Any:
        return schedule.to_x0(network(x, t).float(), x, t, "v_prediction")

    x = schedule.add_noise(source, noise, timesteps[0])
    compare(sample_steps(step_of(sampling), denoiser, x, schedule, timesteps), wanted)
