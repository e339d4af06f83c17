"""Guidance: wrappers that turn denoisers into a guided denoiser, and steps into a step that guides the latents after
it, so that samplers never learn of it.

x0 is affine in eps at fixed (x, t), so mixing x0 with weights that sum to one is mixing eps with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal

from mien.engine.errors import EditError, ShapeError
from mien.engine.sampler import Denoiser, Step
from mien.engine.schedule import Schedule

Branches = Callable[[Any, Any, tuple[str, ...]], Any]
"""(x (B, C, h, w), t, names) -> x0 (len(names) B, C, h, w): one evaluation, a block of B rows for each named condition."""

ResidualKind = Literal["none", "self", "initialize"]
RESIDUAL_KINDS: tuple[ResidualKind, ...] = ("none", "self", "initialize")
# 2 w / N with the published w = 100 and N = 4 x 64 x 64, whatever the resolution is; down to step 25 of 50, level 481.
LATENT_GUIDANCE, GUIDED_DOWN_TO = 200 / 16384, 0.48


def cfg_weights(guidance_scale: float) -> dict[str, float]:
    """Of the conditions `none` and `text`, for `mix`; without those whose weight is 0. Classifier-free guidance (Ho and
    Salimans 2022): none + scale (text - none).
    """
    return _present({"none": 1.0 - guidance_scale, "text": guidance_scale})


def dual_weights(guidance_scale: float, image_guidance_scale: float) -> dict[str, float]:
    """Of the conditions `none`, `image` and `image_text`, for `mix`; without those whose weight is 0. InstructPix2Pix (Brooks
    et al. 2023, equation 3): e(0,0) + s_I (e(I,0) - e(0,0)) + s_T (e(I,T) - e(I,0)).

    Two equal scales need no row `image`, an image_guidance_scale of 1 none of `none`; two of 1 leave `image_text` alone.
    """
    text, image = guidance_scale, image_guidance_scale
    return _present({"none": 1.0 - image, "image": image - text, "image_text": text})


def mix(branches: Branches, weights: Mapping[str, float]) -> Denoiser:
    """The weighted sum of conditions, one batched evaluation per call.

    Raises ShapeError where it answers another number of rows.
    """
    names = tuple(weights)

    def guided(x: Any, t: Any) -> Any:
        x0, rows = branches(x, t, names), len(x)
        if len(x0) != rows * len(names):
            raise ShapeError(
                f"a guided evaluation answered {len(x0)} rows; {rows} each for {', '.join(names)} are needed"
            )
        if len(names) == 1 and weights[names[0]] == 1.0:
            return x0
        blocks = [weights[name] * x0[i * rows : (i + 1) * rows] for i, name in enumerate(names)]
        return sum(blocks[1:], start=blocks[0])

    return guided


def residual_cfg(
    kind: ResidualKind,
    conditional: Denoiser,
    unconditional: Denoiser,
    schedule: Schedule,
    source: Any,
    guidance_scale: float,
    delta: float = 1.0,
) -> Denoiser:
    """StreamDiffusion's residual guidance (Kodaira et al. 2023, section 3.2), a denoiser for ONE frame whose first call is at
    its first timestep.

    An anchor stands for the unconditional answer at every step: the frame's own clean latents `source` (`self`), or
    unconditional's x0 of the first step (`initialize`), which runs never else. The stock noise of the published code,
    updated from step to step, is (x - alpha anchor) / sigma at every step but for the boundary terms of LCM, below 1e-5: so
    it needs no memory. delta: of that noise; lower keeps more of the source. Raises EditError.
    """
    if kind not in RESIDUAL_KINDS:
        raise EditError(f"residual guidance {kind!r} is unknown; accepted: {', '.join(RESIDUAL_KINDS)}")
    if kind == "none" or guidance_scale == 1.0:
        return conditional
    anchor = source if kind == "self" else None

    def guided(x: Any, t: Any) -> Any:
        nonlocal anchor
        if anchor is None:
            anchor = unconditional(x, t)
        negative = delta * anchor + (1.0 - delta) / schedule.alpha(t) * x
        return negative + guidance_scale * (conditional(x, t) - negative)

    return guided


def guide_latents(x: Any, x0: Any, x0_previous: Any, coefficient: float = LATENT_GUIDANCE) -> Any:
    """Pix2Video's guided latent update (Ceylan et al. 2023) in closed form.

    x: after a step. x0, x0_previous: that step's clean latents of this and of the previous frame. x less the gradient by x0
    of w mean((x0_previous - x0)^2).
    """
    return x - coefficient * (x0 - x0_previous)


def guide_step(step: Step, memory: MutableMapping[float, Any], coefficient: float = LATENT_GUIDANCE) -> Step:
    """A step followed by `guide_latents` at the levels of the schedule's upper half, 0.48 T and above.

    memory: timestep -> the previous frame's x0, empty for the first frame; one per track and kept between its frames, which
    come in order. Lower levels take and leave nothing.
    """

    def guided(schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, noise: Any) -> Any:
        out = step(schedule, x0, x, t, target, noise)
        if t < GUIDED_DOWN_TO * schedule.num_timesteps:
            return out
        previous, memory[t] = memory.get(t), x0
        return out if previous is None else guide_latents(out, x0, previous, coefficient)

    return guided


def blend_latents(x: Any, background: Any, mask: Any) -> Any:
    """mask x + (1 - mask) background; mask in [0, 1] broadcasts over them, 1 where the edit is."""
    return mask * x + (1.0 - mask) * background


def blend_step(step: Step, mask: Any, source: Any, noise: Any) -> Step:
    """A step followed by `blend_latents` with the source at the same level, clean after the last step (Avrahami et al.
    2022).

    source: the frame's clean latents. noise: what they were noised with at the start, the same at every level, so that the
    background stays exact.
    """

    def blended(schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, fresh: Any) -> Any:
        out = step(schedule, x0, x, t, target, fresh)
        background = source if target is None else schedule.add_noise(source, noise, target)
        return blend_latents(out, background, mask)

    return blended


def _present(weights: dict[str, float]) -> dict[str, float]:
    return {name: weight for name, weight in weights.items() if weight != 0.0}
