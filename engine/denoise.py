"""One crop through a latent diffusion model, by a method's wishes: what rows there are, how they are mixed, what their
attention sees, which sampler runs.

`replace` starts from the noised crop and answers a new one; `delta` answers what the edited rows make different from the
source's rows, both noised alike (`sample_difference`). Noise is fixed per track and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mien.engine.bank import OWN, Bank, Policy
from mien.engine.errors import EditError
from mien.engine.guidance import ResidualKind, blend_step, guide_step, mix, residual_cfg
from mien.engine.latent_model import Condition, FrameInputs, LatentModel
from mien.engine.motion import MotionField
from mien.engine.sampler import Step, sample_difference, sample_steps, step_lcm
from mien.engine.types import Array, FaceTrack

Weights = Mapping[str, float]
"""Names of conditions and their shares in the mixed answer; they sum to one."""

Conditions = Callable[[float], Mapping[str, Condition]]
"""Timestep -> the conditions by name that hold there."""


@dataclass(frozen=True, slots=True, eq=False)
class Wishes:
    """What a method wants done to every crop.

    timesteps: descending. edited, source: the rows of the edited answer and, for `delta`, of the source's. step: of
    `replace`. guided: whether the previous frame's clean latents guide the latents after each step (Pix2Video). residual: how
    the unconditional row of `edited` is stood for in `replace` (StreamDiffusion). motion: pixels of a 512 px crop that a
    frame moves by, for frames made from noise in two steps or more (Text2Video-Zero); smooth: whether their background,
    made anew too, is drawn to the first frame's. Raises EditError for a residual where there is no unconditional row.
    """

    timesteps: Sequence[float]
    edited: Weights
    source: Weights = field(default_factory=dict)
    step: Step = step_lcm
    policy: Policy = OWN
    guided: bool = False
    residual: ResidualKind = "none"
    motion: tuple[float, float] | None = None
    smooth: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_residual(self.residual, self.edited)


class CropDenoiser:
    """Runs `Wishes` on crops; one object serves every track."""

    def __init__(self, model: LatentModel, wishes: Wishes) -> None:
        self._model, self._wishes = model, wishes

    def replace(
        self,
        track: FaceTrack,
        z: Array,
        conditions: Conditions,
        frame: FrameInputs,
        background: Array | None = None,
    ) -> Array:
        """Latents (1, C, h, w) of the crop made anew from its clean latents z.

        background: (1, 1, h, w) in [0, 1], 1 where the edit is; elsewhere the source stays in the latents, unless they are
        wished smooth. None: nowhere.
        """
        wishes, schedule = self._wishes, self._model.schedule
        noise = self.noise(track, z)
        step = wishes.step
        if background is not None and not wishes.smooth:
            step = blend_step(step, background, z, noise[0])
        if wishes.guided:
            step = guide_step(step, guided_memory(track))
        branches = partial(self._branches, track, conditions, frame, "edited")
        denoiser = mix(branches, wishes.edited)
        if wishes.residual != "none":
            text, nothing = mix(branches, {"text": 1.0}), mix(branches, {"none": 1.0})
            denoiser = residual_cfg(wishes.residual, text, nothing, schedule, z, wishes.edited["text"])
        start, begin = schedule.add_noise(z, noise[0], wishes.timesteps[0]), 0
        field = None if wishes.motion is None else MotionField.of(track, wishes.motion, wishes.timesteps)
        if field is not None:
            step = field.recording(step, start)
            if field.frame:
                begin, start = field.begin(schedule, noise[0], background if wishes.smooth else None)
        out = sample_steps(step, denoiser, start, schedule, wishes.timesteps[begin:], noise[begin + 1 :])
        if field is not None:
            field.frame += 1
        return np.asarray(out, np.float32)

    def difference(self, track: FaceTrack, z: Array, conditions: Conditions, frame: FrameInputs) -> Array:
        """Latents (1, C, h, w) of the crop z edited by the difference of the two answers."""
        wishes, schedule = self._wishes, self._model.schedule
        rows = [("source", name) for name in wishes.source] + [("edited", name) for name in wishes.edited]
        shares = {"source": wishes.source, "edited": wishes.edited}

        def both(z_t: Array, other_t: Array, t: int) -> Array:
            x = np.concatenate([z_t if side == "source" else other_t for side, _ in rows])
            x0 = self._predict(track, conditions, frame, x, t, rows)
            signed = [(1 if side == "edited" else -1) * shares[side][name] for side, name in rows]
            return np.asarray(np.tensordot(np.asarray(signed, np.float32), x0, (0, 0))[None])

        return np.asarray(sample_difference(both, z, schedule, list(map(int, wishes.timesteps)), self.noise(track, z)))

    def _branches(
        self,
        track: FaceTrack,
        conditions: Conditions,
        frame: FrameInputs,
        side: str,
        x: Array,
        t: float,
        names: tuple[str, ...],
    ) -> Array:
        return self._predict(track, conditions, frame, np.repeat(x, len(names), 0), t, [(side, name) for name in names])

    def _predict(
        self,
        track: FaceTrack,
        conditions: Conditions,
        frame: FrameInputs,
        x: Array,
        t: float,
        rows: Sequence[tuple[str, str]],
    ) -> Array:
        policy = self._wishes.policy
        bank: Bank | None = None
        if policy.frames:
            track.bank = bank = track.bank or Bank(policy.frames)
        at = conditions(t)
        named = [(f"{side}.{name}", at[name]) for side, name in rows]
        return self._model.predict(x, t, named, frame, bank, policy)

    def noise(self, track: FaceTrack, z: Array) -> list[Array]:
        """(1, C, h, w) for every step, the same for every frame of a track: drawn from (seed, track, step) once."""
        for step in range(len(self._wishes.timesteps)):
            if step not in track.noise or track.noise[step].shape != z.shape:
                drawn = np.random.default_rng((self._wishes.seed, track.track_id, step)).standard_normal(z.shape[1:])
                track.noise[step] = drawn.astype(np.float32)[None]
        return [track.noise[step] for step in range(len(self._wishes.timesteps))]


def check_residual(kind: ResidualKind, edited: Weights) -> None:
    """Raise EditError where residual guidance is asked of rows that are not `none` and `text`."""
    if kind != "none" and set(edited) != {"none", "text"}:
        more = (
            ", or give a --guidance-scale above 1, unless the UNet is told the scale itself"
            if set(edited) == {"text"}
            else ""
        )
        raise EditError(
            f"residual_cfg is {kind!r}, which stands for the row 'none' beside 'text', but here the rows are"
            f" {', '.join(edited)}: leave it out{more}"
        )


def guided_memory(track: FaceTrack) -> MutableMapping[float, Array]:
    """Timestep -> the previous frame's clean latents, of a track."""
    memory: MutableMapping[float, Array] = track.memory.setdefault("guided", {})
    return memory


def end_frame(track: FaceTrack) -> None:
    """A frame of the track is done: its keys and values become the bank's."""
    if track.bank is not None:
        track.bank.step_frame()
