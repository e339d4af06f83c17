"""68 landmarks by MobileFaceNet (Chen et al. 2018) in cunjian/pytorch_face_landmark's form,
`mobilefacenet_model_best.pth.tar`.
"""

from __future__ import annotations

from torch import Tensor, nn

from mien.engine.networks.batch_norm import BatchNorm
from mien.engine.networks.landmark_view import N_LANDMARKS, crop_landmarks, face_view

INPUT_PX = 112
# The first and second half's width, and the last 1x1 convolution's.
WIDTHS = (64, 128, 512)


class LinearBlock(nn.Module):
    """A convolution and its norm: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.bn(self.conv(x))
        return y


class ConvBlock(LinearBlock):
    """A LinearBlock and a PReLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding, groups)
        self.prelu = nn.PReLU(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.prelu(super().forward(x))
        return y


class DepthWise(nn.Module):
    """Widen, filter each channel, narrow: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvBlock(c_in, hidden)
        self.conv_dw = ConvBlock(hidden, hidden, 3, stride, 1, hidden)
        self.project = LinearBlock(hidden, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return y


class Residual(nn.Module):
    """Units with a skip each: (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int, hidden: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, hidden, 1) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the units."""
        for unit in self.model:
            x = x + unit(x)
        return x


class GlobalDepthWise(nn.Module):
    """(B, C, 7, 7) -> (B, 136)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_6_dw = LinearBlock(channels, channels, INPUT_PX // 16, groups=channels)
        self.linear = nn.Linear(channels, 2 * N_LANDMARKS, bias=False)
        self.bn = BatchNorm(2 * N_LANDMARKS)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the head."""
        y: Tensor = self.bn(self.linear(self.conv_6_dw(x).flatten(1)))
        return y


class MobileFaceNet(nn.Module):
    """The published network: image (B, 3, 112, 112) in [0, 1] -> (B, 136), x and y in turns, shares of the image."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        a, b, last = widths
        self.conv1 = ConvBlock(3, a, 3, 2, 1)
        self.conv2_dw = ConvBlock(a, a, 3, 1, 1, a)
        self.conv_23 = DepthWise(a, a, 2 * a, 2)
        self.conv_3 = Residual(a, 2 * a, 4)
        self.conv_34 = DepthWise(a, b, 4 * a, 2)
        self.conv_4 = Residual(b, 2 * b, 6)
        self.conv_45 = DepthWise(b, b, 4 * b, 2)
        self.conv_5 = Residual(b, 2 * b, 2)
        self.conv_6_sep = ConvBlock(b, last)
        self.output_layer = GlobalDepthWise(last)

    def shares(self, image: Tensor) -> Tensor:
        """The published forward pass."""
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(image))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        y: Tensor = self.output_layer(self.conv_6_sep(x))
        return y

    def forward(self, image: Tensor) -> Tensor:
        """The 136 numbers."""
        return self.shares(image)


class MobileFaceNetLandmarks(MobileFaceNet):
    """image (B, 3, P, P) RGB in [-1, 1] -> landmarks (B, 68, 2) x, y in crop pixels, presence (B, 1), see landmark_view."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Landmarks and presence."""
        return crop_landmarks(self.shares(face_view(image, INPUT_PX, rgb=False)), image.shape[-1])
