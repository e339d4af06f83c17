"""W+ editing over an SD1.5-class UNet with the W+ Adapter (Li et al. 2024), as method `wplus` does it for such a bundle.

The code of a face is averaged over its frames, a direction is added to it, and the crop is noised to half of the schedule and
denoised under text and code; frames without a face are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import EXTENDED, OWN
from mien.engine.bundle import Bundle
from mien.engine.code_edit import CodeEdit
from mien.engine.edits import edited_regions, read_options
from mien.engine.latent_model import Condition
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, Recipe, bind_model, guidance_scale
from mien.engine.spec import EditSpec, check_choice, check_number
from mien.engine.thrift import Thrift
from mien.engine.types import Array, FaceTrack

ADAPTER_NETWORKS = ("w_encoder", "w_projection")


@dataclass(frozen=True, slots=True)
class Options(Thrift):
    """w_scale: lambda, the weight of the code's tokens, 0 to 2. w_delay: share of the steps that run before they count, all but
    the last step, where they always do; the publication has 0.2 for pictures made from noise. extended: 1 lets self-attention
    see the first and the previous frame too, 0 the frame alone. source_prompt: what the source shows, for the `delta`
    composition.
    """

    DELTA = ("source_prompt",)

    w_scale: float = 1.0
    w_delay: float = 0.0
    extended: float = 0
    source_prompt: str = ""

    def __post_init__(self) -> None:
        self.check()
        check_number("w_scale", self.w_scale, 0, 2)
        check_number("w_delay", self.w_delay, 0, 1)
        check_choice("extended", self.extended, (0, 1))


class WPlusAdapter(PromptEdit):
    """The method; see the file's first lines."""

    options = Options

    @classmethod
    def own_networks(cls, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The adapter's."""
        return ADAPTER_NETWORKS

    @classmethod
    def in_order(cls, spec: EditSpec, manifest: Manifest) -> bool:
        """Where a frame reads the ones before it."""
        return bool(read_options(Options, spec).extended) or super().in_order(spec, manifest)

    @staticmethod
    def regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """Those of the edits; the head where there is only a prompt."""
        return edited_regions(spec, manifest) or ("head",)

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        self._options, self._scale = read_options(Options, spec), guidance_scale(spec, bundle.manifest)
        model = bind_model(bundle, networks)
        self._edited_code = CodeEdit(spec, bundle)
        texts = {"text": spec.prompt, "none": spec.negative_prompt, "source": self._options.source_prompt}
        self._texts = {name: model.text(text) for name, text in texts.items()}
        recipe = Recipe(
            self.edited(spec, bundle.manifest),
            {"source": 1.0},
            self._conditions,
            policy=EXTENDED if self._options.extended else OWN,
            thrift=self._options,
        )
        super().__init__(spec, bundle.manifest, model, recipe)
        self._late = self._timesteps[min(round(self._options.w_delay * len(self._timesteps)), len(self._timesteps) - 1)]

    def wants_code(self) -> bool:
        """Always."""
        return True

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Add a crop's code to the track's mean."""
        track.add_code(self.model.code(crop))

    def _conditions(self, track: FaceTrack, t: float) -> dict[str, Condition]:
        kept = track.memory.get("conditions")
        if kept is None or kept[0] != track.w_count:
            kept = track.memory["conditions"] = (track.w_count, self._told(track.mean_code()))
        conditions: dict[str, Condition] = kept[1]
        if t <= self._late:
            return conditions
        return {name: _without_code(condition) for name, condition in conditions.items()}

    def _told(self, w: Array) -> dict[str, Condition]:
        codes = {"text": self._edited_code(w), "none": None, "source": w}
        guidance = {"text": self._scale - 1}  # told to the edited row alone
        return {
            name: self.model.condition(self._texts[name], code, self._options.w_scale, guidance.get(name, 0.0))
            for name, code in codes.items()
        }


def _without_code(condition: Condition) -> Condition:
    inputs = dict(condition.inputs)
    inputs["w_scale"] = np.zeros_like(inputs["w_scale"])
    return Condition(inputs, condition.sees_image, condition.control)
