"""InstructPix2Pix (Brooks et al. 2023): the crop is made anew after an instruction, under its own picture.

The UNet reads the source's latents in four more channels, so denoising starts from full noise unless a strength is given;
text and picture are guided apart. The background stays the source's; every frame starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mien.engine.backend import Network
from mien.engine.bundle import Bundle
from mien.engine.edits import read_options
from mien.engine.errors import EditError
from mien.engine.guidance import dual_weights
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import (
    NETWORKS,
    PromptEdit,
    Recipe,
    Thrift,
    bind_model,
    guidance_scale,
    in_channels,
    is_prompted,
    require,
)
from mien.engine.spec import EditSpec
from mien.engine.stable_diffusion import StableDiffusion


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """image_guidance_scale: how closely the source is followed, 1 to 5; equal to the text's scale it costs a row less."""

    image_guidance_scale: float = 1.5

    def __post_init__(self) -> None:
        self.check()
        if not 1.0 <= self.image_guidance_scale <= 5.0:
            raise EditError(f"image_guidance_scale is {self.image_guidance_scale:g}; accepted: 1 to 5")


class InstructPix2Pix(PromptEdit):
    """The method; see the file's first lines."""

    @staticmethod
    def is_active(spec: EditSpec) -> bool:
        """With a prompt."""
        return is_prompted(spec)

    @staticmethod
    def networks(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """A UNet of eight channels."""
        read_options(Options, spec)
        names = require(spec, manifest, NETWORKS)
        if in_channels(manifest) != 8:
            raise EditError(
                f"the UNet of bundle {manifest.name!r} reads {in_channels(manifest)} channels, InstructPix2Pix's reads 8:"
                " import instruct-pix2pix as --unet"
            )
        return names

    @staticmethod
    def in_order(spec: EditSpec, manifest: Manifest) -> bool:
        """Frames do not know of each other, unless one may take the other's answer."""
        return bool(read_options(Options, spec).similarity)

    @staticmethod
    def regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The person."""
        return ("portrait",)

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        model, scale = bind_model(bundle, networks), guidance_scale(spec, bundle.manifest)
        conditions = instructed(model, spec, scale)
        options = read_options(Options, spec)
        edited = dual_weights(scale, options.image_guidance_scale)
        recipe = Recipe(
            edited,
            {"image": 1.0},
            lambda track, t: conditions,
            frame=lambda view, z: FrameInputs(image=z),
            strength=1.0,
            thrift=options,
        )
        super().__init__(spec, bundle.manifest, model, recipe)


def instructed(model: StableDiffusion, spec: EditSpec, scale: float) -> dict[str, Condition]:
    """The three conditions of `dual_weights`."""
    instruction, nothing = model.text(spec.prompt), model.text(spec.negative_prompt)
    return {
        "none": model.condition(nothing, guidance=scale - 1, sees_image=False),
        "image": model.condition(nothing, guidance=scale - 1),
        "image_text": model.condition(instruction, guidance=scale - 1),
    }


METHOD = InstructPix2Pix
