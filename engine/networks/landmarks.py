"""The landmark network: 68 points and presence from a 128 px face crop, by soft-argmax over quarter-resolution heat maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.pyramid import CELL_PX, OUT_CHANNELS, Pyramid

N_LANDMARKS = 68
INPUT_PX = 128


class Landmarks(Pyramid):
    """image (B, 3, 128, 128) RGB in [-1, 1] -> landmarks (B, 68, 2) x, y in crop pixels, presence (B, 1) in [0, 1]."""

    inputs = {"image": ("B", 3, INPUT_PX, INPUT_PX)}
    outputs = {"landmarks": ("B", N_LANDMARKS, 2), "presence": ("B", 1)}

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        depths: tuple[int, int, int] = (0, 2, 2),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__(widths, depths, norm=norm)
        self.heat = nn.Conv2d(OUT_CHANNELS, N_LANDMARKS, 1)
        self.believe = nn.Sequential(nn.Linear(widths[2], 32), nn.ReLU(), nn.Linear(32, 1))
        cells = INPUT_PX // CELL_PX
        centre = (torch.arange(cells, dtype=torch.float32) + 0.5) * CELL_PX - 0.5
        grid = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).reshape(cells * cells, 2)
        self.register_buffer("grid", grid, persistent=False)
        self.grid: Tensor

    def heat_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Heat-map logits (B, 68, 32 * 32) in rows of cells, and presence logits (B, 1)."""
        fine, middle, coarse = self.down(image)
        y = self.up(fine, middle, coarse)
        return self.heat(y).flatten(2), self.believe(coarse.mean((2, 3)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, 68, 2) and presence (B, 1)."""
        heat, logit = self.heat_logits(image)
        return torch.softmax(heat, -1) @ self.grid, torch.sigmoid(logit)
