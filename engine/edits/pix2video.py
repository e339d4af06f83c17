"""Pix2Video (Ceylan et al. 2023): self-attention of the decoder layers sees the first and the previous frame in place of the
frame itself, and the previous frame's clean latents guide the current ones in the upper half of the noise levels.

Its UNet may read depth in a fifth channel: then the bundle has a network `depth`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import ANCHOR_PREVIOUS
from mien.engine.bundle import Bundle
from mien.engine.edits import View, read_options
from mien.engine.edits.controlnet import prompted
from mien.engine.latent_model import FrameInputs
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, Recipe, alone, bind_model, guidance_scale, in_channels
from mien.engine.spec import EditSpec, check_choice
from mien.engine.thrift import Thrift
from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """guided_update: 1 with the guided latent update, 0 without; of `replace` alone. source_prompt: what the source shows, for
    `delta`.
    """

    REPLACE, DELTA = (*Thrift.REPLACE, "guided_update"), ("source_prompt",)

    guided_update: float = 1
    source_prompt: str = ""

    def __post_init__(self) -> None:
        self.check()
        check_choice("guided_update", self.guided_update, (0, 1))


class Pix2Video(PromptEdit):
    """The method; see the file's first lines."""

    options, channels = Options, (4, 5)

    @classmethod
    def own_networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """A depth network where the UNet reads depth."""
        return ("depth",) if in_channels(manifest) == 5 else ()

    @classmethod
    def in_order(cls, spec: EditSpec, manifest: Manifest) -> bool:
        """Each frame reads the one before it."""
        return True

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        options, model = read_options(Options, spec), bind_model(bundle, networks)
        scale = guidance_scale(spec, bundle.manifest)
        conditions = prompted(model, spec, scale, options.source_prompt)
        depth = networks["depth"] if in_channels(bundle.manifest) == 5 else None
        recipe = Recipe(
            self.edited(spec, bundle.manifest),
            {"source": 1.0},
            lambda track, t: conditions,
            frame=alone if depth is None else _with_depth(depth),
            policy=ANCHOR_PREVIOUS,
            guided=bool(options.guided_update),
            thrift=options,
        )
        super().__init__(spec, bundle.manifest, model, recipe)


def _with_depth(network: Network) -> Callable[[View, Array], FrameInputs]:
    """Depth of the crop, resized to the latents and stretched to [-1, 1] picture by picture."""

    def frame(view: View, z: Array) -> FrameInputs:
        depth = network(image=view.crop[None])["depth"][0, 0]
        small = cv2.resize(depth, (z.shape[3], z.shape[2]), interpolation=cv2.INTER_CUBIC)
        low, high = float(small.min()), float(small.max())
        flat = (small - low) / max(high - low, 1e-6) * 2.0 - 1.0
        return FrameInputs(extra=np.asarray(flat, np.float32)[None, None])

    return frame


METHOD = Pix2Video
