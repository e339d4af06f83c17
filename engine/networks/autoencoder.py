"""The `tiny` autoencoder: pixel-(un)shuffle by 4 at both ends, so that no convolution runs at full resolution; factor 8.

Encoder: RGB (B, 3, S, S) in [-1, 1] -> latents (B, C, S/8, S/8), unit variance. Decoder: the way back, unclamped.
The block is TAESD's (conv, ReLU, conv, skip), the shuffle stem is ESPCN's sub-pixel convolution (Shi et al. 2016).
"""

from __future__ import annotations

from torch import Tensor, nn


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
