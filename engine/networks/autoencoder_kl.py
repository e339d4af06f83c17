"""AutoencoderKL, the variational autoencoder of Stable Diffusion (Rombach et al. 2022, sections 3.1 and G), in two halves.

`KlEncoder` and `KlDecoder` carry diffusers' parameter names (encoder., quant_conv., decoder., post_quant_conv.), so that one published
file serves both: each takes its part of the keys. The factor is 2^(blocks - 1), 8 in every Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.errors import BundleError
from mien.kernels.group_norm_silu import group_norm_silu

T = TypeVar("T")
EPS = 1e-6
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What config.json may say about the parts that are fixed here; absent counts as allowed.
FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("AutoencoderKL",),
    "act_fn": ("silu",),
    "in_channels": (3,),
    "out_channels": (3,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "shift_factor": (None, 0),
    "latents_mean": (None,),
    "latents_std": (None,),
}


class ResnetBlock(nn.Module):
    """x + two of (GroupNorm, SiLU, conv). (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        h = self.conv1(_norm_silu(self.norm1, x))
        h = self.conv2(_norm_silu(self.norm2, h))
        out: Tensor = self.conv_shortcut(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over the pixels, one head as wide as the channels. (B, C, h, w) -> same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        rows = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (project(rows)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        rows = self.to_out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        out: Tensor = x + rows.transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class MidBlock(nn.Module):
    """ResnetBlock, attention where there is one, ResnetBlock. (B, C, h, w) -> same."""

    def __init__(self, channels: int, groups: int, has_attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, groups)] if has_attention else [])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        first, last = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = last(x)
        return out


class Downsample(nn.Module):
    """Conv of stride 2, padded at the right and the bottom only. (B, C, h, w) -> (B, C, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve both sides."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest neighbour, then conv. (B, C, h, w) -> (B, C, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Double both sides."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Stage(nn.Module):
    """ResnetBlocks of one resolution, then the Downsample or Upsample to the next, if there is one."""

    def __init__(
        self, in_channels: int, channels: int, layers: int, groups: int, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        ins = [in_channels, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList(ResnetBlock(width, channels, groups) for width in ins)
        self.downsamplers = nn.ModuleList([Downsample(channels)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(channels)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """RGB (B, 3, H, W) -> moments (B, 2 C, H/8, W/8), before quant_conv."""

    def __init__(
        self, widths: tuple[int, ...], layers: int, latent_channels: int, groups: int, has_attention: bool
    ) -> None:
        super().__init__()
        ins = [widths[0], *widths]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Stage(ins[i], width, layers, groups, down=i < last) for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups, has_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(_norm_silu(self.conv_norm_out, self.mid_block(x)))
        return out


class Decoder(nn.Module):
    """Latents (B, C, H/8, W/8), after post_quant_conv -> RGB (B, 3, H, W)."""

    def __init__(
        self, widths: tuple[int, ...], layers: int, latent_channels: int, groups: int, has_attention: bool
    ) -> None:
        super().__init__()
        outs = widths[::-1]
        ins = [outs[0], *outs]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(latent_channels, outs[0], 3, padding=1)
        self.mid_block = MidBlock(outs[0], groups, has_attention)
        self.up_blocks = nn.ModuleList(
            Stage(ins[i], width, layers + 1, groups, up=i < last) for i, width in enumerate(outs)
        )
        self.conv_norm_out = nn.GroupNorm(groups, outs[-1], eps=EPS)
        self.conv_out = nn.Conv2d(outs[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Decode."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(_norm_silu(self.conv_norm_out, x))
        return out


class KlEncoder(nn.Module):
    """RGB (B, 3, H, W) in [-1, 1] -> latents (B, C, H/8, W/8): the posterior's mode times scaling_factor.

    scaling_factor: 0.18215 gives latents of about unit variance; 1.0 InstructPix2Pix's image latents (Brooks et al. 2023).
    """

    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        scaling_factor: float = 0.18215,
        mid_block_add_attention: bool = True,
    ) -> None:
        super().__init__()
        shape = (block_out_channels, layers_per_block, latent_channels, norm_num_groups, mid_block_add_attention)
        self.scaling_factor = scaling_factor
        self.encoder = Encoder(*shape)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Encode; H and W multiples of 8."""
        mode: Tensor = self.quant_conv(self.encoder(image)).chunk(2, 1)[0]
        return mode * self.scaling_factor


class KlDecoder(nn.Module):
    """Latents (B, C, H/8, W/8), scaled by scaling_factor -> RGB (B, 3, H, W), about [-1, 1], unclamped."""

    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        scaling_factor: float = 0.18215,
        mid_block_add_attention: bool = True,
    ) -> None:
        super().__init__()
        shape = (block_out_channels, layers_per_block, latent_channels, norm_num_groups, mid_block_add_attention)
        self.scaling_factor = scaling_factor
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(*shape)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        image: Tensor = self.decoder(self.post_quant_conv(latents / self.scaling_factor))
        return image


def kl_kwargs(config: Mapping[str, Any], source: str = "the VAE's config.json") -> dict[str, Any]:
    """The keyword arguments of both halves, out of diffusers' config.json. Raises BundleError for what they cannot do."""
    for key, allowed in FIXED.items():
        if key in config and config[key] not in allowed:
            raise BundleError(
                f"{source}: {key} is {config[key]!r}, not {allowed[0]!r}: use a VAE of SD 1, SD 2 or SDXL"
            )
    widths = config.get("block_out_channels")
    if not isinstance(widths, list | tuple) or not widths or not all(_is_count(width) for width in widths):
        raise BundleError(f"{source}: block_out_channels is {widths!r}, not a list of whole numbers above 0")
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        types = config.get(key)
        if types is not None and (not isinstance(types, list | tuple) or list(types) != [kind] * len(widths)):
            raise BundleError(
                f"{source}: {key} is {types!r}, not {len(widths)} times {kind!r}: use a VAE of SD 1 or SD 2"
            )
    counts = {"latent_channels": 4, "norm_num_groups": 32, **{k: v for k, v in config.items() if v is not None}}
    for key in ("layers_per_block", "latent_channels", "norm_num_groups"):
        if not _is_count(counts.get(key)):
            raise BundleError(f"{source}: {key} is {counts.get(key)!r}, not a whole number above 0")
    if any(width % counts["norm_num_groups"] for width in widths):
        raise BundleError(f"{source}: norm_num_groups {counts['norm_num_groups']} does not divide {list(widths)}")
    factor = counts.get("scaling_factor", 0.18215)  # absent in SD 1's own file
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise BundleError(f"{source}: scaling_factor is {factor!r}, not a number above 0")
    return {
        "block_out_channels": list(widths),
        "layers_per_block": counts["layers_per_block"],
        "latent_channels": counts["latent_channels"],
        "norm_num_groups": counts["norm_num_groups"],
        "scaling_factor": float(factor),
        "mid_block_add_attention": bool(counts.get("mid_block_add_attention", True)),
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def rename_old(weights: Mapping[str, T]) -> dict[str, T]:
    """The weights with today's names of the attention: query, key, value, proj_attn become to_q, to_k, to_v, to_out.0."""
    renamed = {}
    for key, weight in weights.items():
        head, found, tail = key.partition(".mid_block.attentions.0.")
        name, dot, leaf = tail.partition(".")
        renamed[f"{head}{found}{OLD_NAMES.get(name, name)}{dot}{leaf}"] = weight
    return renamed


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
