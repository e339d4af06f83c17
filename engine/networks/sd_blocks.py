"""The blocks of the SD family's UNet, between its first and its last convolution. Parameter names are diffusers'."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.denoiser import timestep_embedding
from mien.engine.networks.sd_attention import LayerInputs, SpatialTransformer
from mien.engine.networks.sd_layout import Layout
from mien.kernels.group_norm_silu import group_norm_silu

KeyValue = tuple[Tensor, Tensor]


def guidance_embedding(guidance: Tensor, dim: int) -> Tensor:
    """Sinusoids (B, dim) of guidance (B,), sines first, of 1000 times its value (LCM, Luo et al. 2023)."""
    half = dim // 2
    steps = torch.arange(half, device=guidance.device, dtype=torch.float32)
    angles = 1000 * guidance[:, None].float() * torch.exp(-math.log(10_000) / (half - 1) * steps)[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimeEmbedding(nn.Module):
    """The embedding (B, 4 C) of timestep and guidance, after a SiLU, that every residual block reads."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.channels, self.guidance_dim = layout.block_out_channels[0], layout.time_cond_proj_dim
        self.linear_1 = nn.Linear(self.channels, 4 * self.channels)
        if self.guidance_dim is not None:
            self.cond_proj = nn.Linear(self.guidance_dim, self.channels, bias=False)
        self.linear_2 = nn.Linear(4 * self.channels, 4 * self.channels)

    def forward(self, timestep: Tensor, guidance: Tensor | None) -> Tensor:
        """timestep (B,) in 0..999, guidance (B,): the guidance scale minus 1."""
        dtype = self.linear_1.weight.dtype  # the sinusoids are float32: in bfloat16 999 is 1000
        embedding = timestep_embedding(timestep, self.channels).to(dtype)
        if guidance is not None and self.guidance_dim is not None:
            embedding = embedding + self.cond_proj(guidance_embedding(guidance, self.guidance_dim).to(dtype))
        return F.silu(self.linear_2(F.silu(self.linear_1(embedding))))


class ResidualBlock(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU, with the embedding added in between. (B, C_in, h, w) -> C_out."""

    def __init__(self, in_channels: int, out_channels: int, layout: Layout) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(layout.norm_num_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * layout.block_out_channels[0], out_channels)
        self.norm2 = nn.GroupNorm(layout.norm_num_groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Apply the block."""
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.conv2(norm_silu(self.norm2, h, self.time_emb_proj(embedding)))
        out: Tensor = self.conv_shortcut(x) + h
        return out


class Block(nn.Module):
    """Residual blocks, each followed by a transformer where `level` has attention."""

    def __init__(self, level: int, in_channels: list[int], layout: Layout, adapter: bool) -> None:
        """level: index of the down block that this one is or mirrors. in_channels: of each residual block."""
        super().__init__()
        channels = layout.block_out_channels[level]
        self.resnets = nn.ModuleList(ResidualBlock(n, channels, layout) for n in in_channels)
        self.attentions = nn.ModuleList(
            _transformer(level, layout, adapter) for _ in in_channels if layout.attention[level]
        )

    def step(self, i: int, x: Tensor, embedding: Tensor, layers: Iterator[LayerInputs], own: list[KeyValue]) -> Tensor:
        """Run the i-th pair; its layer's inputs come from `layers`, its own keys and values go to `own`."""
        x = self.resnets[i](x, embedding)
        if len(self.attentions):
            x, k, v = self.attentions[i](x, next(layers))
            own.append((k, v))
        return x


class DownBlock(Block):
    """Every tensor it makes is a skip of the up blocks; but for the last block it ends at half the side, rounded up."""

    def __init__(self, level: int, layout: Layout, adapter: bool) -> None:
        channels = layout.block_out_channels
        first = channels[max(level - 1, 0)]
        super().__init__(level, [first] + [channels[level]] * (layout.layers_per_block - 1), layout, adapter)
        if level < len(channels) - 1:
            self.downsamplers = nn.ModuleList([_convolution(channels[level], stride=2)])

    def forward(self, x: Tensor, embedding: Tensor, layers: Iterator[LayerInputs], own: list[KeyValue]) -> list[Tensor]:
        """The skips; the last is the block's answer."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.step(i, x, embedding, layers, own)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            skips.append(self.downsamplers[0](x))
        return skips


class MidBlock(nn.Module):
    """A transformer between two residual blocks."""

    def __init__(self, layout: Layout, adapter: bool) -> None:
        super().__init__()
        channels, last = layout.block_out_channels[-1], len(layout.block_out_channels) - 1
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, layout) for _ in range(2))
        self.attentions = nn.ModuleList([_transformer(last, layout, adapter)])

    def forward(self, x: Tensor, embedding: Tensor, layers: Iterator[LayerInputs], own: list[KeyValue]) -> Tensor:
        """(B, C, h, w) -> same."""
        x, k, v = self.attentions[0](self.resnets[0](x, embedding), next(layers))
        own.append((k, v))
        out: Tensor = self.resnets[1](x, embedding)
        return out


class UpBlock(Block):
    """Each residual block takes a skip; but for the block of the full side it ends at the side of the next skip."""

    def __init__(self, level: int, in_channels: list[int], layout: Layout, adapter: bool) -> None:
        super().__init__(level, in_channels, layout, adapter)
        if level > 0:
            self.upsamplers = nn.ModuleList([_convolution(layout.block_out_channels[level], stride=1)])

    def forward(
        self, x: Tensor, skips: list[Tensor], embedding: Tensor, layers: Iterator[LayerInputs], own: list[KeyValue]
    ) -> Tensor:
        """Takes its skips from the end of the list."""
        for i in range(len(self.resnets)):
            x = self.step(i, torch.cat([x, skips.pop()], 1), embedding, layers, own)
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0](F.interpolate(x, size=skips[-1].shape[2:], mode="nearest"))
        return x


def up_blocks(layout: Layout, adapter: bool) -> nn.ModuleList:
    """The up blocks of a UNet, smallest side first."""
    skips = [channels for channels, _ in layout.skips()]
    channels, blocks = layout.block_out_channels[-1], []
    for level in reversed(range(len(layout.block_out_channels))):
        in_channels = []
        for _ in range(layout.layers_per_block + 1):
            in_channels.append(channels + skips.pop())
            channels = layout.block_out_channels[level]
        blocks.append(UpBlock(level, in_channels, layout, adapter))
    return nn.ModuleList(blocks)


def norm_silu(norm: nn.GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """SiLU of a norm of (B, C, h, w), to which shift (B, C) is added first."""
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, shift=shift)


def _transformer(level: int, layout: Layout, adapter: bool) -> SpatialTransformer:
    channels, heads = layout.block_out_channels[level], layout.num_attention_heads[level]
    return SpatialTransformer(channels, heads, layout.norm_num_groups, layout.use_linear_projection, adapter)


def _convolution(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, channels, 3, stride=stride, padding=1)))
