"""The stream batch against the same frames sampled one by one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import ShapeError
from mien.engine.guidance import blend_step, guide_step
from mien.engine.sampler import sample_lcm, sample_steps, step_ddim, step_lcm, step_tcd
from mien.engine.schedule import Schedule, lcm_timesteps
from mien.engine.stream_batch import StreamBatch, rows_to_x0

SHAPE = (1, 4, 6, 5)
SCHEDULE = Schedule()


def draw(seed: int, count: int) -> list[Any]:
    return list(np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32))


def denoise(x: Any, t: float) -> Any:
    """Rows do not depend on each other."""
    return np.tanh(x) * np.float32(1 - t / 2000) + np.float32(0.1) * np.roll(x, 1, axis=-1)


class Rows:
    """A denoiser of rows at levels of their own; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, ...]] = []

    def __call__(self, x: Any, t: tuple[float, ...]) -> Any:
        assert len(x) == len(t)
        self.batches.append(t)
        return np.concatenate([denoise(x[k : k + 1], level) for k, level in enumerate(t)])


def run(stream: StreamBatch, frames: list[Any]) -> list[Any]:
    pushed = [stream.push(latents) for latents in frames]
    return [latents for latents in pushed if latents is not None] + stream.drain()


def one_by_one(frames: list[Any], grid: tuple[int, ...], noise: list[Any]) -> list[Any]:
    starts = [SCHEDULE.add_noise(latents, noise[0], grid[0]) for latents in frames]
    return [sample_lcm(denoise, x, SCHEDULE, grid, noise[1:]) for x in starts]


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equals_frame_by_frame(count: int, steps: int, pad: bool) -> None:
    frames, noise, grid = draw(1, count), draw(2, steps), lcm_timesteps(steps, 0.5)
    denoiser = Rows()
    stream = StreamBatch(denoiser, SCHEDULE, grid, noise, np.concatenate, pad=pad)
    for _ in range(2):  # a drained stream begins anew
        denoiser.batches.clear()
        got = run(stream, frames)
        assert len(got) == count and stream.pending == 0
        for ours, wanted in zip(got, one_by_one(frames, grid, noise), strict=True):
            assert ours.shape == SHAPE and ours.dtype == np.float32
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)
        assert len(denoiser.batches) == count + steps - 1
        sizes = {len(t) for t in denoiser.batches}
        assert sizes == {steps} if pad else max(sizes) == min(count, steps)


def test_one_call_a_frame_and_its_latency() -> None:
    frames, noise, grid = draw(3, 5), draw(4, 3), lcm_timesteps(3, 0.5)
    denoiser = Rows()
    stream = StreamBatch(denoiser, SCHEDULE, grid, noise, np.concatenate)
    finished = []
    for i, latents in enumerate(frames):
        finished.append(stream.push(latents))
        assert len(denoiser.batches) == i + 1 and stream.pending == min(i + 1, 2)
    assert [latents is None for latents in finished] == [True, True, False, False, False]
    assert denoiser.batches[2:] == [grid] * 3
    assert stream.drain()[0] is not None and stream.drain() == []


