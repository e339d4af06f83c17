"""StreamDiffusion's stream batch (Kodaira et al. 2023, section 3.1): the steps of successive frames as one batch.

With n steps, row k of a batch is the frame of k pushes ago at step k, so a frame costs one denoiser call and leaves
n - 1 pushes later. The noise is fixed per step and the same for all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mien.engine.errors import ShapeError
from mien.engine.sampler import Step, step_lcm
from mien.engine.schedule import Prediction, Schedule

RowDenoiser = Callable[[Any, tuple[float, ...]], Any]
"""D(x (n, C, h, w), t of each row) -> x0 (n, C, h, w). Rows must not depend on each other."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A frame on its way: its latents at the level of step `index`."""

    x: Any
    index: int
    item: Any
    step: Step


class StreamBatch:
    """A passive object: `push` each frame, `drain` at the end, `reset` to forget. Answers come in order, one for each frame.

    noise: an array (1, C, h, w) for each step, the first for the start. concatenate: np.concatenate or torch.cat.
    pad: whether every call has n rows, as a network of a fixed batch needs; where fewer frames are on their way (the first and
    the last n - 1 calls) the oldest is repeated. Otherwise a call has only their rows.
    After a call that raised, the object is as it was before that step of the stream.
    """

    def __init__(
        self,
        denoiser: RowDenoiser,
        schedule: Schedule,
        timesteps: Sequence[float],
        noise: Sequence[Any],
        concatenate: Callable[[list[Any]], Any],
        step: Step = step_lcm,
        pad: bool = True,
    ) -> None:
        if not timesteps or len(noise) != len(timesteps):
            raise ShapeError(
                f"a stream batch of {len(timesteps)} steps got {len(noise)} noises; give one for each step"
            )
        self._denoiser, self._schedule, self._step = denoiser, schedule, step
        self._timesteps, self._noise = tuple(timesteps), tuple(noise)
        self._concatenate, self._pad = concatenate, pad
        self.reset()

    def reset(self) -> None:
        """Forget the frames on their way."""
        self._rows: tuple[_Row, ...] = ()
        self._items: tuple[Any, ...] = ()

    @property
    def items(self) -> tuple[Any, ...]:
        """What `push` was given with the frame of each row of the batch now in the denoiser, which may ask for it."""
        return self._items

    @property
    def pending(self) -> int:
        """Frames on their way."""
        return len(self._rows)

    def push(self, latents: Any, item: Any = None, step: Step | None = None) -> Any | None:
        """A frame's clean latents (1, C, h, w) -> the oldest frame's finished latents, None while there are none.

        item: anything of the frame that the denoiser needs beside x and t. step: the frame's own, None for the stream's.
        """
        if len(latents) != 1:
            raise ShapeError(f"the latents are of {len(latents)} frames; push one at a time")
        x = self._schedule.add_noise(latents, self._noise[0], self._timesteps[0])
        return self._advance((_Row(x, 0, item, step or self._step), *self._rows))

    def drain(self) -> list[Any]:
        """Finish the frames on their way, oldest first; the stream may begin anew after it."""
        finished = []
        while self._rows:
            latents = self._advance(self._rows)
            if latents is not None:
                finished.append(latents)
        return finished

    def _advance(self, rows: tuple[_Row, ...]) -> Any | None:
        n = len(self._timesteps)
        batch = rows + rows[-1:] * (n - len(rows)) if self._pad else rows
        self._items = tuple(row.item for row in batch)
        x = self._concatenate([row.x for row in batch]) if len(batch) > 1 else batch[0].x
        x0 = self._denoiser(x, tuple(self._timesteps[row.index] for row in batch))
        if len(x0) != len(batch):
            raise ShapeError(f"the denoiser answered {len(x0)} rows for {len(batch)}; it must answer one for each")
        later = []
        for k, row in enumerate(rows):
            i = row.index + 1
            target, noise = (None, None) if i == n else (self._timesteps[i], self._noise[i])
            out = row.step(self._schedule, x0[k : k + 1], row.x, self._timesteps[row.index], target, noise)
            later.append(replace(row, x=out, index=i))
        self._rows = tuple(row for row in later if row.index < n)
        return later[-1].x if later[-1].index == n else None


def rows_to_x0(
    schedule: Schedule,
    output: Any,
    x: Any,
    t: Sequence[float],
    prediction: Prediction,
    concatenate: Callable[[list[Any]], Any],
) -> Any:
    """`Schedule.to_x0` of a batch whose rows are at levels of their own: for the end of a `RowDenoiser`."""
    rows = [schedule.to_x0(output[k : k + 1], x[k : k + 1], level, prediction) for k, level in enumerate(t)]
    return concatenate(rows) if len(rows) > 1 else rows[0]
