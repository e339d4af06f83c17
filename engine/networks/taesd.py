"""TAESD, the tiny autoencoder of Stable Diffusion's latents (madebyollin/taesd), in two halves with diffusers' parameter names.

Latents are on the scaled Stable Diffusion scale: what the UNet reads and answers, no factor between. Deterministic, factor 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.errors import BundleError

T = TypeVar("T")
LIMIT = 3.0  # of the decoder's soft clamp, in latent units


def _conv(in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    """x + three convs with ReLU between, then ReLU; with `pool`, first x + (1x1 conv, GroupNorm, ReLU, 1x1 conv)."""

    def __init__(self, channels: int, has_pool: bool = False) -> None:
        super().__init__()
        c, wide = channels, 4 * channels
        self.conv = nn.Sequential(_conv(c, c), nn.ReLU(), _conv(c, c), nn.ReLU(), _conv(c, c))
        pool = (nn.Conv2d(c, wide, 1, bias=False), nn.GroupNorm(4, wide), nn.ReLU(), nn.Conv2d(wide, c, 1, bias=False))
        self.pool = nn.Sequential(*pool) if has_pool else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block. (B, C, h, w) -> same."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class TaesdEncoder(nn.Module):
    """RGB (B, 3, H, W) in [-1, 1] -> latents (B, C, H/8, W/8).

    num_blocks: of each stage, from the finest. has_pool: the coarsest blocks see the whole picture, as in TAEF2.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        channels: int = 64,
        num_blocks: tuple[int, ...] = (1, 3, 3, 3),
        has_pool: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, count in enumerate(num_blocks):
            layers.append(_conv(channels, channels, stride=2, bias=False) if stage else _conv(3, channels))
            is_coarsest = stage == len(num_blocks) - 1
            layers.extend(Block(channels, has_pool and is_coarsest) for _ in range(count))
        layers.append(_conv(channels, latent_channels))
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*layers)})

    def forward(self, image: Tensor) -> Tensor:
        """Encode; H and W multiples of 8."""
        latents: Tensor = self.encoder["layers"]((image + 1) / 2)
        return latents


class TaesdDecoder(nn.Module):
    """Latents (B, C, H/8, W/8), softly clamped to -3 to 3 -> RGB (B, 3, H, W), about [-1, 1]. num_blocks: from the finest stage."""

    def __init__(
        self,
        latent_channels: int = 4,
        channels: int = 64,
        num_blocks: tuple[int, ...] = (1, 3, 3, 3),
        has_pool: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(latent_channels, channels), nn.ReLU()]
        for stage, count in enumerate(reversed(num_blocks)):
            if stage:
                layers.extend([nn.Upsample(scale_factor=2.0), _conv(channels, channels, bias=False)])
            layers.extend(Block(channels, has_pool and stage == 0) for _ in range(count))
        layers.append(_conv(channels, 3))
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*layers)})

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        image: Tensor = self.decoder["layers"](LIMIT * torch.tanh(latents / LIMIT))
        return 2 * image - 1


def taesd_kwargs(config: Mapping[str, Any], source: str = "TAESD's config.json") -> dict[str, Any]:
    """The keyword arguments of both halves, out of AutoencoderTiny's config.json. Raises BundleError for what they cannot do."""
    fixed: dict[str, tuple[Any, ...]] = {
        "_class_name": ("AutoencoderTiny",),
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "in_channels": (3,),
        "out_channels": (3,),
        "upsampling_scaling_factor": (2,),
        "scaling_factor": (1.0,),
        "shift_factor": (0.0, None),
    }
    blocks = list(config.get("num_encoder_blocks", (1, 3, 3, 3)))
    fixed["num_decoder_blocks"] = (blocks[::-1], tuple(blocks[::-1]))
    for key, allowed in fixed.items():
        if key in config and config[key] not in allowed:
            raise BundleError(f"{source}: {key} is {config[key]!r}, not {allowed[0]!r}: use TAESD's own files")
    widths = {
        width
        for key in ("encoder_block_out_channels", "decoder_block_out_channels")
        for width in config.get(key, (64,))
    }
    numbers = {"latent_channels": config.get("latent_channels", 4), "num_encoder_blocks": blocks, "width": widths}
    if len(widths) != 1 or not all(
        isinstance(n, int) and n > 0 for n in (numbers["latent_channels"], *blocks, *widths)
    ):
        raise BundleError(f"{source}: {numbers} is not one width and whole numbers above 0: use TAESD's own files")
    return {"latent_channels": numbers["latent_channels"], "channels": widths.pop(), "num_blocks": blocks}


def from_original(weights: Mapping[str, T], half: str) -> dict[str, T]:
    """taesd_encoder.pth's or taesd_decoder.pth's weights (`0.weight`, `1.conv.0.weight`, ...) with diffusers' names.

    half: "encoder" or "decoder"; the decoder's layer 0 is the soft clamp, which has no weights, so its numbers go down by one.
    Raises BundleError if the file is the other half, or neither.
    """
    numbers = {key: key.partition(".")[0] for key in weights}
    odd = next((key for key, number in numbers.items() if not number.isdecimal()), None)
    if odd is not None or not weights:
        raise BundleError(
            f"{odd!r} is no weight of an original TAESD file, as '1.conv.0.weight' is: give taesd_{half}.pth"
        )
    first = min(int(number) for number in numbers.values())
    if first != (0 if half == "encoder" else 1):
        raise BundleError(
            f"layer {first} is the first with weights, so this is not TAESD's {half}: give taesd_{half}.pth"
        )
    return {f"{half}.layers.{int(n) - first}{key[len(n) :]}": weights[key] for key, n in numbers.items()}
