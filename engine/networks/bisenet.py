"""BiSeNet v1 (Yu et al. 2018) as trained on CelebAMask-HQ by zllrunning, `79999_iter.pth`, and mien's parser made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.errors import ShapeError
from mien.engine.networks.batch_norm import BatchNorm

CLASSES = (
    *("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r"),
    *("nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
)
# mien's face is the oval of the face with what belongs to it; ears and neck are body, as in the tiny bundle, whose region
# `complexion` looks for them there. A hat is body: it is worn, and must not be recoloured with the hair.
MERGED = {
    "background": ("background",),
    "face": ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip"),
    "hair": ("hair",),
    "body": ("l_ear", "r_ear", "ear_r", "neck", "neck_l", "cloth", "hat"),
}
WORK_PX = 512
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvBnRelu(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2, bias=False)
        self.bn = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return torch.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet-18's unit: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), BatchNorm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """(B, 3, H, W) -> features at 1/8, 1/16 and 1/32."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 7, 2, 3, bias=False)
        self.bn1 = BatchNorm(channels[0])
        c_in, stages = channels[0], []
        for k, c_out in enumerate(channels):
            stages.append(nn.Sequential(BasicBlock(c_in, c_out, 2 if k else 1), BasicBlock(c_out, c_out, 1)))
            c_in = c_out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three feature maps."""
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W), channels weighed by their means."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(c_in, c_out)
        self.conv_atten = nn.Conv2d(c_out, c_out, 1, bias=False)
        self.bn_atten = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module."""
        y: Tensor = self.conv(x)
        return y * torch.sigmoid(self.bn_atten(self.conv_atten(y.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """(B, 3, H, W) -> ResNet features and context features, both at 1/8."""

    def __init__(self, channels: tuple[int, ...], context: int) -> None:
        super().__init__()
        self.resnet = ResNet18(channels)
        self.arm16 = AttentionRefinement(channels[2], context)
        self.arm32 = AttentionRefinement(channels[3], context)
        self.conv_head32 = ConvBnRelu(context, context)
        self.conv_head16 = ConvBnRelu(context, context)
        self.conv_avg = ConvBnRelu(channels[3], context, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two feature maps."""
        eighth, sixteenth, last = self.resnet(x)
        whole = self.conv_avg(last.mean((2, 3), keepdim=True))
        coarse = self.conv_head32(F.interpolate(self.arm32(last) + whole, size=sixteenth.shape[2:], mode="nearest"))
        fine = self.arm16(sixteenth) + coarse
        return eighth, self.conv_head16(F.interpolate(fine, size=eighth.shape[2:], mode="nearest"))


class FeatureFusion(nn.Module):
    """Two feature maps (B, *, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvBnRelu(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Fuse."""
        y: Tensor = self.convblk(torch.cat([spatial, context], 1))
        return y + y * torch.sigmoid(self.conv2(torch.relu(self.conv1(y.mean((2, 3), keepdim=True)))))


class OutputHead(nn.Module):
    """(B, C, H, W) -> class logits (B, 19, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(channels, channels)
        self.conv_out = nn.Conv2d(channels, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        y: Tensor = self.conv_out(self.conv(x))
        return y


class BiSeNet(nn.Module):
    """image (B, 3, 512, 512) RGB, ImageNet-normalised -> probabilities (B, 19, 512, 512) of CLASSES.

    channels: widths of ResNet-18's stages. context: width of the context path.
    """

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256, 512), context: int = 128) -> None:
        super().__init__()
        self.cp = ContextPath(channels, context)
        self.ffm = FeatureFusion(channels[1] + context)
        self.conv_out = OutputHead(channels[1] + context)

    def logits(self, image: Tensor) -> Tensor:
        """Class logits (B, 19, H, W)."""
        coarse = self.conv_out(self.ffm(*self.cp(image)))
        return F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=True)

    def forward(self, image: Tensor) -> Tensor:
        """Class probabilities."""
        return torch.softmax(self.logits(image), 1)


class FaceParser(BiSeNet):
    """image (B, 3, P, P) RGB in [-1, 1] -> probabilities (B, 4, P, P) of background, face, hair, body, summing to 1.

    work_px: the size at which BiSeNet sees the crop, a multiple of 32 and of P.
    """

    def __init__(
        self, channels: tuple[int, ...] = (64, 128, 256, 512), context: int = 128, work_px: int = WORK_PX
    ) -> None:
        super().__init__(channels, context)
        self.work_px = work_px
        merge = torch.tensor([[float(name in names) for name in CLASSES] for names in MERGED.values()])
        self.register_buffer("merge", merge, persistent=False)
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.merge: Tensor
        self.image_mean: Tensor
        self.image_std: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Merged probabilities at the crop's own size."""
        size = image.shape[-1]
        if self.work_px % size or self.work_px % 32:
            raise ShapeError(
                f"the face parser works at {self.work_px} px, which must be a multiple of 32 and of {size}"
            )
        large = F.interpolate(image, size=(self.work_px, self.work_px), mode="bilinear", align_corners=False)
        every = super().forward(((large + 1.0) / 2.0 - self.image_mean) / self.image_std)
        merged = (self.merge @ every.flatten(2)).unflatten(2, (self.work_px, self.work_px))
        return F.avg_pool2d(merged, self.work_px // size)
