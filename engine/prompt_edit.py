"""What the methods that are told a prompt have in common: text read once, a crop made anew or by a difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import OWN, Policy
from mien.engine.bundle import Bundle
from mien.engine.denoise import CropDenoiser, Weights, Wishes, check_residual, end_frame
from mien.engine.difference import covered_share, decode_difference, two_rows
from mien.engine.edits import Answer, View, read_options
from mien.engine.errors import EditError
from mien.engine.guidance import cfg_weights
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.sampler import step_of
from mien.engine.sampling import Sampling
from mien.engine.schedule import even_timesteps
from mien.engine.similarity import SimilarityFilter
from mien.engine.spec import EditSpec
from mien.engine.stable_diffusion import UNETS, StableDiffusion
from mien.engine.thrift import Thrift, refuse
from mien.engine.types import Array, FaceTrack

NETWORKS = ("text_encoder", "context", "unet", "vae_encoder", "vae_decoder")


def alone(view: View, z: Array) -> FrameInputs:
    """Of a denoiser that is given nothing of a frame beside its noised latents."""
    return FrameInputs()


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What one method asks for. edited, source: rows by name, see `Wishes`. conditions: of a track, by name; asked for every
    frame, so it keeps what is dear. frame: what the denoiser is given of a frame.
    """

    edited: Weights
    source: Weights
    conditions: Callable[[FaceTrack, float], Mapping[str, Condition]]
    frame: Callable[[View, Array], FrameInputs] = alone
    policy: Policy = OWN
    guided: bool = False
    strength: float | None = None
    thrift: Thrift = field(default_factory=Thrift)
    motion: tuple[float, float] | None = None
    smooth: bool = False


class PromptEdit:
    """A method over a `StableDiffusion` model. In `replace` composition the crop is noised to `strength` and made anew; in
    `delta` the frame keeps its own pixels and gains what the edited rows make different from the source's.

    options: the method's dataclass. channels: what its UNet may read. model, recipe, wishes, denoiser: what a GPU's lane does the
    same with, see cuda/face_edit.py.
    """

    options: ClassVar[type[Thrift]] = Thrift
    channels: ClassVar[tuple[int, ...]] = (4,)

    @staticmethod
    def is_active(spec: EditSpec) -> bool:
        """With a prompt."""
        return is_prompted(spec)

    @classmethod
    def networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The model's, and the method's own. Raises EditError where bundle, options and composition do not go together."""
        options = read_options(cls.options, spec)
        require(spec, manifest, NETWORKS)
        require_channels(spec, manifest, cls.channels)
        if composition_of(spec) == "delta":
            refuse(spec, options, options.REPLACE, "--composition replace")
        else:
            refuse(spec, options, options.DELTA, "--composition delta")
        check_residual(options.residual, cls.edited(spec, manifest))
        if spec.sampler is not None:
            raise EditError(
                f"sampler {spec.sampler!r} has no use here: the bundle {manifest.name!r} says how it is sampled, see"
                " mien models import --sampling"
            )
        return require(spec, manifest, (*NETWORKS, *cls.own_networks(spec, manifest)))

    @classmethod
    def own_networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """Those beside the model's."""
        return ()

    @classmethod
    def edited(cls, spec: EditSpec, manifest: Manifest) -> Weights:
        """The rows of the edited answer; text and nothing."""
        return cfg_weights(mixing_scale(spec, manifest))

    @classmethod
    def in_order(cls, spec: EditSpec, manifest: Manifest) -> bool:
        """Frames do not know of each other, unless one may take the other's answer."""
        return bool(read_options(cls.options, spec).similarity)

    @staticmethod
    def regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The person."""
        return ("portrait",)

    def __init__(self, spec: EditSpec, manifest: Manifest, model: StableDiffusion, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.composition = composition_of(spec)
        sampling = manifest.sampling or Sampling()
        sampling.check(model.schedule)
        strength = spec.strength if spec.strength is not None else recipe.strength or manifest.default_strength
        total, steps = manifest.schedule.num_timesteps, spec.num_steps or manifest.default_num_steps
        if self.composition == "delta":
            timesteps: tuple[float, ...] = even_timesteps(steps, min(round(total * strength), total - 1))
        else:
            timesteps = sampling.timesteps(steps, strength, total)
        if recipe.motion is not None and len(timesteps) < 2:
            raise EditError("motion_x and motion_y need two steps at least, and here is one: give --steps 2 or more")
        self._timesteps = timesteps
        self._seed = spec.seed
        wishes = Wishes(
            timesteps,
            recipe.edited,
            recipe.source,
            step_of(sampling),
            recipe.policy,
            recipe.guided,
            recipe.thrift.residual,
            recipe.motion,
            recipe.smooth,
            spec.seed,
        )
        self.wishes, self.denoiser = wishes, CropDenoiser(model, wishes)

    def wants_code(self) -> bool:
        """None by default."""
        return False

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Never asked for."""
        raise EditError("this method has no code")

    def finish(self, track: FaceTrack, view: View) -> Answer:
        """The new crop as a cover, or the difference; the last frame's for one that looks like it."""
        if not self.recipe.thrift.similarity:
            return self._made(track, view)
        same = track.memory.setdefault("similar", SimilarityFilter(self.recipe.thrift.similarity, seed=self._seed))
        if not same.reuse(view.crop) or "answer" not in track.memory:
            track.memory.pop("answer", None)  # a frame that fails leaves none
            track.memory["answer"] = self._made(track, view)
        answer: Answer = track.memory["answer"]
        if answer.cover is not None:
            return Answer(answer.difference, (answer.cover[0], view.mask))
        return answer

    def _made(self, track: FaceTrack, view: View) -> Answer:
        z = self.model.encode(view.crop)
        frame = self.recipe.frame(view, z)

        def conditions(t: float) -> Mapping[str, Condition]:
            return self.recipe.conditions(track, t)

        if self.composition == "replace":
            size = z.shape[2:]
            edited = cv2.resize(view.mask, (size[1], size[0]), interpolation=cv2.INTER_AREA)[None, None]
            out = self.denoiser.replace(track, z, conditions, frame, np.ceil(edited))
            answer = Answer(cover=(self.model.decode(out)[0], view.mask))
        else:
            out = self.denoiser.difference(track, z, conditions, frame)
            difference, picture = decode_difference(two_rows(self.model.decode), z, out, view.crop, view.mask)
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


