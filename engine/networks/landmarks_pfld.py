"""68 landmarks by PFLD (Guo et al. 2019) in cunjian/pytorch_face_landmark's form, `pfld_model_best.pth.tar`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.batch_norm import BatchNorm
from mien.engine.networks.landmark_view import N_LANDMARKS, crop_landmarks, face_view

INPUT_PX = 112
# The stem and first stage, the second stage, and the three scales that the last layer reads.
WIDTHS = (64, 128, 16, 32, 128)


class InvertedResidual(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride); always expands, by 1 too."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int, *, skips: bool) -> None:
        super().__init__()
        hidden = c_in * expand
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, hidden, 1, bias=False),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            BatchNorm(c_out),
        )
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.conv(x)
        return x + y if self.skips else y


class Pfld(nn.Module):
    """The published network: image (B, 3, 112, 112) in [0, 1] -> (B, 136), x and y in turns, shares of the image."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.conv1 = nn.Conv2d(3, a, 3, 2, 1, bias=False)
        self.bn1 = BatchNorm(a)
        self.dw_pool = nn.Conv2d(a, a, 3, 1, 1, groups=a, bias=False)
        self.dw_bn = BatchNorm(a)
        self.conv1_extra = nn.Conv2d(a, a, 1, bias=False)
        self.conv3_1 = InvertedResidual(a, a, 2, 1, skips=False)
        self.block3_2, self.block3_3, self.block3_4, self.block3_5 = (
            InvertedResidual(a, a, 1, 1, skips=True) for _ in range(4)
        )
        self.conv4_1 = InvertedResidual(a, b, 2, 1, skips=False)
        self.conv5_1 = InvertedResidual(b, b, 1, 2, skips=False)
        self.block5_2, self.block5_3, self.block5_4, self.block5_5, self.block5_6 = (
            InvertedResidual(b, b, 1, 2, skips=True) for _ in range(5)
        )
        self.conv6_1 = InvertedResidual(b, c, 1, 1, skips=False)
        self.conv7 = nn.Sequential(nn.Conv2d(c, d, 3, 2, 1, bias=False), BatchNorm(d), nn.ReLU())
        self.conv8 = nn.Conv2d(d, e, INPUT_PX // 16)
        self.fc = nn.Linear(c + d + e, 2 * N_LANDMARKS)

    def shares(self, image: Tensor) -> Tensor:
        """The published forward pass."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.conv1_extra(self.dw_bn(self.dw_pool(x))))
        x = self.block3_5(self.block3_4(self.block3_3(self.block3_2(self.conv3_1(x)))))
        x = self.block5_3(self.block5_2(self.conv5_1(self.conv4_1(x))))
        fine = self.conv6_1(self.block5_6(self.block5_5(self.block5_4(x))))
        middle = self.conv7(fine)
        coarse = torch.relu(self.conv8(middle))
        scales = [F.avg_pool2d(fine, INPUT_PX // 8), F.avg_pool2d(middle, INPUT_PX // 16), coarse]
        y: Tensor = self.fc(torch.cat(scales, 1).flatten(1))
        return y

    def forward(self, image: Tensor) -> Tensor:
        """The 136 numbers."""
        return self.shares(image)


class PfldLandmarks(Pfld):
    """image (B, 3, P, P) RGB in [-1, 1] -> landmarks (B, 68, 2) x, y in crop pixels, presence (B, 1), see landmark_view."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Landmarks and presence."""
        return crop_landmarks(self.shares(face_view(image, INPUT_PX, rgb=False)), image.shape[-1])