def test_reset_forgets() -> None:
    frames, noise, grid = draw(5, 3), draw(6, 2), lcm_timesteps(2, 0.5)
    stream = StreamBatch(Rows(), SCHEDULE, grid, noise, np.concatenate)
    stream.push(frames[0])
    stream.reset()
    assert stream.pending == 0 and stream.drain() == []
    got = run(stream, frames[1:])
    for ours, wanted in zip(got, one_by_one(frames[1:], grid, noise), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("step", [step_ddim, partial(step_tcd, gamma=0.3)])
def test_other_samplers(step: Any) -> None:
    frames, noise, grid = draw(7, 5), draw(8, 3), (999, 666, 332)
    got = run(StreamBatch(Rows(), SCHEDULE, grid, noise, np.concatenate, step), frames)
    for latents, ours in zip(frames, got, strict=True):
        x = SCHEDULE.add_noise(latents, noise[0], grid[0])
        np.testing.assert_allclose(
            ours, sample_steps(step, denoise, x, SCHEDULE, grid, noise[1:]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("pad", [True, False])
def test_a_frames_own_item_and_step(pad: bool) -> None:
    """A condition and a mask of its own for every frame, and the previous frame's x0 at the same step."""
    frames, noise, grid = draw(9, 5), draw(10, 3), lcm_timesteps(3)
    masks = [np.full((1, 1, 6, 5), i / 4, np.float32) for i in range(5)]

    def blended(memory: dict[float, Any], i: int) -> Any:
        return blend_step(guide_step(step_lcm, memory, 0.2), masks[i], frames[i], noise[0])

    wanted: list[Any] = []
    memory: dict[float, Any] = {}
    for i, latents in enumerate(frames):
        x = SCHEDULE.add_noise(latents, noise[0], grid[0])
        wanted.append(
            sample_steps(
                blended(memory, i), lambda x, t, i=i: denoise(x, t) + np.float32(i), x, SCHEDULE, grid, noise[1:]
            )
        )

    def denoiser(x: Any, t: tuple[float, ...]) -> Any:
        rows = zip(t, stream.items, strict=True)
        return np.concatenate([denoise(x[k : k + 1], level) + np.float32(i) for k, (level, i) in enumerate(rows)])

    stream = StreamBatch(denoiser, SCHEDULE, grid, noise, np.concatenate, pad=pad)
    memory = {}
    pushed = [stream.push(latents, i, blended(memory, i)) for i, latents in enumerate(frames)]
    for ours, one in zip([x for x in pushed if x is not None] + stream.drain(), wanted, strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(wanted[0], frames[0], atol=1e-6)  # its mask is 0


def test_a_failing_denoiser_takes_no_frame() -> None:
    frames, noise, grid = draw(11, 3), draw(12, 2), lcm_timesteps(2, 0.5)
    fails = False

    def denoiser(x: Any, t: tuple[float, ...]) -> Any:
        if fails:
            raise RuntimeError("out of memory")
        return Rows()(x, t)

    stream = StreamBatch(denoiser, SCHEDULE, grid, noise, np.concatenate)
    assert stream.push(frames[0]) is None
    fails = True
    with pytest.raises(RuntimeError):
        stream.push(frames[1])
    assert stream.pending == 1
    fails = False
    got = [stream.push(frames[1]), stream.push(frames[2]), *stream.drain()]
    for ours, wanted in zip(got, one_by_one(frames, grid, noise), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_wrong_shapes_are_refused() -> None:
    noise = draw(13, 2)
    with pytest.raises(ShapeError, match="one for each step"):
        StreamBatch(Rows(), SCHEDULE, (499, 259), noise[:1], np.concatenate)
    stream = StreamBatch(lambda x, t: x[:1], SCHEDULE, (499, 259), noise, np.concatenate)
    with pytest.raises(ShapeError, match="one at a time"):
        stream.push(np.concatenate(noise))
    with pytest.raises(ShapeError, match="one for each"):
        stream.push(noise[0])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_rows_to_x0(prediction: Any) -> None:
    output, x = np.concatenate(draw(14, 3)), np.concatenate(draw(15, 3))
    got = rows_to_x0(SCHEDULE, output, x, (999, 499, 19), prediction, np.concatenate)
    for k, t in enumerate((999, 499, 19)):
        np.testing.assert_array_equal(got[k], SCHEDULE.to_x0(output[k], x[k], t, prediction))


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    frames, noise, grid = draw(16, 3), draw(17, 2), lcm_timesteps(2, 0.5)
    wanted = run(StreamBatch(lambda x, t: 0.5 * x, SCHEDULE, grid, noise, np.concatenate), frames)
    tensors = [torch.from_numpy(n) for n in noise]
    got = run(
        StreamBatch(lambda x, t: 0.5 * x, SCHEDULE, grid, tensors, torch.cat), [torch.from_numpy(f) for f in frames]
    )
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-6)
