"""Text2Video-Zero's motion field: where latents go, and what the second frame begins with."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from mien.engine.denoise import CropDenoiser, Wishes
from mien.engine.latent_model import Condition, FrameInputs, LatentModel
from mien.engine.motion import BACKGROUND_SHARE, MotionField, motion_levels, moved
from mien.engine.sampler import sample_steps, step_ddim
from mien.engine.schedule import Schedule, leading_timesteps
from mien.engine.types import Array, FaceTrack

Z: Array = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
NOISE: Array = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)


def test_the_published_levels_are_found() -> None:
    grid = leading_timesteps(50)
    top, low = motion_levels(grid)
    assert (grid[top], grid[low]) == (941, 881)
    assert motion_levels((999, 499)) == (0, 1) and motion_levels((999,)) == (0, 0)


@pytest.mark.parametrize("shift", [(0, 0), (64, 0), (-64, 128), (12, 12), (640, -3000)])
def test_motion_is_a_translation_with_reflection(shift: tuple[float, float]) -> None:
    dx, dy = (round(s * 8 / 512) for s in shift)
    wide = np.pad(Z, ((0, 0), (0, 0), (64, 64), (64, 64)), mode="reflect")
    expected = wide[:, :, 64 - dy : 72 - dy, 64 - dx : 72 - dx]
    np.testing.assert_array_equal(moved(Z, shift), expected)


def test_the_second_frame_begins_with_the_first_ones_latents_moved() -> None:
    schedule, track, timesteps = Schedule(), FaceTrack(0), (999, 749, 499, 249)

    def denoiser(x: Array, t: int) -> Array:
        return np.tanh(x) * 0.5

    field = MotionField.of(track, (64.0, 0.0), timesteps)
    step = field.recording(step_ddim, Z)
    sample_steps(step, denoiser, Z, schedule, timesteps)
    field.frame += 1
    at_low = step_ddim(schedule, denoiser(Z, 999), Z, 999, 749)
    expected = schedule.renoise(moved(at_low, (64, 0)), NOISE, 749, 999)
    assert MotionField.of(track, (64.0, 0.0), timesteps) is field
    begin, start = field.begin(schedule, NOISE, None)
    assert begin == 0
    np.testing.assert_allclose(start, expected, rtol=1e-5, atol=1e-6)
    person = np.zeros((1, 1, 8, 8), np.float32)
    person[..., :4] = 1.0
    _, smooth = field.begin(schedule, NOISE, person)
    np.testing.assert_array_equal(smooth[..., :4], start[..., :4])
    drawn = start + BACKGROUND_SHARE * (moved(Z, (64, 0)) - start)
    np.testing.assert_allclose(smooth[..., 4:], drawn[..., 4:], rtol=1e-5, atol=1e-5)
    field.frame += 1
    assert np.abs(field.begin(schedule, NOISE, None)[1] - start).max() > 0.1, "the third frame has moved on"


def test_a_first_frame_that_fails_is_not_counted() -> None:
    """The next one is the first then, as if the failed one had never been."""

    class Model:
        schedule, calls = Schedule(), 0

        def predict(self, x: Array, *_: Any) -> Array:
            Model.calls += 1
            if Model.calls == 2:
                raise RuntimeError("this step failed")
            return np.asarray(0.5 * np.tanh(x))

    def frame(track: FaceTrack) -> Array:
        return denoiser.replace(track, Z, lambda t: {"text": Condition({})}, FrameInputs())

    wishes = Wishes((999, 749, 499, 249), {"text": 1.0}, step=step_ddim, motion=(64.0, 0.0))
    denoiser, track = CropDenoiser(cast(LatentModel, Model()), wishes), FaceTrack(1)
    with pytest.raises(RuntimeError, match="this step failed"):
        frame(track)
    later, fresh = [frame(track) for _ in range(2)], FaceTrack(1)
    for got in later:
        np.testing.assert_array_equal(got, frame(fresh))
    assert np.abs(later[1] - later[0]).max() > 0.1, "the second has moved on"


def test_a_smooth_background_comes_of_the_first_frame() -> None:
    class Model:
        schedule = Schedule()

        def predict(self, x: Array, *_: Any) -> Array:
            return np.asarray(0.5 * np.tanh(x))

    def second(smooth: bool) -> Array:
        wishes = Wishes((999, 749, 499, 249), {"text": 1.0}, step=step_ddim, motion=(64.0, 0.0), smooth=smooth)
        denoiser, track = CropDenoiser(cast(LatentModel, Model()), wishes), FaceTrack(1)
        person = np.zeros((1, 1, 8, 8), np.float32)
        person[..., :4] = 1.0
        return [denoiser.replace(track, Z, lambda t: {"text": Condition({})}, FrameInputs(), person) for _ in "12"][1]

    np.testing.assert_allclose(second(False)[..., 4:], Z[..., 4:], atol=1e-5)
    assert np.abs(second(True)[..., 4:] - Z[..., 4:]).max() > 0.1
