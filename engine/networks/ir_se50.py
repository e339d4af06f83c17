"""IR-SE50 (InsightFace_Pytorch): the body that the e4e encoder shares, and the ArcFace identity network `model_ir_se50.pth`.

Residual units of Deng et al. 2019 ("improved residual") with squeeze and excitation (Hu et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.batch_norm import BatchNorm

UNITS = (3, 4, 14, 3)
CHANNELS = (64, 128, 256, 512)
IMAGE_PX = 256
EMBEDDING = 512

FACE_ROWS, FACE_COLUMNS = slice(35, 223), slice(32, 220)  # of the FFHQ crop at 256 px: no alignment by points
FACE_PX, POOLED_PX = 188, 112


class SqueezeExcite(nn.Module):
    """Gain per channel from the mean of all: (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels."""
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class BottleneckIrSe(nn.Module):
    """One unit: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if c_in != c_out:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), BatchNorm(c_out))
        self.res_layer = nn.Sequential(
            BatchNorm(c_in),
            nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False),
            nn.PReLU(c_out),
            nn.Conv2d(c_out, c_out, 3, stride, 1, bias=False),
            BatchNorm(c_out),
            SqueezeExcite(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


def input_layer(channels: int) -> nn.Sequential:
    """(B, 3, H, W) -> (B, C, H, W)."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1, bias=False), BatchNorm(channels), nn.PReLU(channels))


def ir_se_body(channels: tuple[int, ...], units: tuple[int, ...]) -> nn.Sequential:
    """All units of all stages in one row, each stage's first at stride 2."""
    made, c_in = [], channels[0]
    for c_out, count in zip(channels, units, strict=True):
        for k in range(count):
            made.append(BottleneckIrSe(c_in, c_out, 2 if k == 0 else 1))
            c_in = c_out
    return nn.Sequential(*made)


def pooling_matrix(source: int, target: int) -> Tensor:
    """(target, source): adaptive average pooling along one axis; cell i averages [floor(i s / t), ceil((i + 1) s / t))."""
    cell = torch.arange(target)[:, None]
    at = torch.arange(source)[None, :]
    inside = (at >= cell * source // target) & (at < -(-(cell + 1) * source // target))
    return inside.float() / inside.sum(1, keepdim=True)


class IrSe50(nn.Module):
    """image (B, 3, 256, 256) RGB in [-1, 1], FFHQ-aligned -> embedding (B, 512) of unit length.

    channels, units: widths (multiples of 16) and numbers of units of the four stages.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, units: tuple[int, ...] = UNITS) -> None:
        super().__init__()
        self.input_layer = input_layer(channels[0])
        self.body = ir_se_body(channels, units)
        self.output_layer = nn.Sequential(
            BatchNorm(channels[-1]),
            nn.Identity(),  # a dropout while training; the numbers of the parameters count it
            nn.Flatten(),
            nn.Linear(channels[-1] * (POOLED_PX // 16) ** 2, EMBEDDING),
            BatchNorm(EMBEDDING),
        )
        self.register_buffer("pool", pooling_matrix(FACE_PX, POOLED_PX), persistent=False)
        self.pool: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Embed the inner face."""
        # written as products: ONNX has no adaptive pooling to a size that does not divide
        face = self.pool @ image[:, :, FACE_ROWS, FACE_COLUMNS] @ self.pool.T
        x: Tensor = self.output_layer(self.body(self.input_layer(face)))
        length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x / length
