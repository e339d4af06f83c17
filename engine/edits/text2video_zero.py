"""Text2Video-Zero (Khachatryan et al. 2023): every self-attention, the ControlNet's too, sees the first frame in place of the
frame itself. It is applied to the backbone that the bundle has: InstructPix2Pix, a ControlNet, or a plain UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mien.engine.backend import Network
from mien.engine.bank import ANCHOR
from mien.engine.bundle import Bundle
from mien.engine.control import CONTROLS
from mien.engine.denoise import Weights
from mien.engine.edits import View, read_options
from mien.engine.edits.controlnet import CONTROL_NETWORKS, controlled, prompted
from mien.engine.edits.instruct_pix2pix import instructed
from mien.engine.guidance import dual_weights
from mien.engine.latent_model import FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, Recipe, alone, bind_model, guidance_scale, in_channels, mixing_scale
from mien.engine.spec import EditSpec, check_choice, check_number
from mien.engine.thrift import Thrift, refuse
from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """control: the ControlNet's picture (canny, landmarks, openpose_face), "none" to go without. conditioning_scale,
    source_prompt: as in `controlnet`. image_guidance_scale: as in `instruct_pix2pix`. motion_x, motion_y: pixels of a 512 px
    crop that the picture moves by from frame to frame, where frames are made from noise (motion.py); 0 for the source's own
    motion. smooth_background: 1 makes their background anew too, drawn to the first frame's (section 3.4).
    """

    REPLACE = (*Thrift.REPLACE, "motion_x", "motion_y", "smooth_background")
    DELTA = ("source_prompt",)

    control: str = "none"
    conditioning_scale: float = 1.0
    source_prompt: str = ""
    image_guidance_scale: float = 1.5
    motion_x: float = 0.0
    motion_y: float = 0.0
    smooth_background: float = 0

    def __post_init__(self) -> None:
        self.check()
        check_choice("control", self.control, ("none", *CONTROLS))
        check_number("conditioning_scale", self.conditioning_scale, 0, 2)
        check_number("motion_x", self.motion_x, -64, 64)
        check_number("motion_y", self.motion_y, -64, 64)
        check_choice("smooth_background", self.smooth_background, (0, 1))
        check_number("image_guidance_scale", self.image_guidance_scale, 1, 5)

    @property
    def motion(self) -> tuple[float, float] | None:
        """motion_x and motion_y, None for none."""
        return (self.motion_x, self.motion_y) if self.motion_x or self.motion_y else None


class Text2VideoZero(PromptEdit):
    """The method; see the file's first lines."""

    options, channels = Options, (4, 8)

    @classmethod
    def own_networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """A ControlNet's where one is asked for. Raises EditError for an option of what is not."""
        options = read_options(Options, spec)
        if in_channels(manifest) == 8:
            refuse(spec, options, ("source_prompt",), "a text-to-image UNet")
        else:
            refuse(spec, options, ("image_guidance_scale",), "an InstructPix2Pix UNet")
        if options.motion is None:
            refuse(spec, options, ("smooth_background",), "motion_x and motion_y")
        if options.control == "none":
            refuse(spec, options, ("conditioning_scale",), "control, a picture for the ControlNet")
            return ()
        return CONTROL_NETWORKS

    @classmethod
    def edited(cls, spec: EditSpec, manifest: Manifest) -> Weights:
        """As InstructPix2Pix guides where the UNet is its own."""
        if in_channels(manifest) != 8:
            return super().edited(spec, manifest)
        return dual_weights(mixing_scale(spec, manifest), read_options(Options, spec).image_guidance_scale)

    @classmethod
    def in_order(cls, spec: EditSpec, manifest: Manifest) -> bool:
        """The first frame comes first."""
        return True

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        options, model = read_options(Options, spec), bind_model(bundle, networks)
        scale = guidance_scale(spec, bundle.manifest)
        instructs = in_channels(bundle.manifest) == 8

        def frame(view: View, z: Array) -> FrameInputs:
            control = controlled(options.control, view).control if options.control != "none" else None
            return FrameInputs(image=z if instructs else None, control=control)

        conditions = (
            instructed(model, spec, scale, options.conditioning_scale)
            if instructs
            else prompted(model, spec, scale, options.source_prompt, options.conditioning_scale)
        )
        recipe = Recipe(
            self.edited(spec, bundle.manifest),
            {"image": 1.0} if instructs else {"source": 1.0},
            lambda track, t: conditions,
            frame=frame if instructs or options.control != "none" else alone,
            policy=ANCHOR,
            strength=1.0 if instructs or options.motion else None,
            thrift=options,
            motion=options.motion,
            smooth=bool(options.smooth_background),
        )
        super().__init__(spec, bundle.manifest, model, recipe)


METHOD = Text2VideoZero
