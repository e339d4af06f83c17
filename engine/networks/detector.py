"""The face detector: anchor-free scores and boxes at strides 8, 16 and 32 of a luma picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.convolution import Residual, Unit

STRIDES = (8, 16, 32)
CELL_PX = 4


class Detector(nn.Module):
    """luma (1, 1, H, W) in [0, 1], H and W multiples of 32 -> score_s (1, 1, H/s, W/s) in [0, 1] and box_s (1, 4, H/s, W/s).

    A box is the distances left, top, right, bottom from the centre of its cell, in units of the stride s; all are positive.
    """

    inputs = {"luma": (1, 1, "H", "W")}
    outputs = {f"score_{s}": (1, 1, f"H/{s}", f"W/{s}") for s in STRIDES} | {
        f"box_{s}": (1, 4, f"H/{s}", f"W/{s}") for s in STRIDES
    }

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (24, 40, 56, 80),
        depths: tuple[int, int, int] = (2, 2, 2),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(CELL_PX), Unit(CELL_PX**2, a, norm=norm))
        self.stage_8 = nn.Sequential(
            Unit(a, b, stride=2, norm=norm), *(Residual(b, norm=norm) for _ in range(depths[0]))
        )
        self.stage_16 = nn.Sequential(
            Unit(b, c, stride=2, norm=norm), *(Residual(c, norm=norm) for _ in range(depths[1]))
        )
        self.stage_32 = nn.Sequential(
            Unit(c, d, stride=2, norm=norm), *(Residual(d, norm=norm) for _ in range(depths[2]))
        )
        self.to_16 = Unit(d, c, kernel=1, norm=norm, relu=False)
        self.join_16 = Unit(c, c, norm=norm)
        self.to_8 = Unit(c, b, kernel=1, norm=norm, relu=False)
        self.join_8 = Unit(b, b, norm=norm)
        self.heads = nn.ModuleList(nn.Sequential(Unit(n, 40, norm=norm), nn.Conv2d(40, 5, 1)) for n in (b, c, d))
        for head in self.heads.children():
            last = list(head.children())[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.normal_(last.weight, std=0.01)
            with torch.no_grad():
                last.bias.copy_(torch.tensor([-4.0, 0.7, 0.7, 0.7, 0.7]))  # faces are rare; a box reaches two cells

    def maps(self, luma: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Score logits (B, 1, H/s, W/s) and log distances (B, 4, H/s, W/s) for every stride."""
        x8 = self.stage_8(self.stem(luma))
        x16 = self.stage_16(x8)
        x32 = self.stage_32(x16)
        y16 = self.join_16(torch.relu(x16 + nn.functional.interpolate(self.to_16(x32), scale_factor=2.0)))
        y8 = self.join_8(torch.relu(x8 + nn.functional.interpolate(self.to_8(y16), scale_factor=2.0)))
        raw = [head(x) for head, x in zip(self.heads, (y8, y16, x32), strict=True)]
        return [(r[:, :1], r[:, 1:]) for r in raw]

    def forward(self, luma: Tensor) -> tuple[Tensor, ...]:
        """score_8, score_16, score_32, box_8, box_16, box_32."""
        maps = self.maps(luma)
        return tuple(torch.sigmoid(s) for s, _ in maps) + tuple(torch.exp(b.clamp(max=5.0)) for _, b in maps)
