"""68 landmarks by MobileNetV2 (Sandler et al. 2018) with a global depthwise convolution: cunjian/pytorch_face_landmark,
`mobilenet_224_model_best_gdconv_external.pth.tar`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mien.engine.networks.batch_norm import BatchNorm
from mien.engine.networks.landmark_view import N_LANDMARKS, crop_landmarks, face_view

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The stem, the seven stages and the last 1x1 convolution.
WIDTHS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
REPEATS, STRIDES = (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 2, 1, 2, 1)


def conv_bn_relu6(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm(c_out), nn.ReLU6())


class InvertedResidual(nn.Module):
    """MobileNetV2's unit: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        layers: list[nn.Module] = [] if expand == 1 else [conv_bn_relu6(c_in, hidden, 1)]
        layers += [conv_bn_relu6(hidden, hidden, 3, stride, hidden)]
        layers += [nn.Conv2d(hidden, c_out, 1, bias=False), BatchNorm(c_out)]
        self.conv = nn.Sequential(*layers)
        self.skips = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.conv(x)
        return x + y if self.skips else y


class LinearBlock(nn.Module):
    """A convolution and its norm, nothing after it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, groups=groups, bias=False)
        self.bn = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.bn(self.conv(x))
        return y


class MobileNetGdConv(nn.Module):
    """The published network: image (B, 3, 224, 224), ImageNet-normalised -> (B, 136), x and y in turns, shares of the image.

    widths: the stem, the seven stages, the last convolution. input_px: 224, or 56 for the variant of that size.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, input_px: int = 224) -> None:
        super().__init__()
        c_in, last = widths[0], widths[-1]
        layers: list[nn.Module] = [conv_bn_relu6(3, c_in, 3, 2)]
        for k, (c_out, count, stride) in enumerate(zip(widths[1:-1], REPEATS, STRIDES, strict=True)):
            for unit in range(count):
                layers.append(InvertedResidual(c_in, c_out, stride if unit == 0 else 1, 6 if k else 1))
                c_in = c_out
        layers.append(conv_bn_relu6(c_in, last, 1))
        self.base_net = nn.Sequential(nn.Sequential(*layers))
        self.linear7 = LinearBlock(last, last, math.ceil(input_px / 32), last)
        self.linear1 = LinearBlock(last, 2 * N_LANDMARKS, 1)
        self.input_px = input_px

    def shares(self, image: Tensor) -> Tensor:
        """The published forward pass."""
        y: Tensor = self.linear1(self.linear7(self.base_net(image)))
        return y.flatten(1)

    def forward(self, image: Tensor) -> Tensor:
        """The 136 numbers."""
        return self.shares(image)


class MobileNetLandmarks(MobileNetGdConv):
    """image (B, 3, P, P) RGB in [-1, 1] -> landmarks (B, 68, 2) x, y in crop pixels, presence (B, 1), see landmark_view.

    rgb: feed RGB, as Diffusion Video Autoencoders do; the authors fed BGR, normalised in that order.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, input_px: int = 224, rgb: bool = False) -> None:
        super().__init__(widths, input_px)
        self.rgb = rgb
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.image_mean: Tensor
        self.image_std: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Landmarks and presence."""
        seen = (face_view(image, self.input_px, rgb=self.rgb) - self.image_mean) / self.image_std
        return crop_landmarks(self.shares(seen), image.shape[-1])