def mixing_scale(spec: EditSpec, manifest: Manifest) -> float:
    """What rows are mixed by for the text: 1 where the UNet itself is told the guidance scale, as a whole LCM UNet is."""
    embedded = manifest.sampling is not None and manifest.sampling.guidance_embedding
    return 1.0 if embedded else guidance_scale(spec, manifest)


def is_prompted(spec: EditSpec) -> bool:
    """Whether there is a prompt and a strength that is not 0. Raises EditError for attribute edits, which a prompt has none of."""
    if spec.edits:
        raise EditError(
            f"method {spec.method!r} is told a prompt, it has no edit {spec.edits[0][0]!r}: give --prompt, or --method wplus"
        )
    if not spec.prompt:
        raise EditError(f"method {spec.method!r} needs a prompt: give --prompt")
    return spec.strength != 0.0


def composition_of(spec: EditSpec) -> str:
    """replace or delta."""
    return "replace" if spec.composition == "auto" else spec.composition


def require(spec: EditSpec, manifest: Manifest, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names. Raises EditError where the bundle lacks one."""
    if missing := [name for name in names if name not in manifest.networks]:
        raise EditError(
            f"method {spec.method!r} needs the network{'s' * (len(missing) > 1)} {', '.join(missing)}, which the bundle"
            f" {manifest.name!r} does not have: give a bundle that has, see mien models import"
        )
    return names


def require_channels(spec: EditSpec, manifest: Manifest, accepted: tuple[int, ...]) -> None:
    """Raise EditError where the bundle's UNet reads other channels than a method gives it."""
    found = in_channels(manifest)
    if found not in accepted:
        wanted = " or ".join(f"{number} channels ({UNETS[number]})" for number in accepted)
        raise EditError(
            f"method {spec.method!r} needs a UNet of {wanted}, that of the bundle {manifest.name!r} reads {found}"
            f" ({UNETS.get(found, 'unknown')}): import another with mien models import --unet"
        )


def in_channels(manifest: Manifest) -> int:
    """Of the bundle's UNet."""
    return int(manifest.networks["unet"].architecture.kwargs.get("in_channels", 4))
