"""The family of SD1.5-class bundles: a UNet told text and, with the W+ adapter, a code; optionally with a ControlNet.

Networks: unet and context (one weight file, see networks/sd_unet.py), vae_encoder, vae_decoder, text_encoder; w_encoder
and w_projection of the W+ adapter; controlnet and control_context. Text becomes every layer's keys and values once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import Bank, Policy
from mien.engine.errors import BundleError, EditError
from mien.engine.face.mask import BACKGROUND, GRID_PX
from mien.engine.frame_crop import shrunk
from mien.engine.latent_model import Condition, FrameInputs, LatentModel, read_bank, stacked
from mien.engine.manifest import Manifest
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_signature import W_TOKENS
from mien.engine.tokens import Tokenizer
from mien.engine.types import Array

CODE_PX = 256
FEATHER_PX = 2.5  # of the person's outline, on the parser's grid
UNETS: Mapping[int, str] = {4: "text-to-image", 5: "depth", 8: "InstructPix2Pix", 9: "inpainting"}  # by what they read
SHOWN = 60  # letters of a prompt in an error


class StableDiffusion(LatentModel):
    """See the file's first lines. tokenizer: called when the first prompt is read."""

    denoiser, output = "unet", "prediction"

    def __init__(self, manifest: Manifest, networks: Mapping[str, Network], tokenizer: Callable[[], Tokenizer]) -> None:
        super().__init__(manifest, networks)
        kwargs: dict[str, Any] = dict(manifest.networks["unet"].architecture.kwargs)
        self.has_adapter = bool(kwargs.pop("adapter", False))
        self.has_control = bool(kwargs.pop("control", False))
        kwargs.pop("bank_layers", None)
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in kwargs.items()}
        self.layout = Layout(**fields)
        self._stages = {layer.number: layer.stage for layer in self.layout.layers()}
        self._image_scale = manifest.latent_scale
        self._tokenizer = tokenizer

    def code(self, crop: Array) -> Array:
        """The W+ code (1, 18, 512) of a crop (3, S, S), its background made white as the adapter's training had it."""
        found = self._networks["parser"](image=shrunk(crop, GRID_PX))
        person = cv2.GaussianBlur(1.0 - found["probabilities"][0, BACKGROUND], (0, 0), FEATHER_PX)
        person = cv2.resize(person, (CODE_PX, CODE_PX), interpolation=cv2.INTER_LINEAR)
        white = shrunk(crop, CODE_PX) * person + (1.0 - person)
        return self._networks["w_encoder"](image=white)["w_plus"]

    def text(self, prompt: str) -> Array:
        """Embeddings (1, 77, D) of a prompt. Raises EditError for one that is too long."""
        tokens = self._tokenizer().encode(prompt)
        if tokens.lost:
            lost = tokens.lost if len(tokens.lost) <= SHOWN else tokens.lost[:SHOWN] + "..."
            raise EditError(
                f"the prompt {prompt[:SHOWN]!r}... is too long: of the {tokens.ids.shape[1]} tokens that the text encoder"
                f" reads, start and end take 2, and these words no longer fit: {lost!r}; shorten it"
            )
        return self._networks["text_encoder"](tokens=tokens.ids)["embeddings"]

    def condition(
        self,
        text: Array,
        w: Array | None = None,
        w_scale: float = 1.0,
        guidance: float = 0.0,
        *,
        sees_image: bool = True,
        conditioning_scale: float = 1.0,
    ) -> Condition:
        """Of embeddings (1, 77, D) and a code (1, 18, 512), None for the adapter's empty code.

        A method that does not bring w_projection leaves the adapter's tokens without weight.
        guidance: scale minus one, for a UNet distilled with its guidance. conditioning_scale: of the ControlNet.
        """
        inputs: dict[str, Any] = {}
        if self.has_adapter:
            tokens: Array = np.zeros((1, W_TOKENS, text.shape[2]), np.float32)
            if "w_projection" in self._networks:
                code = np.zeros((1, 18, 512), np.float32) if w is None else w
                tokens = self._networks["w_projection"](w_plus=np.asarray(code, np.float32))["w_tokens"]
            else:
                w_scale = 0.0
            inputs |= self._networks["context"](text=text, w_tokens=tokens)
            inputs["w_scale"] = np.full(1, w_scale, np.float32)
        else:
            inputs |= self._networks["context"](text=text)
        if self.layout.time_cond_proj_dim is not None:
            inputs["guidance"] = np.full(1, guidance, np.float32)
        control: dict[str, Any] = {}
        if "control_context" in self._networks:
            control |= self._networks["control_context"](text=text)
            control["conditioning_scale"] = np.full(1, conditioning_scale, np.float32)
        return Condition(inputs, sees_image, control)

    def input_latents(self, x: Array, conditions: Sequence[Condition], frame: FrameInputs) -> Array:
        """x, then the image latents (unscaled, as InstructPix2Pix reads them; nothing for rows that do not see them), then more."""
        parts = [x]
        if frame.image is not None:
            unscaled = frame.image / np.float32(self._image_scale)
            parts.append(np.concatenate([unscaled * np.float32(c.sees_image) for c in conditions]))
        if frame.extra is not None:
            parts.append(np.repeat(frame.extra, len(x), 0))
        channels = sum(part.shape[1] for part in parts)
        if channels != self.layout.in_channels:
            reads = self.layout.in_channels
            raise BundleError(f"this UNet reads {reads} channels, the method gives {channels}")
        return np.concatenate(parts, 1) if len(parts) > 1 else x

    def more_inputs(
        self,
        x: Array,
        t: float,
        rows: Sequence[tuple[str, Condition]],
        frame: FrameInputs,
        bank: Bank | None,
        policy: Policy,
    ) -> dict[str, Array]:
        """The ControlNet's residuals, where the UNet takes any: zeros without a picture to follow."""
        if not self.has_control:
            return {}
        if frame.control is None:
            return self._no_residuals(x)
        network = self._networks["controlnet"]
        keys = [(f"control.{name}", t) for name, _ in rows]
        layers = self.reading_layers(policy)
        below = None if layers is None else tuple(i for i in layers if self._stages[i] != "up")
        answer = network(
            latents=np.ascontiguousarray(x, np.float32),
            timestep=np.full(len(x), t, np.float32),
            control=np.repeat(frame.control, len(x), 0),
            **stacked([condition.control for _, condition in rows]),
            **read_bank(bank, keys, network, policy, below),
        )
        if bank is not None:
            bank.write(keys, answer, below)
        return {name: value for name, value in answer.items() if "residual" in name}

    def reading_layers(self, policy: Policy) -> tuple[int, ...] | None:
        """By the UNet's numbers; a ControlNet's are the same, up to its middle."""
        return tuple(number for number, stage in self._stages.items() if stage in policy.stages)

    def _no_residuals(self, x: Array) -> dict[str, Array]:
        n, height, width = len(x), *x.shape[2:]
        skips = self.layout.skips()
        names = [*(f"down_residual_{i}" for i in range(len(skips))), "mid_residual"]
        return {
            name: np.zeros((n, channels, -(-height // by), -(-width // by)), np.float32)
            for name, (channels, by) in zip(names, [*skips, skips[-1]], strict=True)
        }
