"""ControlNet (Zhang et al. 2023): the crop is made anew after a prompt, along its own edges or landmarks.

The condition picture is drawn from every frame: `landmarks` and `openpose_face` follow lips and expression, `canny` all
edges. The background stays the source's; every frame starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mien.engine.backend import Network
from mien.engine.bundle import Bundle
from mien.engine.control import CONTROLS, control_picture
from mien.engine.edits import View, read_options
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, Recipe, bind_model, guidance_scale
from mien.engine.spec import EditSpec, check_choice, check_number
from mien.engine.stable_diffusion import StableDiffusion
from mien.engine.thrift import Thrift
from mien.engine.types import Array

CONTROL_NETWORKS = ("control_context", "controlnet")


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """control: canny, landmarks or openpose_face, as the bundle's ControlNet was trained. conditioning_scale: of its
    residuals, 0 to 2. source_prompt: what the source shows, for the `delta` composition.
    """

    DELTA = ("source_prompt",)

    control: str = "landmarks"
    conditioning_scale: float = 1.0
    source_prompt: str = ""

    def __post_init__(self) -> None:
        self.check()
        check_choice("control", self.control, CONTROLS)
        check_number("conditioning_scale", self.conditioning_scale, 0, 2)


class ControlNetEdit(PromptEdit):
    """The method; see the file's first lines."""

    options = Options

    @classmethod
    def own_networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The ControlNet's."""
        return CONTROL_NETWORKS

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        options, model = read_options(Options, spec), bind_model(bundle, networks)
        scale = guidance_scale(spec, bundle.manifest)
        conditions = prompted(model, spec, scale, options.source_prompt, options.conditioning_scale)
        recipe = Recipe(
            self.edited(spec, bundle.manifest),
            {"source": 1.0},
            lambda track, t: conditions,
            frame=lambda view, z: controlled(options.control, view),
            thrift=options,
        )
        super().__init__(spec, bundle.manifest, model, recipe)


def controlled(control: str, view: View) -> FrameInputs:
    """A frame with its condition picture."""
    picture: Array = control_picture(control, view.crop, view.points)
    return FrameInputs(control=picture[None])


def prompted(
    model: StableDiffusion, spec: EditSpec, scale: float, source_prompt: str, conditioning_scale: float = 1.0
) -> dict[str, Condition]:
    """The conditions of `cfg_weights`, and `source`, what the source shows. scale: what a UNet is told of the prompt alone."""
    texts = {"none": spec.negative_prompt, "text": spec.prompt, "source": source_prompt}
    return {
        name: model.condition(
            model.text(text), guidance=scale - 1 if name == "text" else 0.0, conditioning_scale=conditioning_scale
        )
        for name, text in texts.items()
    }


METHOD = ControlNetEdit
