"""The `tiny` autoencoder: pixel-(un)shuffle by 4 at both ends, so that no convolution runs at full resolution; factor 8.

Encoder: RGB (B, 3, S, S) in [-1, 1] -> latents (B, C, S/8, S/8), unit variance. Decoder: the way back, unclamped.
DifferenceDecoder: what a change of latents does to a picture that is at hand, in one row where the decoder needs two.
The block is TAESD's (conv, ReLU, conv, skip), the shuffle stem is ESPCN's sub-pixel convolution (Shi et al. 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), then ReLU. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.act(x + self.conv2(self.act(self.conv1(x))))
        return out


class Encoder(nn.Module):
    """RGB (B, 3, S, S) in [-1, 1] -> latents (B, C, S/8, S/8)."""

    def __init__(
        self, latent_channels: int = 8, widths: tuple[int, int] = (32, 64), depths: tuple[int, int] = (1, 2)
    ) -> None:
        super().__init__()
        fine, coarse = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, fine, 3, padding=1), nn.ReLU())
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(depths[0])))
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(depths[1])))
        self.out = nn.Conv2d(coarse, latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        latents: Tensor = self.out(self.coarse(self.down(self.fine(self.stem(image)))))
        return latents


class Decoder(nn.Module):
    """Latents (B, C, S/8, S/8) -> RGB (B, 3, S, S), about [-1, 1], unclamped."""

    def __init__(
        self, latent_channels: int = 8, widths: tuple[int, int] = (32, 64), depths: tuple[int, int] = (2, 3)
    ) -> None:
        super().__init__()
        fine, coarse = widths
        self.stem = nn.Sequential(nn.Conv2d(latent_channels, coarse, 3, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(depths[1])))
        self.up = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(depths[0])))
        self.out = nn.Sequential(nn.Conv2d(fine, 48, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        image: Tensor = self.out(self.fine(self.up(self.coarse(self.stem(latents)))))
        return image


class DifferenceDecoder(nn.Module):
    """Latents source and edited (B, C, S/8, S/8) and the picture behind the source (B, 3, S, S) in [-1, 1] -> what to add to that
    picture (B, 3, S, S).

    It sees the picture's own pixels, which the latents have not, and says what comes and how much of the picture goes. Nothing comes
    where no latent nearby changes by more than LEAST.
    """

    LEAST, WHOLLY = 0.03, 0.09  # changes of a latent from which something, and from which all of the answer counts

    def __init__(
        self, latent_channels: int = 8, widths: tuple[int, int] = (32, 64), depths: tuple[int, int] = (2, 2)
    ) -> None:
        super().__init__()
        fine, coarse = widths
        self.stem = nn.Sequential(nn.Conv2d(2 * latent_channels, coarse, 3, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(depths[1])))
        self.up = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2))
        self.picture = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(3 * 16, fine, 3, padding=1))
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(depths[0])))
        last = nn.Conv2d(fine, 4 * 16, 3, padding=1)  # a share beside the three colours
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out = nn.Sequential(last, nn.PixelShuffle(4))

    def forward(self, source: Tensor, edited: Tensor, image: Tensor) -> Tensor:
        """Answer the difference."""
        change = edited - source
        seen = self.up(self.coarse(self.stem(torch.cat([source, change], 1)))) + self.picture(image)
        drawn = self.out(self.fine(seen))
        touched = F.max_pool2d(change.abs().amax(1, keepdim=True), 5, 1, 2)
        share = ((touched - self.LEAST) / (self.WHOLLY - self.LEAST)).clamp(0, 1)
        share = F.interpolate(share, scale_factor=8.0, mode="bilinear", align_corners=False)
        out: Tensor = share * (drawn[:, :3] - drawn[:, 3:] * image)
        return out
