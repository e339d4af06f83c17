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
from mien.engine.edits import View, read_options
from mien.engine.edits.controlnet import CONTROL_NETWORKS, controlled, prompted
from mien.engine.edits.instruct_pix2pix import instructed
from mien.engine.errors import EditError
from mien.engine.guidance import cfg_weights, dual_weights
from mien.engine.latent_model import FrameInputs
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
from mien.engine.spec import EditSpec, nearest
from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """control: the ControlNet's picture (canny, landmarks, openpose_face), "none" to go without. conditioning_scale,
    source_prompt: as in `controlnet`. image_guidance_scale: as in `instruct_pix2pix`. motion_x, motion_y: pixels of a 512 px
    crop that the picture moves by from frame to frame, where frames are made from noise (motion.py); 0 for the source's own
    motion. smooth_background: 1 draws their background to the first frame's.
    """

    control: str = "none"
    conditioning_scale: float = 1.0
    source_prompt: str = ""
    image_guidance_scale: float = 1.5
    motion_x: float = 0.0
    motion_y: float = 0.0
    smooth_background: float = 0

    def __post_init__(self) -> None:
        self.check()
        accepted = ("none", *CONTROLS)
        if self.control not in accepted:
            raise EditError(
                f"unknown control {self.control!r}{nearest(self.control, accepted)}; accepted: {', '.join(accepted)}"
            )
        if not 0.0 <= self.conditioning_scale <= 2.0:
            raise EditError(f"conditioning_scale is {self.conditioning_scale:g}; accepted: 0 to 2")
        for name in ("motion_x", "motion_y"):
            if not -64.0 <= getattr(self, name) <= 64.0:
                raise EditError(f"{name} is {getattr(self, name):g}; accepted: -64 to 64")
        if self.smooth_background not in (0, 1):
            raise EditError(f"smooth_background is {self.smooth_background:g}; accepted: 0, 1")
        if not 1.0 <= self.image_guidance_scale <= 5.0:
            raise EditError(f"image_guidance_scale is {self.image_guidance_scale:g}; accepted: 1 to 5")


class Text2VideoZero(PromptEdit):
    """The method; see the file's first lines."""

    @staticmethod
    def is_active(spec: EditSpec) -> bool:
        """With a prompt."""
        return is_prompted(spec)

    @staticmethod
    def networks(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """A UNet, and a ControlNet where one is asked for."""
        controls = CONTROL_NETWORKS if read_options(Options, spec).control != "none" else ()
        return require(spec, manifest, (*NETWORKS, *controls))

    @staticmethod
    def in_order(spec: EditSpec, manifest: Manifest) -> bool:
        """The first frame comes first."""
        return True

    @staticmethod
    def regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The person."""
        return ("portrait",)

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        options, model = read_options(Options, spec), bind_model(bundle, networks)
        scale = guidance_scale(spec, bundle.manifest)
        instructs = in_channels(bundle.manifest) == 8
        moves = bool(options.motion_x or options.motion_y)

        def frame(view: View, z: Array) -> FrameInputs:
            control = controlled(options.control, view).control if options.control != "none" else None
            return FrameInputs(image=z if instructs else None, control=control)

        conditions = (
            instructed(model, spec, scale)
            if instructs
            else prompted(model, spec, scale, options.source_prompt, options.conditioning_scale)
        )
        recipe = Recipe(
            dual_weights(scale, options.image_guidance_scale) if instructs else cfg_weights(scale),
            {"image": 1.0} if instructs else {"source": 1.0},
            lambda track, t: conditions,
            frame=frame,
            policy=ANCHOR,
            strength=1.0 if instructs or moves else None,
            thrift=options,
            motion=(options.motion_x, options.motion_y) if moves else None,
            smooth=bool(options.smooth_background),
        )
        super().__init__(spec, bundle.manifest, model, recipe)


METHOD = Text2VideoZero
