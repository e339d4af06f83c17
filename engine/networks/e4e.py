"""e4e, Encoder for Editing (Tov et al. 2021): a face becomes 18 style vectors of StyleGAN2's W+ space; `e4e_ffhq_encode.pt`.

The W+ Adapter reads these codes. It was trained on faces whose background is white (+1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.ir_se50 import CHANNELS, UNITS, input_layer, ir_se_body

N_STYLES, STYLE_DIM = 18, 512
MIDDLE, FINE = 3, 7  # the first style of the middle and of the fine features
_STRIDES = (4, 5, 6)  # halvings from the coarse, middle and fine features down to one pixel, for a 256 px image


class EqualLinear(nn.Module):
    """StyleGAN2's linear layer, its weight scaled by 1 / sqrt(c_in) as it is used: (B, c_in) -> (B, c_out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.scale = 1.0 / math.sqrt(c_in)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return F.linear(x, self.weight * self.scale, self.bias)


class StyleBlock(nn.Module):
    """A feature map halved `halvings` times to one pixel: (B, C, 2^n, 2^n) -> style (B, style_dim)."""

    def __init__(self, channels: int, style_dim: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(halvings):
            layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(channels, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        """The style."""
        style: Tensor = self.linear(self.convs(x).flatten(1))
        return style


class E4e(nn.Module):
    """image (B, 3, 256, 256) RGB in [-1, 1], FFHQ-aligned -> w_plus (B, 18, 512), the mean code added.

    channels, units: widths (multiples of 16) and numbers of units of the body's four stages; the style blocks are as
    wide as the last. style_dim: of a style.
    """

    def __init__(
        self, channels: tuple[int, ...] = CHANNELS, style_dim: int = STYLE_DIM, units: tuple[int, ...] = UNITS
    ) -> None:
        super().__init__()
        self.units = units
        wide = channels[3]
        self.input_layer = input_layer(channels[0])
        self.body = ir_se_body(channels, units)
        levels = [0] * MIDDLE + [1] * (FINE - MIDDLE) + [2] * (N_STYLES - FINE)
        self.styles = nn.ModuleList(StyleBlock(wide, style_dim, _STRIDES[level]) for level in levels)
        self.latlayer1 = nn.Conv2d(channels[2], wide, 1)
        self.latlayer2 = nn.Conv2d(channels[1], wide, 1)
        self.register_buffer("latent_avg", torch.zeros(N_STYLES, style_dim))
        self.latent_avg: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        coarse, middle, fine = self.features(image)
        base = self.styles[0](coarse)
        rows = [base]
        for k in range(1, N_STYLES):
            rows.append(base + self.styles[k](coarse if k < MIDDLE else middle if k < FINE else fine))
        return torch.stack(rows, 1) + self.latent_avg

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pyramid's levels of 16, 32 and 64 pixels, (B, C, n, n) each."""
        x = self.input_layer(image)
        taps, end = [], 0
        for count in self.units:
            x = self.body[end : end + count](x)
            end += count
            taps.append(x)
        _, c1, c2, c3 = taps
        middle = _enlarged(c3, c2) + self.latlayer1(c2)
        return c3, middle, _enlarged(middle, c1) + self.latlayer2(c1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
