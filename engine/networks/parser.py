"""The face parser: background, face, hair, body probabilities of a 128 px aligned crop; what covers the face is not face."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.pyramid import CELL_PX, OUT_CHANNELS, Pyramid

CLASSES = ("background", "face", "hair", "body")
INPUT_PX = 128


class Parser(Pyramid):
    """image (B, 3, 128, 128) RGB in [-1, 1] -> probabilities (B, 4, 128, 128) of CLASSES, summing to 1."""

    inputs = {"image": ("B", 3, INPUT_PX, INPUT_PX)}
    outputs = {"probabilities": ("B", len(CLASSES), INPUT_PX, INPUT_PX)}

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 56, 80),
        depths: tuple[int, int, int] = (0, 2, 2),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__(widths, depths, norm=norm)
        self.whole = nn.Conv2d(widths[2], widths[2], 1)
        self.head = nn.Sequential(nn.Conv2d(OUT_CHANNELS, len(CLASSES) * CELL_PX**2, 1), nn.PixelShuffle(CELL_PX))

    def logits(self, image: Tensor) -> Tensor:
        """Class logits (B, 4, 128, 128)."""
        fine, middle, coarse = self.down(image)
        coarse = torch.relu(coarse + self.whole(coarse.mean((2, 3), keepdim=True)))
        out: Tensor = self.head(self.up(fine, middle, coarse))
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Class probabilities (B, 4, 128, 128)."""
        # softmax over so few classes is three times faster written out than ONNX Runtime's own along a middle axis
        weight = torch.exp(self.logits(image).clamp(-20.0, 20.0))
        return weight / weight.sum(1, keepdim=True)
