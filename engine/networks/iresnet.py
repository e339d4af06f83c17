"""iresnet50 (ArcFace, Deng et al. 2019, insightface's arcface_torch): the identity of a face aligned by five points.

Its crop is `arcface_align.arcface_crop`. Not the IR-SE50 of the StyleGAN encoders, which is in ir_se50.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.batch_norm import BatchNorm

CHANNELS = (64, 128, 256, 512)
UNITS = (3, 4, 14, 3)
IMAGE_PX = 112
EMBEDDING = 512


class Block(nn.Module):
    """One residual unit: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(c_out)
        self.prelu = nn.PReLU(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, stride, 1, bias=False)
        self.bn3 = BatchNorm(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), BatchNorm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        out: Tensor = y + self.downsample(x)
        return out


class IResNet50(nn.Module):
    """image (B, 3, 112, 112) RGB in [-1, 1] -> embedding (B, 512) of unit length.

    channels, units: widths and numbers of units of the four stages; (3, 13, 30, 3) units are an iresnet100.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, units: tuple[int, ...] = UNITS) -> None:
        super().__init__()
        c_in = channels[0]
        self.conv1 = nn.Conv2d(3, c_in, 3, 1, 1, bias=False)
        self.bn1 = BatchNorm(c_in)
        self.prelu = nn.PReLU(c_in)
        stages = []
        for c_out, count in zip(channels, units, strict=True):
            first = Block(c_in, c_out, 2)
            stages.append(nn.Sequential(first, *(Block(c_out, c_out, 1) for _ in range(count - 1))))
            c_in = c_out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = BatchNorm(c_in)
        self.fc = nn.Linear(c_in * (IMAGE_PX // 16) ** 2, EMBEDDING)
        self.features = BatchNorm(EMBEDDING)

    def forward(self, image: Tensor) -> Tensor:
        """Embed."""
        x = self.prelu(self.bn1(self.conv1(image)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        x = self.features(self.fc(x.flatten(1)))
        out: Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return out
