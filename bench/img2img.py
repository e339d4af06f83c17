"""Image to image in few steps, the same loop for our networks and for plain ones: encode, noise, denoise, decode.

What a face lane does between its crop and its composite, without banks, codes and masks, so that others can do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mien.bench.random_networks import LAYOUTS, SIZES_PX, random_network
from mien.bench.unet_ops import TEXT_TOKENS, read_ops
from mien.engine.cuda.lane_spec import LaneSpec
from mien.engine.networks.sd_unet import ContextProjection, UNet
from mien.engine.schedule import Schedule, lcm_timesteps

STRENGTH = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """Random networks of an edit by prompt, and the embeddings (1, 77, D) of a prompt. flops: of a frame's pictures, of a step."""

    model: str
    unet: UNet
    context: ContextProjection
    encoder: nn.Module
    decoder: nn.Module
    text: Tensor
    flops: tuple[int, int]

    @classmethod
    def make(cls, model: str, device: str, dtype: torch.dtype, seed: int = 0) -> Weights:
        """On a device."""
        torch.manual_seed(seed)
        layout = LAYOUTS[model]
        with torch.device(device):
            unet, context = UNet(**layout.kwargs()), ContextProjection(**layout.kwargs())
        for module in (unet, context):
            module.eval().requires_grad_(False).to(dtype)
        halves = [random_network(f"taesd_{half}", model, device, dtype) for half in ("encoder", "decoder")]
        generator = torch.Generator(device).manual_seed(seed)
        text = torch.randn((1, TEXT_TOKENS, layout.cross_attention_dim), generator=generator, device=device)
        flops = sum(half.flops for half in halves), read_ops(layout, SIZES_PX[model], adapter=False).flops
        return cls(model, unet, context, halves[0].module, halves[1].module, text.to(dtype), flops)

    def told(self) -> dict[str, Tensor]:
        """The keys and values of every layer, of one row."""
        answers = self.context(self.text)
        return dict(zip(self.context.signature.outputs, answers, strict=True))


def timesteps(steps: int) -> tuple[int, ...]:
    """LCM's, up to the strength."""
    return lcm_timesteps(steps, STRENGTH)


def draw_noise(model: str, rows: int, steps: int, device: str, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """(B, 4, h, w) for each step, in the order in which diffusers draws it from a generator of this seed."""
    side, generator = SIZES_PX[model] // 8, torch.Generator(device).manual_seed(seed)
    shape = (rows, 4, side, side)
    return [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(steps)]


class Img2Img(nn.Module):
    """RGB (B, 3, S, S) on [-1, 1] -> the same. told: keys and values of one row. plain: whether a step is torch's operations."""

    def __init__(
        self,
        unet: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        told: Mapping[str, Tensor],
        noise: list[Tensor],
        *,
        plain: bool,
    ) -> None:
        super().__init__()
        self.unet, self.encoder, self.decoder, self._plain = unet, encoder, decoder, plain
        rows, steps, device = len(noise[0]), len(noise), noise[0].device
        levels = tuple(float(t) for t in timesteps(steps))
        self._spec = LaneSpec(Schedule(), "epsilon", levels, {"edited": 1.0})
        self._told = [tensor.repeat(rows, 1, 1) for tensor in told.values()]
        self._noise = [one.float() for one in noise]
        coefficients = torch.tensor([self._spec.coefficients(i) for i in range(steps)], device=device)
        self._coefficients = coefficients[:, None].repeat(1, rows, 1)
        self._timesteps = torch.tensor(levels, device=device)[:, None].repeat(1, rows)

    def forward(self, image: Tensor) -> Tensor:
        """Edit it."""
        z = self.encoder(image).float().contiguous()
        x = self._spec.schedule.add_noise(z, self._noise[0], self._spec.timesteps[0])
        for i, coefficients in enumerate(self._coefficients):
            given = x.to(image.dtype, memory_format=torch.contiguous_format if self._plain else torch.channels_last)
            prediction = self.unet(given, self._timesteps[i], *self._told)[0]
            noise = self._noise[i + 1] if i + 1 < len(self._noise) else z
            x = self._step(prediction, x, noise, coefficients)
        layout = torch.contiguous_format if self._plain else torch.channels_last
        picture: Tensor = self.decoder(x.to(image.dtype, memory_format=layout))
        return picture

    def _step(self, prediction: Tensor, x: Tensor, noise: Tensor, coefficients: Tensor) -> Tensor:
        if self._plain:
            a, b, c, d, e = coefficients.T[:, :, None, None, None]
            now: Tensor = c * (a * x + b * prediction.float()) + d * x + e * noise
            return now
        from mien.kernels.consistency_step import consistency_step

        return consistency_step(prediction, x, noise, coefficients)
