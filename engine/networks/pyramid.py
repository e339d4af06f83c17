"""The trunk that the landmark network and the face parser share: three resolutions down, and back up to the finest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.convolution import Residual, Unit

CELL_PX = 4
OUT_CHANNELS = 48


class Pyramid(nn.Module):
    """`down`: a picture (B, 3, H, W) -> features at 1/4, 1/8 and 1/16 of it; `up`: those -> (B, OUT_CHANNELS, H/4, W/4)."""

    def __init__(self, widths: tuple[int, int, int], depths: tuple[int, int, int], *, norm: bool) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(CELL_PX), Unit(3 * CELL_PX**2, a, norm=norm), Unit(a, a, norm=norm))
        self.fine = nn.Sequential(*(Residual(a, norm=norm) for _ in range(depths[0])))
        self.middle = nn.Sequential(
            Unit(a, b, stride=2, norm=norm), *(Residual(b, norm=norm) for _ in range(depths[1]))
        )
        self.coarse = nn.Sequential(
            Unit(b, c, stride=2, norm=norm), *(Residual(c, norm=norm) for _ in range(depths[2]))
        )
        self.from_coarse = Unit(c, b, kernel=1, norm=norm, relu=False)
        self.join_middle = Unit(b, b, norm=norm)
        self.from_middle = Unit(b, a, kernel=1, norm=norm, relu=False)
        self.join_fine = Unit(a, OUT_CHANNELS, norm=norm)

    def down(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of every level, the finest first."""
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    def up(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """The finest level, told what the coarser ones know."""
        y = self.join_middle(torch.relu(middle + nn.functional.interpolate(self.from_coarse(coarse), scale_factor=2.0)))
        out: Tensor = self.join_fine(
            torch.relu(fine + nn.functional.interpolate(self.from_middle(y), scale_factor=2.0))
        )
        return out
