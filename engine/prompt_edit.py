"""What the methods that are told a prompt have in common: text read once, a crop made anew or by a difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import OWN, Policy
from mien.engine.bundle import Bundle
from mien.engine.denoise import CropDenoiser, Weights, Wishes, end_frame
from mien.engine.difference import covered_share, decode_difference
from mien.engine.edits import Answer, View
from mien.engine.errors import EditError
from mien.engine.guidance import RESIDUAL_KINDS
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.sampler import step_of
from mien.engine.sampling import Sampling
from mien.engine.schedule import even_timesteps
from mien.engine.similarity import SimilarityFilter
from mien.engine.spec import EditSpec, nearest
from mien.engine.stable_diffusion import StableDiffusion
from mien.engine.types import Array, FaceTrack

NETWORKS = ("text_encoder", "context", "unet", "vae_encoder", "vae_decoder")


@dataclass(frozen=True, slots=True)
class Thrift:
    """Options of every prompted method that save work (StreamDiffusion, Kodaira et al. 2023), of `replace` alone.

    residual_cfg: what stands for the unconditional row: none (it runs), self (the source, so that it never runs) or
    initialize (it runs at the first step). similarity: cosine similarity from which a frame may take the last one's answer,
    by chance; 0 for never.
    """

    residual_cfg: str = "none"
    similarity: float = 0.0

    def check(self) -> None:
        """Raise EditError for a value out of range."""
        accepted = tuple(kind for kind in RESIDUAL_KINDS if kind != "full")
        if self.residual_cfg not in accepted:
            raise EditError(
                f"residual_cfg is {self.residual_cfg!r}{nearest(self.residual_cfg, accepted)}; accepted: {', '.join(accepted)}"
            )
        if not 0.0 <= self.similarity <= 1.0:
            raise EditError(f"similarity is {self.similarity:g}; accepted: 0 to 1")


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What one method asks for. edited, source: rows by name, see `Wishes`. conditions: of a track, by name; asked for every
    frame, so it keeps what is dear. frame: what the denoiser is given of a frame.
    """

    edited: Weights
    source: Weights
    conditions: Callable[[FaceTrack, float], Mapping[str, Condition]]
    frame: Callable[[View, Array], FrameInputs] = field(default=lambda view, z: FrameInputs())
    policy: Policy = OWN
    guided: bool = False
    strength: float | None = None
    thrift: Thrift = field(default_factory=Thrift)
    motion: tuple[float, float] | None = None
    smooth: bool = False


class PromptEdit:
    """A method over a `StableDiffusion` model. In `replace` composition the crop is noised to `strength` and made anew; in
    `delta` the frame keeps its own pixels and gains what the edited rows make different from the source's.
    """

    def __init__(self, spec: EditSpec, manifest: Manifest, model: StableDiffusion, recipe: Recipe) -> None:
        self._model, self._recipe = model, recipe
        self.composition = "replace" if spec.composition == "auto" else spec.composition
        sampling = manifest.sampling or Sampling()
        sampling.check(model.schedule)
        strength = spec.strength if spec.strength is not None else recipe.strength or manifest.default_strength
        total, steps = manifest.schedule.num_timesteps, spec.num_steps or manifest.default_num_steps
        if self.composition == "delta":
            timesteps: tuple[float, ...] = even_timesteps(steps, min(round(total * strength), total - 1))
        else:
            timesteps = sampling.timesteps(steps, strength, total)
        self._timesteps = timesteps
        self._seed = spec.seed
        kind = next(kind for kind in RESIDUAL_KINDS if kind == recipe.thrift.residual_cfg)
        wishes = Wishes(
            timesteps,
            recipe.edited,
            recipe.source,
            step_of(sampling),
            recipe.policy,
            recipe.guided,
            kind,
            recipe.motion,
            recipe.smooth,
            spec.seed,
        )
        self._denoiser = CropDenoiser(model, wishes)

    def wants_code(self) -> bool:
        """None by default."""
        return False

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Never asked for."""
        raise EditError("this method has no code")

    def finish(self, track: FaceTrack, view: View) -> Answer:
        """The new crop as a cover, or the difference; the last frame's for one that looks like it."""
        if not self._recipe.thrift.similarity:
            return self._made(track, view)
        same = track.memory.setdefault("similar", SimilarityFilter(self._recipe.thrift.similarity, seed=self._seed))
        if not same.reuse(view.crop):
            track.memory["answer"] = self._made(track, view)
        answer: Answer = track.memory["answer"]
        if answer.cover is not None:
            return Answer(answer.difference, (answer.cover[0], view.mask))
        return answer

    def _made(self, track: FaceTrack, view: View) -> Answer:
        z = self._model.encode(view.crop)
        frame = self._recipe.frame(view, z)

        def conditions(t: float) -> Mapping[str, Condition]:
            return self._recipe.conditions(track, t)

        if self.composition == "replace":
            size = z.shape[2:]
            edited = cv2.resize(view.mask, (size[1], size[0]), interpolation=cv2.INTER_AREA)[None, None]
            out = self._denoiser.replace(track, z, conditions, frame, np.ceil(edited))
            answer = Answer(cover=(self._model.decode(out)[0], view.mask))
        else:
            out = self._denoiser.difference(track, z, conditions, frame)
            difference, picture = decode_difference(self._model.decode, z, out, view.mask)
            answer = Answer(difference)
            if view.hidden is not None:
                answer = Answer(difference, (picture, covered_share(difference) * np.minimum(view.mask, view.hidden)))
        end_frame(track)
        return answer


def bind_model(bundle: Bundle, networks: Mapping[str, Network]) -> StableDiffusion:
    """The model of a bundle's networks."""
    return StableDiffusion(bundle.manifest, networks, bundle.tokenizer)


def guidance_scale(spec: EditSpec, manifest: Manifest) -> float:
    """The user's, or the sampling's."""
    return spec.guidance_scale if spec.guidance_scale is not None else (manifest.sampling or Sampling()).guidance_scale


def is_prompted(spec: EditSpec) -> bool:
    """Whether there is a prompt and a strength that is not 0. Raises EditError for attribute edits, which a prompt has none of."""
    if spec.edits:
        raise EditError(
            f"method {spec.method!r} is told a prompt, it has no edit {spec.edits[0][0]!r}: give --prompt, or --method wplus"
        )
    if not spec.prompt:
        raise EditError(f"method {spec.method!r} needs a prompt: give --prompt")
    return spec.strength != 0.0


def require(spec: EditSpec, manifest: Manifest, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names. Raises EditError where the bundle lacks one."""
    if missing := [name for name in names if name not in manifest.networks]:
        raise EditError(
            f"method {spec.method!r} needs the network{'s' * (len(missing) > 1)} {', '.join(missing)}, which the bundle"
            f" {manifest.name!r} does not have: give a bundle that has, see mien models import"
        )
    return names


def in_channels(manifest: Manifest) -> int:
    """Of the bundle's UNet."""
    return int(manifest.networks["unet"].architecture.kwargs.get("in_channels", 4))
