"""InstructPix2Pix (Brooks et al. 2023): the crop is made anew after an instruction, under its own picture.

The UNet reads the source's latents in four more channels, so denoising starts from full noise unless a strength is given;
text and picture are guided apart. The background stays the source's; every frame starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mien.engine.backend import Network
from mien.engine.bundle import Bundle
from mien.engine.denoise import Weights
from mien.engine.edits import read_options
from mien.engine.guidance import dual_weights
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, Recipe, bind_model, guidance_scale, mixing_scale
from mien.engine.spec import EditSpec, check_number
from mien.engine.stable_diffusion import StableDiffusion
from mien.engine.thrift import Thrift


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """image_guidance_scale: how closely the source is followed, 1 to 5; equal to the text's scale it costs a row less."""

    image_guidance_scale: float = 1.5

    def __post_init__(self) -> None:
        self.check()
        check_number("image_guidance_scale", self.image_guidance_scale, 1, 5)


class InstructPix2Pix(PromptEdit):
    """The method; see the file's first lines."""

    options, channels = Options, (8,)

    @classmethod
    def edited(cls, spec: EditSpec, manifest: Manifest) -> Weights:
        """Text and picture guided apart."""
        return dual_weights(mixing_scale(spec, manifest), read_options(Options, spec).image_guidance_scale)

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        model = bind_model(bundle, networks)
        conditions = instructed(model, spec, guidance_scale(spec, bundle.manifest))
        recipe = Recipe(
            self.edited(spec, bundle.manifest),
            {"image": 1.0},
            lambda track, t: conditions,
            frame=lambda view, z: FrameInputs(image=z),
            strength=1.0,
            thrift=read_options(Options, spec),
        )
        super().__init__(spec, bundle.manifest, model, recipe)


def instructed(
    model: StableDiffusion, spec: EditSpec, scale: float, conditioning_scale: float = 1.0
) -> dict[str, Condition]:
    """The three conditions of `dual_weights`. scale: what a UNet is told of the instruction alone. conditioning_scale: of a
    ControlNet beside it.
    """
    told: Any = {"conditioning_scale": conditioning_scale}
    instruction, nothing = model.text(spec.prompt), model.text(spec.negative_prompt)
    return {
        "none": model.condition(nothing, sees_image=False, **told),
        "image": model.condition(nothing, **told),
        "image_text": model.condition(instruction, guidance=scale - 1, **told),
    }


METHOD = InstructPix2Pix
