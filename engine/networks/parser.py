"""The face parser: background, face, hair, body probabilities of a 128 px aligned crop; what covers the face is not face."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.convolution import Residual, Unit

CLASSES = ("background", "face", "hair", "body")
INPUT_PX = 128
CELL_PX = 4


class Parser(nn.Module):
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
        self.whole = nn.Conv2d(c, c, 1)
        self.from_coarse = Unit(c, b, kernel=1, norm=norm, relu=False)
        self.join_middle = Unit(b, b, norm=norm)
        self.from_middle = Unit(b, a, kernel=1, norm=norm, relu=False)
        self.join_fine = Unit(a, 48, norm=norm)
        self.head = nn.Sequential(nn.Conv2d(48, len(CLASSES) * CELL_PX**2, 1), nn.PixelShuffle(CELL_PX))

    def logits(self, image: Tensor) -> Tensor:
        """Class logits (B, 4, 128, 128)."""
        fine = self.fine(self.stem(image))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        coarse = torch.relu(coarse + self.whole(coarse.mean((2, 3), keepdim=True)))
        y = self.join_middle(torch.relu(middle + nn.functional.interpolate(self.from_coarse(coarse), scale_factor=2.0)))
        y = self.join_fine(torch.relu(fine + nn.functional.interpolate(self.from_middle(y), scale_factor=2.0)))
        out: Tensor = self.head(y)
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Class probabilities (B, 4, 128, 128)."""
        # softmax over so few classes is three times faster written out than ONNX Runtime's own along a middle axis
        weight = torch.exp(self.logits(image).clamp(-20.0, 20.0))
        return weight / weight.sum(1, keepdim=True)
